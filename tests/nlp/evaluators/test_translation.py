"""Translation: BLEU of a model that copies, by hand and by sacrebleu, on any devices."""

import dataclasses
import functools
import logging
import re

import numpy as np
import pytest
import sacrebleu
from toy_language import build, pairs, seq2seq

from training import config as configs
from training.errors import RunError

TEXTS = (
    ("a dog runs on the grass.", "a dog runs on the grass."),
    ("two men sit", "zwei A sitzen da."),
    ("", ""),
    ("the cat", "the cat"),
    ("a red ball in the sand", "a red ball in the sand"),
)
NODE = dict(
    type="nlp.evaluators.translation.Translation",
    source_field="en",
    reference_field="de",
    batch_size=2,
    beam=2,
    max_length=30,
    lengths=(2, 4, 100),
)


@functools.cache
def model_run(mesh=1, skip=0):
    """A run and its first state; its compiled steps serve all evaluators alike."""
    run = build(seq2seq(skip=skip), pairs(TEXTS), mesh=mesh)
    return run, run.init()


def evaluate(texts=TEXTS, mesh=1, skip=0, data=None, **options):
    data = {**pairs(texts), **(data or {})}
    return configs.build({**NODE, "data": data, **options})(*model_run(mesh, skip))


@pytest.fixture(scope="module")
def report():
    return evaluate()


def test_scores_are_those_of_sacrebleu_on_the_detokenised_texts(report):
    hypotheses = [source for source, _ in TEXTS]
    references = [target for _, target in TEXTS]
    bleu = sacrebleu.corpus_bleu(hypotheses, [references])
    chrf = sacrebleu.corpus_chrf(hypotheses, [references])
    assert report.metrics["bleu"] == pytest.approx(bleu.score) and 50 < bleu.score < 100
    assert report.metrics["chrf"] == pytest.approx(chrf.score)
    assert report.metrics["length_ratio"] == bleu.sys_len / bleu.ref_len
    assert report.metrics["empty"] == 1  # the translation of nothing
    assert report.skipped == 0


def test_groups_by_length_are_of_the_words_of_the_source(report):
    counts = {k: v for k, v in report.metrics.items() if k.startswith("sentences_len_")}
    assert counts == {
        "sentences_len_0-1": 1,
        "sentences_len_2-3": 2,
        "sentences_len_4-99": 2,
    }
    assert report.metrics["bleu_len_4-99"] == pytest.approx(100)
    wrong = sacrebleu.corpus_bleu(
        [TEXTS[1][0], TEXTS[3][0]], [[TEXTS[1][1], TEXTS[3][1]]]
    )
    assert report.metrics["bleu_len_2-3"] == pytest.approx(wrong.score)
    assert report.metrics["bleu_len_0-1"] == 0


def test_signatures_and_examples_are_in_the_text_and_the_log(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("tessera"), "propagate", True)
    with caplog.at_level(logging.INFO, "tessera"):
        report = evaluate(examples=2)
    text = report.texts["translations"]
    version = sacrebleu.__version__
    for line in (
        f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{version}",
        f"nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:{version}",
    ):
        assert line in text and line in caplog.text
    assert f"BLEU {report.metrics['bleu']:.2f} " in text
    assert "beam 2, length penalty 0.6, at most 30 tokens" in text
    assert re.search(r"reference +zwei A sitzen da\.\nmodel +two men sit", text)
    assert "the cat" not in text
    for picture in report.pictures.values():
        assert picture.dtype == np.uint8 and picture.std() > 5
    assert set(report.pictures) == {"bleu_by_length", "translations"}


def test_devices_batches_and_padding_change_nothing(report):
    for options in (dict(mesh=4), dict(batch_size=5), dict(batch_size=8, beam=1)):
        other = evaluate(**options)
        assert other.metrics == report.metrics


def test_case_counts():
    same = evaluate(texts=(("A B C A B", "A B C A B"),)).metrics
    other = evaluate(texts=(("A B C A B", "a b c a b"),)).metrics
    assert same["bleu"] == pytest.approx(100) and other["bleu"] < 5


def test_only_empty_hypotheses_are_zero_and_no_error():
    report = evaluate(texts=(("a", "a b c d"), ("bc", "a b")), skip=5)
    assert report.metrics["bleu"] == report.metrics["chrf"] == 0
    assert report.metrics["empty"] == 2


def test_long_hypotheses_are_cut_and_the_end_is_not_written():
    report = evaluate(texts=(("abcdefgh", "abcd"),), max_length=4)
    assert re.search(r"model +abcd\n?$", report.texts["translations"])


def test_sentences_that_cannot_be_read_are_counted_and_keep_the_others_places():
    data = dict(
        on_error="skip",
        source=dict(
            type="toy_language.Pairs", pairs=TEXTS[3:] + TEXTS[:1] * 2, broken=(0,)
        ),
    )
    report = evaluate(data=data)
    assert report.skipped == 1 and report.metrics["bleu"] == pytest.approx(100)
    everything = dict(data["source"], broken=(0, 1, 2, 3))
    with pytest.raises(RunError, match="\\A[^\\n]+\\Z"):
        evaluate(data={**data, "source": everything})


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(reference_field="fr"), "no field 'fr'; it has en, de"),
        (dict(lengths=(5, 3)), "lengths is .5, 3.; give growing"),
        (dict(beam=0), "beam is 0; it must be positive"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises((ValueError, RunError), match=message):
        evaluate(**options)


def test_a_tokenizer_is_needed():
    run, state = model_run()
    task = dataclasses.replace(run.experiment.task, tokenizer=None)
    run = dataclasses.replace(
        run, experiment=dataclasses.replace(run.experiment, task=task)
    )
    with pytest.raises(RunError, match="no tokenizer; give the evaluator or the task"):
        configs.build({**NODE, "data": pairs(TEXTS)})(run, state)
