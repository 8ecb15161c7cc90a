import json
import pickle
import subprocess
import sys

import numpy as np
import pytest

from nlp.tokenizers import (
    Bytes,
    Characters,
    FromRun,
    Saved,
    Subwords,
    Trained,
    load,
    parse,
)
from training import config as configs

CORPUS = [
    "The quick brown fox jumps over the lazy dog. The dog sleeps; the fox is gone.",
    "Zwei Männer sitzen am Fluß, und zwei Mädchen spielen im Garten.",
    "the dog and the fox, the men and the girls, the river and the garden\n" * 3,
    "",
]


class Source(list):
    """Examples of two texts."""

    @classmethod
    def of(cls, texts):
        return cls({"text": text, "other": text[::-1]} for text in texts)


def random_text(rng, size=40):
    """Any characters: ASCII, accents, CJK, marks, emoji, controls, never surrogates."""
    ranges = ((0, 128), (128, 0x800), (0x800, 0xD800), (0xE000, 0x110000))
    chosen = (ranges[i] for i in rng.choice(4, size, p=[0.5, 0.2, 0.2, 0.1]))
    return "".join(chr(rng.integers(*r)) for r in chosen)


@pytest.fixture(scope="module")
def subwords():
    return {
        kind: Trained(kind=kind, source=Source.of(CORPUS), vocab_size=320)
        for kind in ("bpe", "unigram")
    }


def all_kinds(subwords):
    alphabet = "".join(sorted(set("".join(CORPUS)) | set("äß漢")))
    return [Bytes(), Characters(alphabet), *subwords.values()]


def test_every_text_comes_back_from_bytes_and_subwords(subwords):
    rng = np.random.default_rng(0)
    for text in [
        "",
        " ",
        "a  b",
        "\r\n\t",
        "[PAD]<s>▁Ġ",
        *map(random_text, [rng] * 300),
    ]:
        for tokenizer in (Bytes(), *subwords.values()):
            ids = tokenizer.encode(text)
            assert tokenizer.decode(ids) == text
            assert tokenizer.unknown(text) == []
            assert all(5 <= i < tokenizer.vocab_size for i in ids)


def test_every_text_of_known_characters_comes_back():
    rng = np.random.default_rng(1)
    for _ in range(300):
        text = random_text(rng)
        tokenizer = Characters.learned([text])
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert len(tokenizer.encode(text)) == len(text)
        assert tokenizer.vocab_size == 5 + len(set(text))


def test_ids_by_hand():
    assert Bytes().encode("aä") == [5 + 97, 5 + 0xC3, 5 + 0xA4]
    assert Bytes().vocab_size == 261
    letters = Characters("cab")
    assert letters.encode("abcx") == [6, 7, 5, 3]
    assert letters.unknown("xaxy") == ["x", "y"]
    assert Characters.learned(["banana", "c"]).alphabet == "abcn"
    assert Characters.learned(["banana", "c"], vocab_size=7).alphabet == "an"


def test_bpe_by_hand():
    found = Subwords.learned("bpe", ["hug hug pug"], 261 + 2)
    # 'u' 'g' comes thrice; then 'ug' follows 'h' and, with its space, 'Ġ' in turn.
    assert found.pieces[256] == b"ug"
    assert found.vocab_size == 263
    assert found.encode("ug") == [261]
    assert found.encode("pu") == Subwords.learned("bpe", ["x y"], 262).encode("pu")


def test_decoding_drops_special_tokens_and_stops_at_the_end(subwords):
    for tokenizer in all_kinds(subwords):
        ids = tokenizer.encode("the dog")
        specials = [tokenizer.pad_id, tokenizer.unk_id, tokenizer.mask_id]
        assert specials == [0, 3, 4]
        line = [tokenizer.bos_id, *ids, *specials, tokenizer.eos_id, *ids]
        assert tokenizer.decode(np.array(line)) == "the dog"
        for wrong in (-1, tokenizer.vocab_size):
            with pytest.raises(ValueError, match=f"token {wrong} is outside"):
                tokenizer.decode([wrong])
    assert Bytes().decode([5 + 0xC3, 5 + 97]) == "\ufffda"


