"""Samples: completions by the model's own argmax, draws that repeat, texts in a run."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_language import (
    SIZE,
    Letters,
    build,
    experiment,
    language_modeling,
    pairs,
    pipeline,
    seq2seq,
)

from nlp.decoding import Rules
from training import config as configs
from training.errors import RunError
from training.evaluation import evaluate
from training.loop import train

NODE = dict(
    type="nlp.evaluators.samples.Samples",
    prompts=("the cat", "a", "zebra ends"),
    max_length=12,
)
PAIRS = (("two dogs", "zwei A"), ("", "nichts"), ("a cat", "die B"))
TRIPLES = dict(
    type="nlp.evaluators.samples.TranslationSamples",
    source_field="en",
    reference_field="de",
    data=pairs(PAIRS),
    max_length=20,
    count=2,
)


@functools.cache
def model_run(mesh=1):
    data = pipeline(dict(type="toy_language.Lines", texts=("abc",)))
    run = build(language_modeling(), data, mesh=mesh)
    rng = np.random.default_rng(0)
    draw = lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype)
    state = run.init()
    state = dataclasses.replace(state, params=jax.tree.map(draw, state.params))
    return run, jax.device_put(state, run.shardings)


def write(mesh=1, **options):
    return configs.build({**NODE, **options})(*model_run(mesh))


def completions(report):
    lines = report.texts["samples"].replace("\n" + " " * 11, "\\n").split("\n")
    return [line[11:] for line in lines if line.startswith("text")]


def argmax_by_hand(prompt, length, bos=False):
    run, state = model_run()
    apply = jax.jit(run.experiment.task.model.apply)
    ids = [Letters.bos_id] * bos + Letters().encode(prompt)
    for _ in range(length):
        row = np.zeros((1, 64), np.int32)  # one shape: the model is causal
        row[0, : len(ids)] = ids
        logits = np.array(apply({"params": state.params}, row)[0, len(ids) - 1])
        logits[[0, 1, 3, 4]] = -np.inf  # of the special ones only the end is written
        ids.append(int(logits.argmax()))
        if ids[-1] == Letters.eos_id:
            break
    return Letters().decode(ids).replace("\n", "\\n")


@pytest.mark.parametrize("bos", [False, True])
def test_greedy_completions_are_the_models_argmax_for_prompts_of_any_length(bos):
    report = write(temperature=0.0, bos=bos)
    expected = [argmax_by_hand(p, NODE["max_length"], bos) for p in NODE["prompts"]]
    assert completions(report) == [text.rstrip() for text in expected]
    assert report.metrics == {}
    picture = report.pictures["samples"]
    assert picture.dtype == np.uint8 and picture.std() > 10


def test_draws_are_functions_of_the_seed_whatever_the_devices():
    options = dict(samples=3, top_k=20, temperature=5.0)
    first = write(**options)
    assert len(completions(first)) == 9 and len(set(completions(first)[:3])) > 1
    for text, prompt in zip(completions(first)[::3], NODE["prompts"], strict=True):
        assert text.startswith(prompt)
    assert write(**options).texts == first.texts
    assert write(**options, mesh=4).texts == first.texts
    assert write(**options, seed=1).texts != first.texts


def test_nothing_is_written_that_the_tokenizer_does_not_know():
    rules = Rules.of_text(Letters(), 9, vocab_size=SIZE + 3)
    assert rules.forbidden == (0, 1, 3, 4, SIZE, SIZE + 1, SIZE + 2)
    assert (rules.eos_id, rules.pad_id, rules.max_length) == (2, 0, 9)


def test_no_more_is_written_than_the_model_has_positions_for():
    prompt = "b" * 60
    (text,) = completions(write(prompts=(prompt,), max_length=99, temperature=0.0))
    # Five tokens for four places: the last is never read.
    assert text == argmax_by_hand(prompt, 5) and len(text) == 65


def test_an_empty_prompt_begins_with_bos():
    text = completions(write(prompts=("",), temperature=0.0))
    assert text == [argmax_by_hand("", NODE["max_length"], bos=True).rstrip()]


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(prompts="the cat"), "prompts is 'the cat'; give a list of texts"),
        (dict(prompts=()), "give a list of texts"),
        (dict(samples=0), "samples is 0; it must be positive"),
        (dict(temperature=-1.0), "temperature"),
        (
            dict(prompts=("a" * 65,)),
            "a prompt of 65 tokens for a model with max_length=64",
        ),
        (dict(prompts=("QQ",)), "prompt 'QQ': no letter 'Q'"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises((ValueError, RunError), match=message):
        write(**options)


@pytest.fixture(scope="module")
def copier():
    run = build(seq2seq(), pairs(PAIRS))
    return run, run.init()


def test_translations_of_the_first_sentences(copier):
    report = configs.build(TRIPLES)(*copier)
    assert report.metrics == {} and report.skipped == 0
    assert report.texts["translations"].split("\n") == [
        "source     two dogs",
        "reference  zwei A",
        "model      two dogs",
        "",
        "source",
        "reference  nichts",
        "model",
        "",
    ]
    assert report.pictures["translations"].std() > 10


def test_a_run_keeps_its_texts_and_evaluating_it_writes_them_again(tmp_path):
    config = experiment(
        seq2seq(), pairs(PAIRS), dict(type="toy_language.Saying", text="größer\n"), -1
    )
    assert train(config, tmp_path / "run") == 0
    assert evaluate(tmp_path / "run", pictures=tmp_path / "shown") == {}
    for folder in (tmp_path / "run" / "texts", tmp_path / "shown"):
        assert (folder / "test_said_00000001.txt").read_text() == "größer\n"
