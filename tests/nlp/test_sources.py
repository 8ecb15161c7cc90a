import pickle

import numpy as np
import pytest

from data.pipeline import Pipeline
from data.sources import TextFile
from nlp.sources import Packed, SentencePairs, Windows
from nlp.tokenizers import Bytes, Characters, Subwords
from nlp.transforms import SentencePair
from training import config as configs
from training import smoke

LETTERS = Characters("abcdefghijklmnopqrstuvwxyz .")  # a is 5, b is 6, ...


def source(*texts):
    return [{"text": text} for text in texts]


def examples(found):
    return [found[i] for i in range(len(found))]


def random_documents(seed, count=40, longest=50):
    rng = np.random.default_rng(seed)
    letters = "abcde äßé漢"
    return source(
        *(
            "".join(rng.choice(list(letters), rng.integers(0, longest)))
            for _ in range(count)
        )
    )


def targets(example):
    """The tokens that a causal model predicts."""
    tokens = example["tokens"]
    segments = example.get("segments", np.ones_like(tokens))
    counted = (segments[1:] == segments[:-1]) & (segments[1:] != 0)
    return tokens[1:][counted]


def test_windows_by_hand():
    found = Windows(source("abc", "", "de"), LETTERS, length=3)
    assert [e["tokens"].tolist() for e in examples(found)] == [[5, 6, 7], [7, 8, 9]]
    assert "segments" not in found[0]
    found = Windows(source("abc", "d"), LETTERS, length=3)
    assert [e["tokens"].tolist() for e in examples(found)] == [[5, 6, 7], [7, 8, 0]]
    assert [e["segments"].tolist() for e in examples(found)] == [[1, 1, 1], [1, 1, 0]]
    ends = Windows(source("ab", "c"), LETTERS, length=9, add_bos=True, add_eos=True)
    assert examples(ends)[0]["tokens"].tolist() == [1, 5, 6, 2, 1, 7, 2, 0, 0]
    assert len(Windows(source("abcdef"), LETTERS, length=4, stride=1)) == 3
    frame = Windows(source("abcd"), LETTERS, length=5, frame=True)
    assert [e["tokens"].tolist() for e in examples(frame)] == [
        [1, 5, 6, 7, 2],
        [1, 8, 2, 0, 0],
    ]


@pytest.mark.parametrize("length", [2, 3, 7, 64, 5000])
def test_windows_predict_every_token_once(length):
    documents = random_documents(length)
    whole = np.concatenate([Bytes().encode_array(d["text"]) for d in documents])
    found = examples(Windows(documents, Bytes(), length, characters=True))
    np.testing.assert_array_equal(
        np.concatenate([targets(e) for e in found]), whole[1:]
    )
    text = "".join(d["text"] for d in documents)
    assert sum(int(e["characters"]) for e in found) == len(text) - 1
    assert {e["tokens"].shape for e in found} == {(length,)}


@pytest.mark.parametrize("length", [2, 5, 16, 100])
@pytest.mark.parametrize("kind", ["bytes", "bpe"])
def test_packing_predicts_every_token_of_every_document_once(length, kind):
    documents = random_documents(length)
    tokenizer = Bytes()
    if kind == "bpe":
        tokenizer = Subwords.learned("bpe", (d["text"] for d in documents), 300)
    found = Packed(documents, tokenizer, length, characters=True)
    rows = examples(found)
    expected = [
        [*tokenizer.encode(d["text"]), tokenizer.eos_id] for d in documents if d["text"]
    ]
    got = np.sort(np.concatenate([targets(row) for row in rows]))
    np.testing.assert_array_equal(
        got, np.sort(np.concatenate([e[1:] for e in expected]))
    )
    first = [tokenizer.spans(d["text"])[1][0] for d in documents if d["text"]]
    characters = sum(len(d["text"]) for d in documents) - sum(first)
    assert sum(int(row["characters"]) for row in rows) == characters
    for row in rows:
        assert row["tokens"].shape == row["segments"].shape == (length,)
        assert (row["tokens"] == 0).tolist() == (row["segments"] == 0).tolist()
        assert (np.diff(row["segments"][row["segments"] > 0]) >= 0).all()
    whole = {tuple(e) for e in expected if len(e) <= length}
    pieces = {
        tuple(row["tokens"][row["segments"] == i].tolist())
        for row in rows
        for i in range(1, row["segments"].max() + 1)
    }
    assert whole <= pieces, "what fits is not cut"