def test_spans_cover_every_character_once(subwords):
    rng = np.random.default_rng(2)
    for text in ["", "x", "e\u0301 ", "  漢字\n ", *map(random_text, [rng] * 100)]:
        for tokenizer in all_kinds(subwords):
            ids, counts = tokenizer.spans(text)
            np.testing.assert_array_equal(ids, tokenizer.encode_array(text))
            assert ids.shape == counts.shape and (counts >= 0).all()
            assert counts.sum() == len(text)
    assert Bytes().spans("aä")[1].tolist() == [1, 1, 0]
    for tokenizer in subwords.values():
        ids, counts = tokenizer.spans("the dog")
        pieces = [tokenizer.decode([i]) for i in ids]
        assert counts.tolist() == [len(piece) for piece in pieces]


def test_many_texts_are_encoded_as_one_is(subwords):
    for tokenizer in all_kinds(subwords):
        for one, found in zip(CORPUS, tokenizer.encode_all(CORPUS), strict=True):
            assert found.dtype == np.int32
            np.testing.assert_array_equal(found, tokenizer.encode(one))


def test_words_begin_with_a_space_or_a_mark(subwords):
    for tokenizer in all_kinds(subwords):
        starts = tokenizer.word_starts
        assert starts.shape == (tokenizer.vocab_size,) and not starts[:5].any()
        ids = tokenizer.encode("the dog; gone")
        pieces = [tokenizer.decode([i]) for i in ids]
        expected = [piece[0] in " ;" for piece in pieces]
        assert starts[ids].tolist() == expected and sum(expected) == 3


def test_lower_case_is_for_encoding_only(subwords):
    found = Subwords.learned("bpe", CORPUS, 300, lowercase=True)
    assert found.decode(found.encode("The DOG Ä")) == "the dog ä"
    unigram = Subwords.learned("unigram", CORPUS, 300, lowercase=True)
    assert not [
        piece for piece in unigram.pieces if len(piece) > 1 and piece != piece.lower()
    ]
    assert subwords["bpe"].decode(subwords["bpe"].encode("The DOG")) == "The DOG"


def test_a_first_word_may_be_encoded_as_later_ones_are():
    for kind in ("bpe", "unigram"):
        found = Subwords.learned(kind, CORPUS, 300, prefix_space=True)
        plain = Subwords.learned(kind, CORPUS, 300)
        ids = found.encode("dog dog")
        assert ids[: len(ids) // 2] == ids[len(ids) // 2 :]
        assert found.encode(" dog dog") == ids and found.encode("") == []
        assert found.decode(ids) == " dog dog"
        assert plain.encode("dog")[0] != plain.encode(" dog")[0]
        assert found.word_starts[found.encode("dog")[0]]
        ids, counts = found.spans("dog dog")
        assert counts.sum() == len("dog dog") and len(ids) == len(counts)
        copy = pickle.loads(pickle.dumps(found))
        assert copy.encode("dog") == found.encode("dog")
        assert found.encode_all(["dog"])[0].tolist() == found.encode("dog")


def test_files_and_copies_do_the_same(subwords, tmp_path):
    for tokenizer in all_kinds(subwords):
        path = tmp_path / f"{tokenizer.fingerprint}.json"
        path.write_bytes(tokenizer.artifact())
        assert json.loads(path.read_text())["kind"] == tokenizer.kind
        for copy in (Saved(path), load(path), pickle.loads(pickle.dumps(tokenizer))):
            assert copy == tokenizer and hash(copy) == hash(tokenizer)
            assert copy.encode(CORPUS[1]) == tokenizer.encode(CORPUS[1])
    prints = {tokenizer.fingerprint for tokenizer in all_kinds(subwords)}
    assert len(prints) == 4
    assert Characters("ab") != Characters("ba")


def test_a_file_that_changes_is_read_anew(tmp_path):
    path = tmp_path / "t.json"
    for alphabet in ("ab", "abc"):
        path.write_bytes(Characters(alphabet).artifact())
        assert load(path).alphabet == alphabet


@pytest.mark.parametrize("kind", ["bpe", "unigram", "characters"])
def test_training_again_in_another_process_gives_the_same(kind):
    script = (
        "from nlp.tokenizers import Trained\n"
        f"source = [{{'text': t}} for t in {CORPUS!r}]\n"
        f"print(Trained(kind={kind!r}, source=source, vocab_size=300).fingerprint)"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", script], check=True, capture_output=True, text=True
        ).stdout.strip()
        for _ in range(2)
    ]
    here = Trained(kind=kind, source=Source.of(CORPUS), vocab_size=300)
    assert set(runs) == {here.fingerprint}


