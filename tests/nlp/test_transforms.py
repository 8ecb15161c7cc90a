import numpy as np
import pytest

from nlp.tokenizers import Bytes, Characters
from nlp.transforms import CropTokens, Pad, SentencePair, Tokenize, Translation

LETTERS = Characters("abcdefghijklmnopqrstuvwxyz ")  # a is 5, b is 6, ...
RNG = np.random.default_rng(0)


def test_a_text_becomes_tokens():
    example = {"text": "abc", "label": 1}
    found = Tokenize(tokenizer=LETTERS)(example, RNG)
    assert found["tokens"].tolist() == [5, 6, 7] and found["tokens"].dtype == np.int32
    assert found["label"] == 1 and "tokens" not in example
    framed = Tokenize(
        tokenizer=LETTERS, fields={"text": "x"}, add_bos=True, add_eos=True
    )
    assert framed(example, RNG)["x"].tolist() == [1, 5, 6, 7, 2]
    assert framed({"text": ""}, RNG)["x"].tolist() == [1, 2]


def test_what_is_too_long_is_an_error_or_cut_where_asked():
    arguments = dict(tokenizer=LETTERS, max_length=4, add_bos=True, add_eos=True)
    with pytest.raises(ValueError, match="text has 5 tokens, more than the 4 allowed"):
        Tokenize(**arguments)({"text": "abc"}, RNG)
    cut = Tokenize(**arguments, on_long="truncate")
    assert cut({"text": "abc"}, RNG)["tokens"].tolist() == [1, 5, 6, 2]
    assert cut({"text": "ab"}, RNG)["tokens"].tolist() == [1, 5, 6, 2]


def test_pairs_for_translation():
    pair = Translation(
        tokenizer=LETTERS, source="en", target="de", source_length=4, target_length=4
    )
    found = pair({"en": "ab", "de": "abc"}, RNG)
    assert found["source"].tolist() == [5, 6, 2, 0]
    assert found["target"].tolist() == [1, 5, 6, 7, 2]
    assert found["source"].dtype == found["target"].dtype == np.int32
    empty = pair({"en": "", "de": ""}, RNG)
    assert empty["source"].tolist() == [2, 0, 0, 0]
    assert empty["target"].tolist() == [1, 2, 0, 0, 0]
    with pytest.raises(ValueError, match="en has 5 tokens, more than the 4"):
        pair({"en": "abcd", "de": "a"}, RNG)
    with pytest.raises(ValueError, match="de has 6 tokens, more than the 5"):
        pair({"en": "a", "de": "abcd"}, RNG)


def test_a_long_translation_keeps_its_end_token():
    pair = Translation(
        tokenizer=LETTERS,
        target_tokenizer=Bytes(),
        source="en",
        target="de",
        source_length=3,
        target_length=3,
        prefix="z",
        on_long="truncate",
    )
    found = pair({"en": "abcd", "de": "abcd"}, RNG)
    assert found["source"].tolist() == [30, 5, 2]
    assert found["target"].tolist() == [1, 102, 103, 2]


def test_a_pair_of_sentences_by_hand():
    join = SentencePair(tokenizer=LETTERS, length=9)
    found = join({"a": "ab", "b": "c", "is_next": 1}, RNG)
    assert found["tokens"].tolist() == [1, 5, 6, 2, 7, 2, 0, 0, 0]
    assert found["types"].tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 0]
    assert found["is_next"] == 1 and "a" not in found


@pytest.mark.parametrize("a", range(0, 14, 3))
@pytest.mark.parametrize("b", range(0, 14, 2))
def test_the_longer_sentence_is_cut_first(a, b):
    ids = np.arange(5, 5 + 26, dtype=np.int32)
    found = SentencePair(tokenizer=LETTERS, length=12)(
        {"a": ids[:a], "b": ids[:b]}, RNG
    )
    left, right = a, b
    while left + right > 9:
        if left > right:
            left -= 1
        else:
            right -= 1
    expected = [1, *ids[:left], 2, *ids[:right], 2]
    assert found["tokens"].tolist() == expected + [0] * (12 - len(expected))
    assert (found["types"] == 1).sum() == right + 1


def test_pairs_too_long_can_be_refused():
    strict = SentencePair(tokenizer=LETTERS, length=6, on_long="error")
    assert strict({"a": "ab", "b": "c"}, RNG)["tokens"].tolist() == [1, 5, 6, 2, 7, 2]
    with pytest.raises(ValueError, match="a and b has 7 tokens, more than length=6"):
        strict({"a": "ab", "b": "cd"}, RNG)


def test_padding():
    example = {"tokens": np.array([5, 6], np.int32)}
    assert Pad(length=4)(example, RNG)["tokens"].tolist() == [5, 6, 0, 0]
    found = Pad(length=3, segments="segments", value=9)(example, RNG)
    assert found["tokens"].tolist() == [5, 6, 9]
    assert found["segments"].tolist() == [1, 1, 0]
    with pytest.raises(ValueError, match="tokens has 2 tokens, more than length=1"):
        Pad(length=1)(example, RNG)


def test_crops_come_from_everywhere():
    tokens = np.arange(10)
    crop = CropTokens(length=4, fields=("tokens", "types"))
    starts = set()
    for seed in range(200):
        found = crop({"tokens": tokens, "types": -tokens}, np.random.default_rng(seed))
        start = int(found["tokens"][0])
        assert found["tokens"].tolist() == list(range(start, start + 4))
        assert (found["types"] == -found["tokens"]).all()
        starts.add(start)
    assert starts == set(range(7))
    short = CropTokens(length=20)({"tokens": tokens}, RNG)
    assert short["tokens"].tolist() == tokens.tolist()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Tokenize(tokenizer=LETTERS, on_long="cut"), "on_long is 'cut'"),
        (lambda: Tokenize(tokenizer=LETTERS, max_length=1, add_bos=True), "at least 2"),
        (lambda: SentencePair(tokenizer=LETTERS, length=4), "length is 4"),
        (lambda: SentencePair(tokenizer=LETTERS, length=9, fields=("a",)), "has two"),
        (lambda: Pad(length=0), "length is 0"),
        (lambda: CropTokens(length=0), "length is 0"),
        (
            lambda: Tokenize(tokenizer=LETTERS)({"x": "a"}, RNG),
            "no field 'text', only x",
        ),
        (lambda: Tokenize(tokenizer=LETTERS)({"text": b"a"}, RNG), "text: .*got bytes"),
        (lambda: Pad(length=2)({"x": 1}, RNG), "no field 'tokens'"),
    ],
)
def test_what_is_wrong_is_named(make, text):
    with pytest.raises(ValueError, match=text) as caught:
        make()
    assert "\n" not in str(caught.value)
