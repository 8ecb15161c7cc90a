"""Packing pairs: each is there once and whole, rows are well filled, mistakes are named."""

import pickle

import numpy as np
import pytest

from nlp.packed_pairs import PackedPairs
from nlp.tokenizers import Bytes, Characters

LETTERS = Characters("abcdefghijklmnopqrstuvwxyz .")  # a is 5, b is 6, ...


def pairs(*texts):
    return [{"en": en, "de": de} for en, de in texts]


def packed(examples, source_length, target_length, tokenizer=LETTERS, **options):
    return PackedPairs(
        examples, tokenizer, "en", "de", source_length, target_length, **options
    )


def contents(row, side):
    """The texts of a row as lists of tokens, in the order of their segments."""
    tokens, segments = row[side], row[f"{side}_segments"]
    assert not tokens[segments == 0].any()
    count = segments.max()
    assert np.array_equal(np.unique(segments[segments > 0]), np.arange(1, count + 1))
    return [tokens[segments == i].tolist() for i in range(1, count + 1)]


def test_by_hand():
    found = packed(pairs(("ab", "c"), ("a", ""), ("abc", "abcd")), 5, 5)
    assert len(found) == 2
    assert found[0]["source"].tolist() == [5, 6, 2, 5, 2]
    assert found[0]["source_segments"].tolist() == [1, 1, 1, 2, 2]
    assert found[0]["target"].tolist() == [1, 7, 2, 1, 2, 0]
    assert found[0]["target_segments"].tolist() == [1, 1, 1, 2, 2, 0]
    assert found[1]["source"].tolist() == [5, 6, 7, 2, 0]
    assert found[1]["target"].tolist() == [1, 5, 6, 7, 8, 2]
    assert found[0]["source"].dtype == found[0]["target_segments"].dtype == np.int32
    assert "row 0" in found.describe(0) and "0, 1" in found.describe(0)


def test_every_pair_is_there_once_beside_its_translation_and_rows_are_full():
    rng = np.random.default_rng(0)
    texts = [
        tuple("".join(rng.choice(list("abcdeé"), n)) for n in rng.integers(0, 20, 2))
        for _ in range(700)
    ]
    found = packed(pairs(*texts), 64, 63, Bytes())
    seen = []
    for i in range(len(found)):
        sources, targets = (contents(found[i], side) for side in ("source", "target"))
        seen += zip(sources, targets, strict=True)
    encode = Bytes().encode
    expected = [
        ([*encode(en), Bytes().eos_id], [Bytes().bos_id, *encode(de), Bytes().eos_id])
        for en, de in texts
    ]
    assert sorted(seen) == sorted(expected)
    filled = max(
        np.mean([(found[i][side] > 0).mean() for i in range(len(found))])
        for side in ("source", "target")
    )
    assert filled > 0.9, "of the side with more tokens"


def test_it_is_the_same_again_and_in_another_process():
    examples = pairs(*[("ab", "abc"), ("abcd", "a"), ("b", "b")] * 5)
    one, two = packed(examples, 9, 9), packed(examples, 9, 9)
    copy = pickle.loads(pickle.dumps(two))
    for i in range(len(one)):
        for key, value in one[i].items():
            np.testing.assert_array_equal(value, copy[i][key])


def test_long_texts_are_refused_or_lose_their_end():
    examples = pairs(("abc", "a"), ("a", "abcdef"))
    with pytest.raises(ValueError, match="de of example 1 has 8 tokens.* 6 allowed"):
        packed(examples, 5, 5)
    found = packed(examples, 5, 5, on_long="truncate")
    assert found[1]["target"].tolist() == [1, 5, 6, 7, 8, 2]


@pytest.mark.parametrize(
    ("examples", "lengths", "message"),
    [
        ([], (5, 5), "no pairs to pack"),
        (pairs(("a", "b")), (0, 5), "source_length is 0"),
        ([{"en": "a"}], (5, 5), "field 'de' of example 0 is NoneType, not text"),
    ],
)
def test_mistakes_are_named(examples, lengths, message):
    with pytest.raises(ValueError, match=message):
        packed(examples, *lengths)