def test_recipes_are_nodes_of_a_config():
    node = {
        "type": "nlp.tokenizers.Trained",
        "kind": "characters",
        "source": [{"text": "ab"}, {"text": "c"}],
    }
    assert configs.build(node).alphabet == "abc"
    with pytest.raises(configs.errors.ConfigError, match="'vocabsize'.*'vocab_size'"):
        configs.build({**node, "vocabsize": 3})
    fields = Trained(
        kind="characters",
        source=Source.of(["ab"]),
        fields=("text", "other"),
        max_examples=1,
    )
    assert fields.alphabet == "ab"
    few = Trained(kind="characters", source=Source.of("abcdef"), max_examples=3)
    assert few.alphabet == "ace"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"kind": "words"}, "kind is 'words'.*'characters', 'bpe' and 'unigram'"),
        ({"kind": "bpe"}, "needs a vocab_size"),
        ({"kind": "bpe", "vocab_size": 260}, "vocab_size is 260.*256"),
        ({"kind": "unigram", "vocab_size": 4}, "vocab_size is 4.*256"),
        ({"kind": "characters", "vocab_size": 5}, "vocab_size is 5"),
        (
            {"kind": "characters", "fields": ("body",)},
            "'body' of example 0.*text, other",
        ),
        ({"kind": "characters", "source": Source()}, "no characters"),
        ({"kind": "bpe", "vocab_size": 300, "source": Source()}, "no text"),
        ({"kind": "unigram", "vocab_size": 300, "source": Source()}, "no text"),
        ({"kind": "bpe", "vocab_size": 300, "source": [{"text": b"a"}]}, "got bytes"),
    ],
)
def test_what_cannot_be_trained_is_named(arguments, text):
    with pytest.raises(ValueError, match=text) as caught:
        Trained(**{"source": Source.of(CORPUS), **arguments})
    assert "\n" not in str(caught.value)


def test_text_that_was_no_utf8_is_refused(subwords):
    broken = b"ok \xff".decode(errors="surrogateescape")
    for tokenizer in all_kinds(subwords):
        for method in (tokenizer.encode, tokenizer.spans):
            with pytest.raises(
                ValueError, match=r"character 3.*U\+DCFF.*not valid UTF-8"
            ):
                method(broken)
            with pytest.raises(ValueError, match="got bytes"):
                method(b"ok")


@pytest.mark.parametrize("alphabet", ["", "aba"])
def test_an_alphabet_must_be_one(alphabet):
    with pytest.raises(ValueError, match="is empty|names 'a' twice"):
        Characters(alphabet)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"format": "x"}', b"\xff", b'{"version": "1.0"}']
)
def test_a_file_of_another_kind_is_named(content):
    with pytest.raises(
        ValueError, match="some.json is not a tokenizer's file"
    ) as caught:
        parse(content, "some.json")
    assert "\n" not in str(caught.value)


def test_the_tokenizer_of_another_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no tokenizer.*train that run"):
        FromRun(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        Saved(tmp_path / "none.json")
    folder = tmp_path / "artifacts"
    folder.mkdir()
    (folder / "tokenizer-1.json").write_bytes(Characters("ab").artifact())
    assert FromRun(tmp_path) == FromRun(folder / "tokenizer-1.json") == Characters("ab")
    (folder / "tokenizer-2.json").write_bytes(Bytes().artifact())
    with pytest.raises(
        ValueError, match=r"several.*tokenizer-1\.json, tokenizer-2\.json"
    ):
        FromRun(tmp_path)
    assert FromRun(tmp_path, file="tokenizer-2.json") == Bytes()
    trial = configs.build(FromRun.synthetic_node({"path": "x"}))
    assert trial.unknown("Invented words, as they are.") == []
