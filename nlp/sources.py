"""Random access to token streams: windows of a corpus, packed documents, sentence pairs.

These are sources like those of the `data` room, made of one and a tokenizer. They encode
their corpus once, when they are built, and keep its tokens in memory (4 bytes each). For a
corpus too large for that, take `nlp.transforms.Tokenize` and `CropTokens` instead.
"""

import bisect
import itertools
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from nlp.transforms import framed, padded

# Documents encoded at a time: enough to keep all cores busy.
_CHUNK = 512
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")


class Windows:
    """Stretches of a corpus: all its documents, one after the other.

    Example i: `tokens`, int32 [length], from token i * stride on. The last stretch is
    padded; where that happens, every example has `segments`, int32 [length], 1 for tokens
    and 0 for padding. By default windows share one token, so that each token of the corpus
    but the first is once the target of a causal language model.

    Args:
        source: examples with a field of text.
        tokenizer: see `nlp.tokenizers`.
        length: of an example; a causal model reads one token less.
        stride: from one window to the next; None: `length - 1`, or for `frame` as many as
            there is room for. 1 makes every place of the corpus an example.
        field: the text.
        add_bos, add_eos: put `bos_id` before, `eos_id` after each document.
        frame: an example is bos, tokens, eos: for encoders.
        characters: also `characters`, int32 []: how many the tokens but the first stand
            for, for bits per character.

    Raises:
        ValueError: the corpus is empty, a document is no text, or a length is out of range.
    """

    def __init__(
        self,
        source: Any,
        tokenizer: Any,
        length: int,
        stride: int | None = None,
        field: str = "text",
        add_bos: bool = False,
        add_eos: bool = False,
        frame: bool = False,
        characters: bool = False,
    ):
        self._room = length - 2 if frame else length
        if stride is None:
            stride = max(1, self._room if frame else length - 1)
        if self._room < 1 or not 1 <= stride <= self._room:
            raise ValueError(
                f"length {length} and stride {stride} are out of range; a window holds "
                "at least one token, and windows leave none out"
            )
        if frame and characters:
            raise ValueError(
                "characters are of causal rows; leave out frame or characters"
            )
        self.length, self.stride = length, stride
        self._tokenizer, self._frame = tokenizer, frame
        documents = _Documents(source, tokenizer, field, add_bos, add_eos, characters)
        self._tokens, self._covered = documents.tokens, documents.covered
        beyond = max(0, len(self._tokens) - self._room)
        self._count = 1 + -(-beyond // stride)
        self._partial = (self._count - 1) * stride + self._room > len(self._tokens)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        start = range(self._count)[index] * self.stride
        row = self._tokens[start : start + self._room]
        end = start + len(row)
        if self._frame:
            row = framed(self._tokenizer, row, add_bos=True, add_eos=True)
        example = {"tokens": padded(row, self.length, self._tokenizer.pad_id)}
        if self._partial:
            example["segments"] = padded(np.ones(len(row)), self.length, 0)
        if self._covered is not None:
            count = self._covered[end] - self._covered[start + 1]
            example["characters"] = np.int32(count)
        return example

    def describe(self, index: int) -> str:
        """Names the record in an error."""
        return f"window {index} (from token {index * self.stride} of the corpus)"


class Packed:
    """Documents side by side in rows, each of which is a whole example.

    Example i: `tokens` and `segments`, int32 [length]; segments count the documents of the
    row from 1, and are 0 where padding is. A document that fits into a row is in one piece;
    a longer one is cut into pieces that share one token, so that every token but the first
    is once the target of a causal language model. Rows are filled by best fit, the longest
    piece first.

    Args:
        source, tokenizer, length, field, add_bos, add_eos: as for `Windows`.
        characters: also `characters`, int32 []: how many the targets of the row stand for.

    Raises: as `Windows`.
    """

    def __init__(
        self,
        source: Any,
        tokenizer: Any,
        length: int,
        field: str = "text",
        add_bos: bool = False,
        add_eos: bool = True,
        characters: bool = False,
    ):
        if length < 2:
            raise ValueError(f"length is {length}; a row holds at least two tokens")
        self.length = length
        self._pad_id = tokenizer.pad_id
        documents = _Documents(source, tokenizer, field, add_bos, add_eos, characters)
        self._tokens, self._covered = documents.tokens, documents.covered
        pieces = [
            (start, min(length, end - start))
            for first, end in documents.places
            for start in range(first, max(first + 1, end - 1), length - 1)
        ]
        self._rows = _best_fit(pieces, length)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        pieces = self._rows[index]
        tokens = np.concatenate([self._tokens[s : s + n] for s, n in pieces])
        segments = np.repeat(np.arange(1, len(pieces) + 1), [n for _, n in pieces])
        example = {
            "tokens": padded(tokens, self.length, self._pad_id),
            "segments": padded(segments, self.length, 0),
        }
        if self._covered is not None:
            covered = self._covered
            count = sum(covered[s + n] - covered[s + 1] for s, n in pieces)
            example["characters"] = np.int32(count)
        return example

    def describe(self, index: int) -> str:
        """Names the record in an error."""
        return f"row {index} of packed documents"


class SentencePairs:
    """Two stretches of sentences, of which the second follows the first, or does not.

    Example i: `a` and `b`, int32 [T] of varying length, and `is_next`, int32 []: 1 if b is
    what follows a, 0 if it is from another document. Half are each. To be joined by
    `nlp.transforms.SentencePair`.

    Paper: J. Devlin et al., "BERT", 2018, https://arxiv.org/abs/1810.04805, its appendix
    A.2. Which pairs there are is drawn once, as in the authors' code; a tenth of shorter
    ones is left out.

    Args:
        source, tokenizer, field: as for `Windows`; sentences end at the end of a line, or
            at a full stop, question or exclamation mark before a space.
        length: of the row that a pair shall fill, with its three special tokens.
        copies: how often the corpus is gone through, with other draws each time.
        seed: of the draws.

    Raises:
        ValueError: there are fewer than two documents with sentences.
    """

    def __init__(
        self,
        source: Any,
        tokenizer: Any,
        length: int,
        field: str = "text",
        copies: int = 1,
        seed: int = 0,
    ):
        if length < 5 or copies < 1:
            raise ValueError(
                f"length is {length} and copies {copies}; they must be at least 5 and 1"
            )
        self._tokens, ends, documents = _sentences(source, tokenizer, field)
        if len(documents) < 2:
            raise ValueError(
                f"{len(documents)} documents have sentences; pairs need at least two"
            )
        self._starts = np.concatenate([[0], ends])
        rng = np.random.default_rng(seed)
        self._pairs = [
            pair
            for _ in range(copies)
            for i in range(len(documents))
            for pair in self._drawn(documents, i, length - 3, rng)
        ]

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        a, b, is_next = self._pairs[index]
        a, b = (self._tokens[self._starts[i] : self._starts[j]] for i, j in (a, b))
        return {"a": a, "b": b, "is_next": np.int32(is_next)}

    def describe(self, index: int) -> str:
        """Names the record in an error."""
        return f"pair {index} of sentences"

    def _drawn(
        self,
        documents: list[tuple[int, int]],
        own: int,
        room: int,
        rng: np.random.Generator,
    ) -> Iterator[tuple[tuple[int, int], tuple[int, int], int]]:
        """((first, end) of a, the same of b, is_next), in sentences, of one document."""
        first, end = documents[own]
        while first < end:
            stop = self._fill(first, end, room)
            middle = first + 1
            if stop - first > 1:
                middle = int(rng.integers(first + 1, stop))
            if stop - first > 1 and rng.random() < 0.5:
                yield (first, middle), (middle, stop), 1
                first = stop
                continue
            other = int(rng.integers(len(documents) - 1))
            low, high = documents[other + (other >= own)]
            start = int(rng.integers(low, high))
            used = self._starts[middle] - self._starts[first]
            yield (first, middle), (start, self._fill(start, high, room - used)), 0
            first = middle  # what b would have been is still to be read

    def _fill(self, first: int, end: int, room: int) -> int:
        """Where sentences from `first` on fill the room, at `end` at the latest."""
        target = self._starts[first] + room
        return min(end, max(first + 1, int(np.searchsorted(self._starts, target))))


class _Documents:
    """A corpus as one array of tokens, with the (first, end) place of each document, and
    where wanted how many characters the tokens before each place stand for."""

    def __init__(self, source, tokenizer, field, add_bos, add_eos, characters):
        parts, lengths, places, place = [], [], [], 0
        for ids, counts in _encoded(source, tokenizer, field, characters):
            row = framed(tokenizer, ids, add_bos=add_bos, add_eos=add_eos)
            if not len(ids):
                continue
            parts.append(row)
            places.append((place, place + len(row)))
            place += len(row)
            if characters:
                lengths.append(np.pad(counts, (int(add_bos), int(add_eos))))
        if not parts:
            raise ValueError(
                f"the corpus has no text in the field {field!r} of its {len(source)} examples"
            )
        self.tokens = np.concatenate(parts)
        self.tokens.flags.writeable = False
        self.places = places
        self.covered = None
        if characters:
            self.covered = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])


