"""Transforms of text and tokens: (example, rng) -> example, numpy only, in any process.

Rows of a batch have one length, so a pipeline of texts ends with padding: `Tokenize` and
`Pad`, or `Translation` and `SentencePair`, which pad themselves. What does not fit is an
error unless the config asks for truncation.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Example = dict[str, Any]

_ON_LONG = ("truncate", "error")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tokenize:
    """Texts become token ids, int32 [T], of varying length.

    Args:
        tokenizer: see `nlp.tokenizers`.
        fields: field of the text -> field of its tokens.
        max_length: tokens at most, with bos and eos; None: as many as there are.
        add_bos: begin with `bos_id`.
        add_eos: end with `eos_id`, also when truncated.
        on_long: 'error' refuses a text of more tokens; 'truncate' cuts off its end.

    Raises (when called):
        ValueError: a text is too long, missing, or no text.
    """

    tokenizer: Any
    fields: Mapping[str, str] = dataclasses.field(
        default_factory=lambda: {"text": "tokens"}
    )
    max_length: int | None = None
    add_bos: bool = False
    add_eos: bool = False
    on_long: str = "error"

    def __post_init__(self):
        check_lengths(
            self.on_long,
            max_length=self.max_length,
            minimum=1 + self.add_bos + self.add_eos,
        )

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        del rng
        example = dict(example)
        for field, name in self.fields.items():
            example[name] = framed(
                self.tokenizer,
                _tokens(self.tokenizer, example, field),
                self.max_length,
                add_bos=self.add_bos,
                add_eos=self.add_eos,
                on_long=self.on_long,
                name=field,
            )
        return example


@dataclasses.dataclass(frozen=True, kw_only=True)
class Translation:
    """A pair of texts for sequence-to-sequence models, padded.

    `source`: int32 [source_length], tokens and eos: just eos where the text is empty.
    `target`: int32 [target_length + 1], bos, tokens, eos: one more than the decoder reads.

    Args:
        tokenizer: of both texts.
        source, target: the fields of the texts.
        source_length: with eos.
        target_length: of what the decoder reads, bos and tokens.
        target_tokenizer: of the target, if it has one of its own.
        prefix: put before every source text, T5's 'translate English to German: ' say.
        on_long: 'error' refuses longer texts; 'truncate' cuts off their ends, before eos.

    Raises (when called):
        ValueError: a text is too long, missing, or no text.
    """

    tokenizer: Any
    source: str
    target: str
    source_length: int
    target_length: int
    target_tokenizer: Any = None
    prefix: str = ""
    on_long: str = "error"

    def __post_init__(self):
        check_lengths(self.on_long, source_length=self.source_length, minimum=1)
        check_lengths(self.on_long, target_length=self.target_length, minimum=1)

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        del rng
        read, write = self.tokenizer, self.target_tokenizer or self.tokenizer
        source = framed(
            read,
            _tokens(read, example, self.source, self.prefix),
            self.source_length,
            add_eos=True,
            on_long=self.on_long,
            name=self.source,
        )
        target = framed(
            write,
            _tokens(write, example, self.target),
            self.target_length + 1,
            add_bos=True,
            add_eos=True,
            on_long=self.on_long,
            name=self.target,
        )
        return {
            **example,
            "source": padded(source, self.source_length, read.pad_id),
            "target": padded(target, self.target_length + 1, write.pad_id),
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class SentencePair:
    """Two texts in one row, as BERT reads them: bos a eos b eos, padded.

    `tokens`: int32 [length]. `types`: int32 [length], 0 up to the first eos, 1 from there to
    the second, 0 for padding. They replace the two fields; others (`is_next`, a label) stay.

    Args:
        tokenizer: gives the special tokens, and encodes texts.
        length: of the row.
        fields: of a and b: texts, or tokens as `nlp.sources.SentencePairs` gives.
        on_long: 'truncate' drops tokens from the end of the longer one, one by one, as the
            paper does; 'error' refuses.

    Raises (when called):
        ValueError: the pair is too long, or a field is missing.
    """

    tokenizer: Any
    length: int
    fields: Sequence[str] = ("a", "b")
    on_long: str = "truncate"

    def __post_init__(self):
        check_lengths(self.on_long, length=self.length, minimum=5)
        if len(self.fields) != 2:
            raise ValueError(f"fields are {tuple(self.fields)}; a pair has two")

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        del rng
        a, b = (
            example[field]
            if isinstance(example.get(field), np.ndarray)
            else _tokens(self.tokenizer, example, field)
            for field in self.fields
        )
        room = self.length - 3
        if len(a) + len(b) > room:
            if self.on_long == "error":
                raise ValueError(
                    f"the pair {' and '.join(self.fields)} has {len(a) + len(b) + 3} "
                    f"tokens, more than length={self.length}; set on_long='truncate'"
                )
            # The longer one is cut until both are equally long, then both.
            kept = max(room - min(len(a), len(b)), -(-room // 2))
            a, b = (a[:kept], b[: room - min(len(a), kept)])
        bos, eos = [self.tokenizer.bos_id], [self.tokenizer.eos_id]
        tokens = np.concatenate([bos, a, eos, b, eos]).astype(np.int32)
        types = np.repeat(np.array([0, 1], np.int32), [len(a) + 2, len(b) + 1])
        # Tokens of varying length could not be stacked to a batch.
        rest = {k: v for k, v in example.items() if k not in self.fields}
        return {
            **rest,
            "tokens": padded(tokens, self.length, self.tokenizer.pad_id),
            "types": padded(types, self.length, 0),
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class CropTokens:
    """A stretch of tokens from a random place; shorter ones stay as they are.

    For corpora too large for `nlp.sources.Windows`: one stretch of each document an epoch.

    Args:
        length: of the stretch.
        fields: of tokens [T]; those of an example are cut at the same place.
    """

    length: int
    fields: Sequence[str] = ("tokens",)

    def __post_init__(self):
        check_lengths("error", length=self.length, minimum=1)

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        longest = max(len(_field(example, field)) for field in self.fields)
        start = int(rng.integers(max(1, longest - self.length + 1)))
        cut = {f: example[f][start : start + self.length] for f in self.fields}
        return {**example, **cut}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pad:
    """Rows of tokens get one length.

    Args:
        length: of the rows.
        fields: of tokens [T].
        value: the token of padding.
        segments: None, or the field that tells what is padding: int32 [length], 1 for
            tokens and 0 for padding, which causal language modelling needs.

    Raises (when called):
        ValueError: a row is longer.
    """

    length: int
    fields: Sequence[str] = ("tokens",)
    value: int = 0
    segments: str | None = None

    def __post_init__(self):
        check_lengths("error", length=self.length, minimum=1)

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        del rng
        example = dict(example)
        for field in self.fields:
            tokens = _field(example, field)
            if len(tokens) > self.length:
                raise ValueError(
                    f"{field} has {len(tokens)} tokens, more than length={self.length}; "
                    "raise it, or truncate with Tokenize's max_length and on_long"
                )
            example[field] = padded(np.asarray(tokens), self.length, self.value)
            if self.segments is not None:
                ones = np.ones(len(tokens), np.int32)
                example[self.segments] = padded(ones, self.length, 0)
        return example


def framed(
    tokenizer: Any,
    tokens: np.ndarray,
    max_length: int | None = None,
    *,
    add_bos: bool = False,
    add_eos: bool = False,
    on_long: str = "error",
    name: str = "text",
) -> np.ndarray:
    """Tokens between bos and eos, int32 [T], at most `max_length` with both.

    Raises:
        ValueError: there are more and `on_long` is 'error'; names the field `name`.
    """
    size = len(tokens) + add_bos + add_eos
    if max_length is not None and size > max_length:
        if on_long == "error":
            raise ValueError(
                f"{name} has {size} tokens, more than the {max_length} allowed; raise the "
                "length, or set on_long='truncate'"
            )
        tokens = tokens[: max_length - add_bos - add_eos]
    parts = [tokens]
    if add_bos:
        parts.insert(0, np.array([tokenizer.bos_id], np.int32))
    if add_eos:
        parts.append(np.array([tokenizer.eos_id], np.int32))
    return np.concatenate(parts) if len(parts) > 1 else tokens


def padded(tokens: np.ndarray, length: int, value: int) -> np.ndarray:
    """Tokens [T], then `value` up to `length`: int32 [length]."""
    row = np.full(length, value, np.int32)
    row[: len(tokens)] = tokens
    return row


def _tokens(
    tokenizer: Any, example: Example, field: str, prefix: str = ""
) -> np.ndarray:
    text = _field(example, field)
    try:
        return tokenizer.encode_array(prefix + text if prefix else text)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{field}: {error}") from error


def _field(example: Example, field: str) -> Any:
    if field not in example:
        raise ValueError(f"there is no field {field!r}, only {', '.join(example)}")
    return example[field]


def check_lengths(on_long: str, *, minimum: int, **lengths: int | None) -> None:
    """Raises ValueError for an unknown `on_long` or a length below `minimum`."""
    if on_long not in _ON_LONG:
        raise ValueError(f"on_long is {on_long!r}; it must be 'truncate' or 'error'")
    for name, length in lengths.items():
        if length is not None and length < minimum:
            raise ValueError(f"{name} is {length}; it must be at least {minimum}")
