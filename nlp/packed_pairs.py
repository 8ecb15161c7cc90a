"""Pairs of texts packed into rows, so that little of a batch is padding.

Paper: C. Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
Transformer", 2019, https://arxiv.org/abs/1910.10683, section 3.1.2 (packing).
"""

from typing import Any

import numpy as np

from nlp.sources import text_of
from nlp.transforms import check_lengths, framed, padded

# Pairs encoded at a time: enough to keep all cores busy.
_CHUNK = 512
# Rows that are still being filled at a time.
_OPEN = 64


class PackedPairs:
    """Pairs for sequence-to-sequence models side by side in rows, each a whole example.

    Example i: `source` and `source_segments`, int32 [source_length]; `target` and
    `target_segments`, int32 [target_length + 1], one more than the decoder reads. Segments
    count the pairs of the row from 1 and are 0 where padding is; a source is its tokens and
    eos, a target bos, its tokens, and eos. A pair goes where it leaves the least room among
    the rows that are being filled; pairs are taken in the order of the data.

    It encodes its corpus once, when it is built, and keeps the tokens in memory (4 bytes
    each). For models that take segments: those of `nlp.layers.encoder_decoder`.

    Args:
        pairs: a source of examples with two fields of text.
        tokenizer: of both texts.
        source, target: the fields of the texts.
        source_length, target_length: of a row.
        target_tokenizer: of the target, if it has one of its own.
        on_long: 'error' refuses a text longer than a row; 'truncate' cuts off its end,
            before eos.

    Raises:
        ValueError: a text is too long or no text, there is none, or a length is too small.
    """

    def __init__(
        self,
        pairs: Any,
        tokenizer: Any,
        source: str,
        target: str,
        source_length: int,
        target_length: int,
        target_tokenizer: Any = None,
        on_long: str = "error",
    ):
        check_lengths(on_long, source_length=source_length, minimum=1)
        check_lengths(on_long, target_length=target_length, minimum=1)
        if not len(pairs):
            raise ValueError("there are no pairs to pack; the source is empty")
        target_tokenizer = target_tokenizer or tokenizer
        tokenizers, length = (tokenizer, target_tokenizer), target_length + 1
        texts: tuple[list, list] = ([], [])
        for i in range(0, len(pairs), _CHUNK):
            chunk = [pairs[j] for j in range(i, min(i + _CHUNK, len(pairs)))]
            for side, field in enumerate((source, target)):
                found = [text_of(x, field, i + j) for j, x in enumerate(chunk)]
                texts[side].extend(tokenizers[side].encode_all(found))
        framing = {"add_eos": True, "on_long": on_long}
        self._sides = {
            "source": _Texts(texts[0], tokenizer, source_length, source, framing),
            "target": _Texts(
                texts[1], target_tokenizer, length, target, framing | {"add_bos": True}
            ),
        }
        sizes = np.stack([side.sizes for side in self._sides.values()], axis=1)
        self._rows = _packed(sizes, (source_length, length))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        row, example = self._rows[index], {}
        for name, side in self._sides.items():
            segments = np.repeat(np.arange(1, len(row) + 1), side.sizes[row])
            example[name] = side.row(row)
            example[f"{name}_segments"] = padded(segments, side.length, 0)
        return example

    def describe(self, index: int) -> str:
        """Names the record in an error."""
        pairs = ", ".join(str(i) for i in self._rows[index])
        return f"row {index} of packed pairs ({pairs})"


class _Texts:
    """The tokens of all texts in one array, of which rows of `length` are made."""

    def __init__(self, texts, tokenizer, length, field, framing):
        self.length, self._pad_id = length, tokenizer.pad_id
        rows = [
            framed(tokenizer, ids, length, name=f"{field} of example {i}", **framing)
            for i, ids in enumerate(texts)
        ]
        self.sizes = np.array([len(row) for row in rows])
        self._starts = np.concatenate([[0], np.cumsum(self.sizes)])
        self._tokens = np.concatenate(rows)

    def row(self, indices: list[int]) -> np.ndarray:
        """int32 [length]: those texts, one after the other, and padding."""
        starts = self._starts
        found = [self._tokens[starts[i] : starts[i + 1]] for i in indices]
        return padded(np.concatenate(found), self.length, self._pad_id)


def _packed(sizes: np.ndarray, lengths: tuple[int, int]) -> list[list[int]]:
    """Rows of pairs, given each pair's sizes, int [N, 2], none above a row's lengths."""
    rows: list[list[int]] = []
    room = np.zeros((0, 2), int)  # of the rows in `owners`
    owners: list[int] = []
    for i, size in enumerate(sizes):
        left = np.where((room >= size).all(1), room.sum(1), np.iinfo(int).max)
        if len(owners) and left.min() < np.iinfo(int).max:
            place = int(left.argmin())
        else:
            if len(owners) == _OPEN:
                full = int(room.sum(1).argmin())
                room = np.delete(room, full, axis=0)
                del owners[full]
            place = len(owners)
            owners.append(len(rows))
            rows.append([])
            room = np.concatenate([room, [lengths]])
        rows[owners[place]].append(i)
        room[place] -= size
    return rows
