"""Denoising: an encoder reads a damaged text, a decoder writes what it was.

Papers: see `nlp.ops.span_corruption`.

Texts are damaged on the device, in `prepare`, and not by a transform of the data: the
step's rng is at hand there, so that every epoch is damaged anew and any step can be
repeated; shapes are static; and an evaluation draws from a row's own tokens, which gives
the same damage whatever the batch size, the padding and the devices.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from nlp.ops import span_corruption
from nlp.tasks.sequence_to_sequence import SequenceToSequence
from nlp.tasks.text_task import TextTask, find_field, real_rows
from training.task import Batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Denoising(SequenceToSequence):
    """What is damaged, and how, is a subclass's `damage`.

    A batch holds `tokens`, int32 [B, T]: running text without bos and eos, all padding at
    the end of a row. A prepared one also has `source` and `target`, as in
    `SequenceToSequence`, whose loss it is.

    Args:
        density: share of the tokens that is lost.
        bos_id, eos_id: start the target, end source and target. (T5's published weights
            start it with padding.)
        model, tokenizer, pad_id, label_smoothing: as in `SequenceToSequence`.
        tokens_key: where a batch holds the text.
    """

    density: float
    bos_id: int = 1
    eos_id: int = 2
    tokens_key: str = "tokens"

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.density < 1:
            raise ValueError(
                f"density is {self.density}; it must lie between 0 and 1, both excluded"
            )

    def damage(self, key: jax.Array, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        """One row: key, tokens int32 [T] -> source int32 [S], target int32 [U + 1]."""
        raise NotImplementedError

    def check(self, batch: Batch) -> None:
        """Raises a one-line ValueError for texts that cannot be trained on."""
        TextTask.check(self, batch)
        tokens = np.asarray(batch[self.tokens_key])
        row = jax.ShapeDtypeStruct(tokens.shape[1:], jnp.int32)
        shapes = jax.eval_shape(self.damage, jax.random.key(0), row)
        source, target = (x.shape[0] for x in shapes)
        longest = find_field(self.model, "max_length")
        needed = max(source, target - 1)
        if longest is not None and needed > longest:
            raise ValueError(
                f"texts of {tokens.shape[1]} tokens become sources of {source} and targets "
                f"of {target - 1} for a model with max_length={longest}; cut them shorter, "
                "or set model.max_length"
            )
        real = tokens[real_rows(batch, len(tokens))]
        padding = real == self.pad_id
        if (padding[:, :-1] & ~padding[:, 1:]).any():
            raise ValueError(
                f"a row has padding (token {self.pad_id}) before a token; move it to the "
                "end, or set task.pad_id"
            )

    def prepare(self, batch: Batch, *, rng: jax.Array, train: bool) -> Batch:
        """Adds `source` and `target`."""
        tokens = batch[self.tokens_key].astype(jnp.int32)
        keys = self.row_keys(tokens, rng, train)
        source, target = jax.vmap(self.damage)(keys, tokens)
        batch = {**batch, "source": source, self.target_key: target}
        return super().prepare(batch, rng=rng, train=train)

    def inputs(self, batch: Batch) -> tuple:
        return batch["source"], batch[self.target_key][:, :-1]

    def plain_inputs(self, batch: Batch) -> tuple:
        """The text as it is, for encoder and decoder."""
        tokens = batch[self.tokens_key]
        bos = jnp.full_like(tokens[:, :1], self.bos_id)
        return tokens, jnp.concatenate([bos, tokens[:, :-1]], axis=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpanCorruption(Denoising):
    """T5: spans become sentinels, and the target says what each stood for.

    For texts of T tokens the source has T - lost + spans + 1 and the target lost + spans +
    1 tokens (`nlp.ops.span_corruption.corrupted_lengths`).

    Args:
        mean_span: tokens per span, on average.
        first_sentinel: the token of the first span, the next ones count down from it. None
            takes the last of the model's vocabulary, which needs room for them above the
            tokenizer's ids. (T5's published weights: 32099.)
        The others: as in `Denoising`.
    """

    density: float = 0.15
    mean_span: float = 3.0
    first_sentinel: int | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.mean_span < 1:
            raise ValueError(f"mean_span is {self.mean_span}; it must be at least 1")

    def check(self, batch: Batch) -> None:
        """Raises a one-line ValueError also if sentinels are tokens of the text."""
        super().check(batch)
        tokens = np.asarray(batch[self.tokens_key])
        spans = self.num_sentinels(tokens.shape[1])
        last = self.last_sentinel
        lowest = last - spans + 1
        tokens = tokens[real_rows(batch, len(tokens))]
        met = tokens[(tokens >= lowest) & (tokens <= last)].max(initial=-1)
        if self.first_sentinel is None:
            # Sentinels are above the tokenizer's ids, even those this batch lacks.
            size = getattr(self.tokenizer, "vocab_size", 0)
            met = max(met, size - 1 if size > lowest else -1)
        if met >= 0:
            raise ValueError(
                f"token {met} meets the {spans} sentinels, {lowest} to {last}; set "
                f"model.vocab_size to at least {met + 1 + spans}"
            )

    def num_sentinels(self, length: int) -> int:
        """How many sentinels texts of so many tokens need."""
        return span_corruption.corrupted_lengths(length, self.density, self.mean_span)[
            2
        ]

    @property
    def last_sentinel(self) -> int:
        """The highest sentinel, of the first span.

        Raises:
            ValueError: neither the task nor the model says where sentinels are.
        """
        if self.first_sentinel is not None:
            return self.first_sentinel
        vocab_size = find_field(self.model, "vocab_size")
        if vocab_size is None:
            raise ValueError(
                f"{type(self.model).__name__} has no vocab_size to count sentinels from; "
                "set task.first_sentinel"
            )
        return vocab_size - 1

    def damage(self, key: jax.Array, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        return span_corruption.corrupt_spans(
            key,
            tokens,
            density=self.density,
            mean_span=self.mean_span,
            first_sentinel=self.last_sentinel,
            pad_id=self.pad_id,
            bos_id=self.bos_id,
            eos_id=self.eos_id,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextInfilling(Denoising):
    """BART: spans of Poisson length become one mask each, sentences may change places, and
    the target is the whole text.

    Args:
        mean_span: of the Poisson distribution.
        sentence_ends: tokens that end a sentence; sentences are permuted if there are any.
        mask_id: the mask token.
        The others: as in `Denoising`.
    """

    density: float = 0.3
    mean_span: float = 3.0
    sentence_ends: tuple[int, ...] = ()
    mask_id: int = 4

    def __post_init__(self):
        super().__post_init__()
        if self.mean_span <= 0:
            raise ValueError(f"mean_span is {self.mean_span}; it must be positive")

    def damage(self, key: jax.Array, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        order_key, hole_key = jax.random.split(key)
        permuted = tokens
        if self.sentence_ends:
            permuted = span_corruption.permute_sentences(
                order_key, tokens, self.sentence_ends, self.pad_id
            )
        source = span_corruption.infill(
            hole_key,
            permuted,
            density=self.density,
            mean_span=self.mean_span,
            mask_id=self.mask_id,
            pad_id=self.pad_id,
            eos_id=self.eos_id,
        )
        real = (tokens != self.pad_id).sum()
        end = jnp.where(real > 0, self.eos_id, self.pad_id)
        padded = jnp.concatenate([tokens, jnp.full(1, self.pad_id, tokens.dtype)])
        bos = jnp.where(real > 0, self.bos_id, self.pad_id).astype(tokens.dtype)
        return source, jnp.concatenate([bos[None], padded.at[real].set(end)])


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedFragment(Denoising):
    """MASS: a run of half the tokens becomes masks, and the target is the run.

    Deviation: the decoder numbers the run's places from 0 and not as they were in the text.

    Args:
        mask_id: the mask token.
        The others: as in `Denoising`.
    """

    density: float = 0.5
    mask_id: int = 4

    def damage(self, key: jax.Array, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        return span_corruption.cut_fragment(
            key,
            tokens,
            density=self.density,
            mask_id=self.mask_id,
            pad_id=self.pad_id,
            bos_id=self.bos_id,
            eos_id=self.eos_id,
        )
