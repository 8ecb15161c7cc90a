"""Tokenizers that need no training: bytes, and the characters of an alphabet."""

import collections
import functools
from collections.abc import Iterable
from typing import Any, Self

import numpy as np

from nlp.tokenizers.tokenizer import SPECIALS, Tokenizer, utf8


class Bytes(Tokenizer):
    """The bytes of UTF-8: 256 tokens and the special ones. Nothing is unknown."""

    kind = "bytes"

    @functools.cached_property
    def pieces(self) -> list[bytes]:
        return [bytes([value]) for value in range(256)]

    def content(self) -> dict[str, Any]:
        return {}

    def encode_array(self, text: str) -> np.ndarray:
        values = np.frombuffer(utf8(text), np.uint8)
        return values.astype(np.int32) + len(SPECIALS)

    def spans(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        ids = self.encode_array(text)
        continues = ((ids - len(SPECIALS)) & 0xC0) == 0x80
        return ids, (~continues).astype(np.int32)


class Characters(Tokenizer):
    """The characters of an alphabet; all others become `unk_id`.

    Args:
        alphabet: the known characters; their order is that of the ids.

    Raises:
        ValueError: it is empty, or names a character twice.
    """

    kind = "characters"

    def __init__(self, alphabet: str):
        utf8(alphabet)
        counts = collections.Counter(alphabet)
        twice = [character for character, count in counts.items() if count > 1]
        if twice or not alphabet:
            what = f"names {twice[0]!r} twice" if twice else "is empty"
            raise ValueError(f"the alphabet {what}")
        self.alphabet = alphabet
        points = _code_points(alphabet)
        order = np.argsort(points)
        self._points, self._ids = (
            points[order],
            (order + len(SPECIALS)).astype(np.int32),
        )

    @classmethod
    def learned(cls, texts: Iterable[str], vocab_size: int | None = None) -> Self:
        """The alphabet of a corpus, in the order of the code points.

        Args:
            texts: the corpus.
            vocab_size: keep only as many characters as make it so many tokens: the most
                frequent ones.

        Raises:
            ValueError: the corpus is empty, or `vocab_size` leaves no room.
        """
        counts = collections.Counter()
        for text in texts:
            counts.update(text)
        if not counts:
            raise ValueError("the corpus has no characters to learn an alphabet from")
        kept = sorted(counts, key=lambda character: (-counts[character], character))
        if vocab_size is not None:
            if vocab_size <= len(SPECIALS):
                raise ValueError(
                    f"vocab_size is {vocab_size}; {len(SPECIALS)} tokens are special"
                )
            kept = kept[: vocab_size - len(SPECIALS)]
        return cls("".join(sorted(kept)))

    @functools.cached_property
    def pieces(self) -> list[bytes]:
        return [character.encode() for character in self.alphabet]

    def content(self) -> dict[str, Any]:
        return {"alphabet": self.alphabet}

    def encode_array(self, text: str) -> np.ndarray:
        utf8(text)
        points = _code_points(text)
        places = np.searchsorted(self._points, points).clip(max=len(self._points) - 1)
        known = self._points[places] == points
        return np.where(known, self._ids[places], np.int32(self.unk_id))

    def spans(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        ids = self.encode_array(text)
        return ids, np.ones_like(ids)

    def unknown(self, text: str) -> list[str]:
        return [c for c in dict.fromkeys(text) if c not in self.alphabet]


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)
