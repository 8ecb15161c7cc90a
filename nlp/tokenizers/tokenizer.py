"""What all tokenizers share: special tokens, decoding, the file format, a fingerprint."""

import functools
import hashlib
import json
import string
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np

FORMAT = "tessera tokenizer 1"
SPECIALS = ("pad", "bos", "eos", "unk", "mask")
# What begins a word, besides the first letter of a text.
_OPENING = frozenset((string.whitespace + string.punctuation).encode())


class Tokenizer:
    """Text <-> token ids. Ids 0 to 4 are special, the others stand for pieces of text.

    Subclasses have `kind`, `content()`, `pieces` and `encode_array`; they may know more
    about characters. Tokenizers are equal if they do the same, and travel to other
    processes.

    Attributes:
        pad_id, bos_id, eos_id, unk_id, mask_id: 0, 1, 2, 3, 4.
        kind: what the file calls it.
    """

    pad_id: ClassVar[int] = 0
    bos_id: ClassVar[int] = 1
    eos_id: ClassVar[int] = 2
    unk_id: ClassVar[int] = 3
    mask_id: ClassVar[int] = 4
    kind: ClassVar[str]

    def encode_array(self, text: str) -> np.ndarray:
        """The ids of a text, without special tokens: int32 [T].

        Raises:
            ValueError: it is no text, or holds halves of characters: bytes that were not
                UTF-8.
        """
        raise NotImplementedError

    def encode_all(self, texts: Sequence[str]) -> list[np.ndarray]:
        """`encode_array` of many texts, faster where there is a way."""
        return [self.encode_array(text) for text in texts]

    def spans(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Ids, and how many characters each stands for.

        Returns:
            (int32 [T], int32 [T]); the latter add up to the text's length if there is any
            token. A character of several tokens belongs to the first.
        """
        raise NotImplementedError

    @functools.cached_property
    def pieces(self) -> list[bytes]:
        """The UTF-8 that each token from `SPECIALS` on stands for."""
        raise NotImplementedError

    def content(self) -> dict[str, Any]:
        """What the file holds beside format and kind: plain data."""
        raise NotImplementedError

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without special tokens. Raises as `encode_array`."""
        return self.encode_array(text).tolist()

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids up to the first eos; special tokens are left out.

        Bytes that are no UTF-8 (a model may write such) become U+FFFD.

        Raises:
            ValueError: an id is out of range.
        """
        found, pieces = [], self.pieces
        for token in ids:
            if not 0 <= token < self.vocab_size:
                raise ValueError(f"token {token} is outside [0, {self.vocab_size})")
            if token == self.eos_id:
                break
            if token >= len(SPECIALS):
                found.append(pieces[token - len(SPECIALS)])
        return b"".join(found).decode("utf-8", "replace")

    def unknown(self, text: str) -> list[str]:
        """The characters of a text that become `unk_id`, each once, in their order."""
        del text
        return []

    @property
    def vocab_size(self) -> int:
        """Number of ids, special ones included."""
        return len(SPECIALS) + len(self.pieces)

    @functools.cached_property
    def word_starts(self) -> np.ndarray:
        """bool [V]: tokens that begin with a space or a punctuation mark, and so a word.

        (A token that follows a special one begins a word in any case.)
        """
        starts = [piece[0] in _OPENING for piece in self.pieces]
        return np.array([False] * len(SPECIALS) + starts)

    def artifact(self) -> bytes:
        """The tokenizer's file, JSON."""
        data = {"format": FORMAT, "kind": self.kind, **self.content()}
        return (json.dumps(data, ensure_ascii=True) + "\n").encode()

    @functools.cached_property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits: equal for tokenizers that do the same."""
        return hashlib.sha256(self.artifact()).hexdigest()[:16]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.vocab_size} tokens, {self.fingerprint})"


def utf8(text: Any) -> bytes:
    """A text as UTF-8. Raises ValueError, in one line, if it is none."""
    try:
        return text.encode()
    except AttributeError as error:
        raise ValueError(f"expected text (str), got {type(text).__name__}") from error
    except UnicodeEncodeError as error:
        raise ValueError(
            f"character {error.start} of the text, U+{ord(text[error.start]):04X}, is half "
            "a character: the text was not valid UTF-8"
        ) from error
