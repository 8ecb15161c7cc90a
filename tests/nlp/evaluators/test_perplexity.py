"""Sliding perplexity against the model asked token by token."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_language import Letters, build, language_modeling, pipeline

from nlp.evaluators.perplexity import windows
from training import config as configs
from training.errors import RunError

TEXTS = ("the cat sat on the mat.\n", "a dog äbel", "zzz ß end.")
NODE = dict(
    type="nlp.evaluators.perplexity.SlidingPerplexity",
    source=dict(type="toy_language.Lines", texts=TEXTS),
    context=8,
    batch_size=3,
)


@functools.cache
def model_run(mesh=1):
    data = pipeline(NODE["source"])
    run = build(language_modeling(), data, mesh=mesh)
    rng = np.random.default_rng(0)  # not zero anywhere, so that tokens differ
    draw = lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype)
    state = run.init()
    state = dataclasses.replace(state, params=jax.tree.map(draw, state.params))
    return run, jax.device_put(state, run.shardings)


def evaluate(mesh=1, **options):
    return configs.build({**NODE, **options})(*model_run(mesh)).metrics


def brute_force(ids, context, stride):
    """Nats of every token but the first, each by a forward pass of its own."""
    run, state = model_run()
    apply = jax.jit(run.experiment.task.model.apply)
    found = []
    for i in range(1, len(ids)):
        # Ends of windows: context + 1, then every `stride` tokens; the last is the text's.
        late = math.ceil(max(0, i - context) / stride) * stride
        stop = min(len(ids), context + 1 + late)
        start = max(0, stop - 1 - context)
        assert late == 0 or i - start >= context - stride
        before = np.zeros((1, context), np.int32)
        before[0, : i - start] = ids[start:i]
        logits = apply({"params": state.params}, before)[0, i - start - 1]
        found.append(-float(jax.nn.log_softmax(logits)[ids[i]]))
    return found


@pytest.mark.parametrize("stride", [1, 3, 8])
@pytest.mark.parametrize("bos", [False, True])
def test_it_is_that_of_the_model_asked_token_by_token(stride, bos):
    text = "".join(TEXTS)
    ids = [Letters.bos_id] * bos + Letters().encode(text)
    found = evaluate(stride=stride, bos=bos)
    total = sum(brute_force(ids, 8, stride))
    count = len(ids) - 1
    assert found["tokens"] == count == len(text) - (not bos)
    assert found["loss"] == pytest.approx(total / count, rel=1e-6)
    assert found["perplexity"] == pytest.approx(math.exp(total / count), rel=1e-5)
    bits = total / math.log(2)
    assert found["bits_per_character"] == pytest.approx(bits / count, rel=1e-6)
    characters = len(text.encode()) - (not bos)
    assert characters > count, "some letters have two bytes"
    assert found["bits_per_byte"] == pytest.approx(bits / characters, rel=1e-6)


def test_stride_one_gives_every_token_the_whole_context():
    ids = Letters().encode("".join(TEXTS))
    run, state = model_run()
    rows = np.stack([ids[i - 8 : i] for i in range(8, len(ids))]).astype(np.int32)
    logits = run.experiment.task.model.apply({"params": state.params}, rows)[:, -1]
    losses = -jax.nn.log_softmax(logits)[np.arange(len(rows)), np.array(ids[8:])]
    head = brute_force(ids[:8], 8, 1)
    expected = (float(losses.sum()) + sum(head)) / (len(ids) - 1)
    assert evaluate(stride=1)["loss"] == pytest.approx(expected, rel=1e-6)


def test_devices_and_batches_change_nothing():
    expected = evaluate(stride=3)
    for options in (dict(mesh=4), dict(batch_size=50), dict(batch_size=1)):
        other = evaluate(stride=3, **options)
        for name, value in expected.items():
            assert other[name] == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("length", [2, 5, 9, 10, 23])
@pytest.mark.parametrize("stride", [1, 2, 4])
def test_every_token_is_scored_once_with_enough_before_it(length, stride):
    scored = []
    for start, first, stop in windows(length, 4, stride):
        assert start >= 0 and stop - 1 - start <= 4 and first < stop <= length
        assert start == 0 or first - start >= 4 - stride + 1
        scored += range(first, stop)
    assert scored == list(range(1, length))


def test_texts_are_joined_and_cut():
    alone = dict(source=dict(type="toy_language.Lines", texts=("ab. cd. ef",)))
    parts = dict(source=dict(type="toy_language.Lines", texts=("ab", "cd", "ef")))
    assert evaluate(**alone) == evaluate(joiner=". ", **parts)
    cut = dict(source=dict(type="toy_language.Lines", texts=("ab. cd",)))
    assert evaluate(**cut) == evaluate(joiner=". ", max_characters=6, **parts)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(context=0), "context is 0; it must be positive"),
        (dict(stride=9), "stride is 9 and context 8"),
        (dict(context=65), "65 tokens for max_length 64"),
        (dict(field="words"), "no field 'words'; it has text, tokens"),
        (dict(max_characters=1), "a text of 1 tokens has nothing to predict"),
        (dict(field="tokens"), "is ndarray; name a field of text"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises((ValueError, RunError), match=message):
        evaluate(**options)