def _encoded(source, tokenizer, field, characters) -> Iterator[tuple[Any, Any]]:
    """(ids, characters of each or None) of every document."""
    for texts in _chunks(_texts(source, field)):
        if characters:
            yield from (tokenizer.spans(text) for text in texts)
        else:
            yield from ((ids, None) for ids in tokenizer.encode_all(texts))


def text_of(example: dict[str, Any], field: str, index: int) -> str:
    """A field of an example, for whose error `index` is. Raises ValueError if it is no text."""
    text = example.get(field)
    if type(text) is not str:
        raise ValueError(
            f"field {field!r} of example {index} is {type(text).__name__}, not text; its "
            f"fields are {', '.join(example)}"
        )
    return text


def _texts(source: Any, field: str) -> Iterator[str]:
    return (text_of(source[i], field, i) for i in range(len(source)))


def _chunks(items: Iterator[Any]) -> Iterator[list[Any]]:
    chunk = []
    for item in items:
        chunk.append(item)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _sentences(source, tokenizer, field) -> tuple[np.ndarray, np.ndarray, list]:
    """(tokens, the end of each sentence among them, (first, end) sentence of documents)."""
    counts = []

    def split() -> Iterator[str]:
        for text in _texts(source, field):
            found = [s.strip() for s in _SENTENCE_END.split(text) if s.strip()]
            counts.append(len(found))
            yield from found

    parts = [ids for chunk in _chunks(split()) for ids in tokenizer.encode_all(chunk)]
    ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
    bounds = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).tolist()
    documents = [(a, b) for a, b in itertools.pairwise(bounds) if b > a]
    empty = np.zeros(0, np.int32)
    return np.concatenate([empty, *parts]), ends, documents


def _best_fit(
    pieces: list[tuple[int, int]], length: int
) -> list[list[tuple[int, int]]]:
    """Rows of (start, size) pieces: each goes where it leaves the least room."""
    rows, open_rows = [], []  # of the latter (room, row), sorted
    for start, size in sorted(pieces, key=lambda piece: -piece[1]):
        place = bisect.bisect_left(open_rows, (size, -1))
        if place < len(open_rows):
            room, row = open_rows.pop(place)
        else:
            room, row = length, len(rows)
            rows.append([])
        rows[row].append((start, size))
        if room > size:
            bisect.insort(open_rows, (room - size, row))
    return rows
