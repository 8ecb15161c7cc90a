"""Attention pictures: the right weights at the right words, padding and specials."""

import functools

import numpy as np
import pytest
from toy_language import SIZE, Letters, build, pairs, pipeline, seq2seq

from nlp import visualize
from nlp.evaluators import attention
from training import config as configs
from training.errors import RunError

PAIRS = (("two dogs", "zwei A"), ("abc", "abcdefghi"), ("x", "yz"))
LINES = dict(type="toy_language.Lines", texts=("a cat.", "bb\n", "dogs"), length=7)
NODE = dict(type="nlp.evaluators.attention.AttentionPictures", num_examples=2)


def encoder(hops=0):
    return dict(
        type="nlp.tasks.text_task.TextTask",
        model=dict(type="toy_language.Looker", vocab_size=SIZE, hops=hops),
    )


@functools.cache
def model_run(kind, mesh=1):
    if kind == "seq2seq":
        run = build(seq2seq(), pairs(PAIRS), mesh=mesh)
    else:
        run = build(encoder(int(kind)), pipeline(LINES), mesh=mesh)
    return run, run.init()


@pytest.fixture
def drawn(monkeypatch):
    """Everything that was drawn: (values, rows, columns), and (words, weights)."""
    found = []
    heat_map, colored = visualize.heat_map, visualize.colored_words

    def spy_map(values, rows, columns, **options):
        found.append((values, list(rows), list(columns)))
        return heat_map(values, rows, columns, **options)

    def spy_words(words, weights, **options):
        found.append((list(words), weights))
        return colored(words, weights, **options)

    monkeypatch.setattr(visualize, "heat_map", spy_map)
    monkeypatch.setattr(visualize, "colored_words", spy_words)
    return found


def draw(kind, mesh=1, **options):
    data = pairs(PAIRS) if kind == "seq2seq" else pipeline(LINES)
    return configs.build({**NODE, "data": data, **options})(*model_run(kind, mesh))


def test_an_alignment_has_the_written_tokens_and_the_source_at_its_sides(drawn):
    report = draw("seq2seq")
    assert set(report.pictures) == {"alignment", "alignment_heads"}
    (first, rows, columns), (second, *_) = drawn
    assert columns == [*"two_dogs"] and rows == [*"zwei_A", "<eos>"]
    np.testing.assert_array_equal(first, np.eye(7, 8))  # the copier looks straight
    np.testing.assert_array_equal(second, np.eye(10, 3))


def test_self_attention_shows_a_layers_mean_over_heads(drawn):
    report = draw("0", layer=0)
    assert set(report.pictures) == {"self_attention", "self_attention_heads"}
    _, state = model_run("0")
    (weights, rows, columns), (_, second, _) = drawn
    assert rows == columns == [*"a_cat."] and second == ["b", "b", "\n"]
    embedding = np.asarray(state.params["embedding"]["embedding"])
    logits = embedding[Letters().encode("a cat.") + [0]][:, :7]
    heads = [
        np.exp(logits * n) / np.exp(logits * n).sum(-1, keepdims=True)
        for n in (1, 2, 3)
    ]
    expected = np.mean(heads, 0)[:6, :6] / 2  # block 0 of the stand-in has half
    np.testing.assert_allclose(weights, expected, rtol=1e-5)
    drawn.clear()
    draw("0")
    np.testing.assert_allclose(drawn[0][0], 2 * expected, rtol=1e-5)


def test_words_lie_on_the_mean_of_the_hops(drawn):
    report = draw("2")
    assert set(report.pictures) == {"words", "words_heads"}
    _, state = model_run("2")
    embedding = np.asarray(state.params["embedding"]["embedding"])
    logits = embedding[Letters().encode("a cat.") + [0]][:, :2]
    hops = (np.exp(logits) / np.exp(logits).sum(0)).T
    words, mean = drawn[0]
    assert words == ["a", "cat."]
    whole = np.stack([hops[:, 0], hops[:, 1:6].sum(1)], axis=1)
    np.testing.assert_allclose(mean, whole.mean(0), rtol=1e-5)
    np.testing.assert_allclose(drawn[3][1], whole[1], rtol=1e-5)
    page = report.texts["words.html"]
    assert page.startswith("<!doctype html>") and f'title="{mean[0]:.3f}"' in page


def test_padding_rows_and_long_sequences_are_cut(drawn):
    draw("seq2seq", num_examples=8, max_tokens=4)
    assert len(drawn) == 3, "padding rows are not shown"
    assert [(len(rows), len(columns)) for _, rows, columns in drawn] == [
        (4, 4),
        (4, 3),
        (3, 1),
    ]
    assert drawn[1][1] == [*"abcd"], "the end is not claimed where the rest is cut"


def test_devices_change_nothing():
    one, four = draw("0").pictures, draw("0", mesh=4).pictures
    for name, picture in one.items():
        assert (four[name] != picture).mean() < 0.02


def test_kinds_by_path_and_shape():
    w = lambda t, s, n=2: np.zeros((1, n, t, s))
    found = attention.kinds(
        {
            "encoder/block_10/attention/weights/0": w(5, 5, 1),
            "encoder/block_2/attention/weights/0": w(5, 5, 3),
            "decoder/blocks/attention/weights/0": np.zeros((2, 1, 2, 4, 4)),
            "decoder/blocks/cross_attention/weights/0": np.zeros((3, 1, 2, 4, 5)),
        },
        has_target=True,
    )
    assert [x.shape[1] for x in found["encoder"]] == [3, 1], "block 2 before block 10"
    assert [x.shape for x in found["decoder"]] == [(1, 2, 4, 4)] * 2
    assert [x.shape for x in found["alignment"]] == [(1, 2, 4, 5)] * 3
    recurrent = attention.kinds({"decoder/attention/weights/0": w(4, 4)}, True)
    assert list(recurrent) == ["alignment"]
    assert attention.kinds({}, True) == {}


def test_tokens_join_to_words_with_the_sum_of_their_weights():
    tokens = ["<bos>", "a", "b", "_c", "d", "<eos>", "e"]
    weights = np.arange(8.0)[None].repeat(2, 0) * [[1], [10]]  # the last is padding
    words, sums = attention.whole_words(tokens, weights)
    assert words == ["<bos>", "ab", "cd", "<eos>", "e"]
    assert sums.tolist() == [[0, 3, 7, 5, 6], [0, 30, 70, 50, 60]]
    assert attention.whole_words(["_"], np.ones((1, 3)))[0] == ["_"]


def test_special_tokens_have_names():
    text = [attention.token_text(Letters(), i) for i in (0, 1, 2, 3, 4, 5)]
    assert text == ["<pad>", "<bos>", "<eos>", "<unk>", "<mask>", "a"]


@pytest.mark.parametrize("name", ["num_examples", "max_tokens"])
def test_mistakes_are_named(name):
    with pytest.raises(
        (ValueError, RunError), match=f"{name} is 0; it must be positive"
    ):
        draw("0", **{name: 0})