def test_packing_by_hand_and_its_density():
    found = Packed(source("abcde", "ab", "abc", "a"), LETTERS, 6, add_eos=False)
    assert [e["tokens"].tolist() for e in examples(found)] == [
        [5, 6, 7, 8, 9, 5],
        [5, 6, 7, 5, 6, 0],
    ]
    assert found[1]["segments"].tolist() == [1, 1, 1, 2, 2, 0]
    rows = examples(Packed(random_documents(3, 500), Bytes(), 128))
    assert np.mean([row["segments"] > 0 for row in rows]) > 0.97


def test_sentence_pairs_follow_each_other_or_come_from_elsewhere():
    rng = np.random.default_rng(0)
    texts, place = [], {}
    for document in range(12):
        sentences = []
        for i in range(15):
            word = "".join(rng.choice(list("abcdefghij"), 6))
            place[word] = document, i
            sentences.append(f"{word}.")
        texts.append(" ".join(sentences[:7]) + "\n" + " ".join(sentences[7:]))
    found = SentencePairs(source(*texts), LETTERS, length=45, copies=2)
    seen = {0: 0, 1: 0}
    for example in examples(found):
        a, b = (
            [place[w] for w in LETTERS.decode(example[k]).split(".") if w] for k in "ab"
        )
        for run in (a, b):
            assert run == [(run[0][0], run[0][1] + i) for i in range(len(run))]
        if example["is_next"]:
            assert b[0] == (a[-1][0], a[-1][1] + 1)
        else:
            assert b[0][0] != a[0][0]
        seen[int(example["is_next"])] += 1
    assert 0.3 < seen[1] / len(found) < 0.6
    read = {w for e in examples(found) for w in LETTERS.decode(e["a"]).split(".") if w}
    assert len(read) > 100, "most of the corpus comes first in some pair"
    again = SentencePairs(source(*texts), LETTERS, length=45, copies=2)
    for one, two in zip(examples(found), examples(again), strict=True):
        assert all(np.array_equal(one[k], two[k]) for k in one)
    joined = SentencePair(tokenizer=LETTERS, length=45)(found[0], rng)
    assert set(joined) == {"tokens", "types", "is_next"}


def test_they_travel_to_other_processes_and_make_batches(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("abc de. " * 50)
    for found in (
        Windows(TextFile(path), LETTERS, length=9),
        Packed(TextFile(path, per="line"), LETTERS, length=9),
    ):
        copy = pickle.loads(pickle.dumps(found))
        assert all(np.array_equal(copy[3][k], found[3][k]) for k in found[3])
        with Pipeline(found, num_threads=0).eval_batches(batch_size=8) as batches:
            batch = next(batches)
        assert batch["tokens"].shape == (8, 9) and batch["tokens"].dtype == np.int32
        assert "3" in found.describe(3)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Windows(source(), LETTERS, 4), "no text in the field 'text' of its 0"),
        (lambda: Windows(source("", ""), LETTERS, 4), "no text .* of its 2 examples"),
        (lambda: Packed(source(""), LETTERS, 4), "no text"),
        (
            lambda: Windows(source("a"), LETTERS, 4, field="x"),
            "field 'x' .*fields are text",
        ),
        (lambda: Windows([{"text": b"a"}], LETTERS, 4), "is bytes, not text"),
        (lambda: Windows(source("a"), LETTERS, 4, stride=5), "length 4 and stride 5"),
        (lambda: Windows(source("a"), LETTERS, 2, frame=True), "length 2"),
        (lambda: Packed(source("a"), LETTERS, 1), "length is 1"),
        (
            lambda: SentencePairs(source("a. b."), LETTERS, 9),
            "1 documents have sentences",
        ),
        (lambda: SentencePairs(source("a", "b"), LETTERS, 4), "length is 4"),
    ],
)
def test_what_is_refused_is_named(make, text):
    with pytest.raises(ValueError, match=text) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_out_of_range_is_an_index_error():
    with pytest.raises(IndexError):
        Windows(source("abc"), LETTERS, length=3)[1]


def test_a_source_in_a_source_is_invented_too():
    inner = {"type": "data.sources.TextFile", "path": "/nowhere.txt"}
    tokenizer = {
        "type": "nlp.tokenizers.Trained",
        "kind": "characters",
        "source": inner,
    }
    for kind, arguments in (
        ("Windows", {"length": 17}),
        ("Packed", {"length": 17}),
        ("SentencePairs", {"length": 64}),
    ):
        node = {
            "type": f"nlp.sources.{kind}",
            "source": {"type": "data.sources.Subset", "source": inner, "share": 0.5},
            "tokenizer": tokenizer,
            **arguments,
        }
        found = configs.build(smoke.synthetic(node))
        assert len(found) > 1 and found[0]
