"""Text that is shown while it is written."""

import pytest

from nlp.streaming import TextStream
from nlp.tokenizers import Bytes, Characters, Subwords


def written(tokenizer, ids, context=()):
    stream = TextStream(tokenizer, context)
    return [*map(stream.push, ids), stream.finish()]


@pytest.mark.parametrize("kind", ["bytes", "characters", "bpe", "unigram"])
def test_streamed_pieces_are_whole_characters_and_join_to_the_text(kind):
    text = "Größe, 猫 and 🐈‍⬛: naïve  text.\n ok"
    tokenizer = {
        "bytes": Bytes,
        "characters": lambda: Characters("".join(sorted(set(text)))),
    }.get(kind, lambda: Subwords.learned(kind, [text] * 3, 270))()
    ids = tokenizer.encode(text)
    for split in (3, 1, 0):
        context = tokenizer.encode(text[:split])
        pieces = written(tokenizer, ids[len(context) :], context)
        if context != ids[: len(context)]:  # the text is cut elsewhere
            continue
        assert "".join(pieces) == text[split:]
        assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)
    if kind == "bytes":
        assert "" in pieces and "🐈" in pieces


def test_what_never_becomes_a_character_comes_last():
    tokenizer = Bytes()
    broken = tokenizer.encode("é")[:1]
    ids = [*tokenizer.encode("a"), *broken, *tokenizer.encode("b"), *broken]
    assert written(tokenizer, ids) == ["a", "", "\ufffdb", "", "\ufffd"]


def test_decoding_that_drops_leading_spaces_keeps_those_between_pieces():
    class Words:
        """As sentencepiece does: every word brings a space, the first loses it."""

        def decode(self, ids):
            return "".join(f" w{i}" for i in ids).lstrip()

    assert written(Words(), [2, 3], context=[1]) == [" w2", " w3", ""]
