"""Sequence to sequence with teacher forcing: the next token of a translation, given the
source and the right tokens so far.

Papers: I. Sutskever, O. Vinyals, Q. V. Le, "Sequence to Sequence Learning with Neural
Networks", 2014, https://arxiv.org/abs/1409.3215; label smoothing as in A. Vaswani et al.,
"Attention Is All You Need", 2017, https://arxiv.org/abs/1706.03762.
"""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np

from nlp.ops.cross_entropy import cross_entropy, smoothed_cross_entropy
from nlp.tasks.text_task import (
    TextTask,
    cleared,
    counted_tokens,
    token_metrics,
)
from training.metrics import Mean
from training.task import Batch

_SEGMENTS = ("source_segments", "target_segments")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequenceToSequence(TextTask):
    """Cross-entropy of each target token.

    A batch holds `source`, int32 [B, S], and `target`, int32 [B, T + 1]: bos ... eos and
    padding. The decoder reads the first T and predicts the last T; padding does not count.
    Where pairs are packed into rows (`nlp.packed_pairs`), it also holds `source_segments`,
    int32 [B, S], and `target_segments`, int32 [B, T + 1], the pair of each token, from 1;
    the bos of a pair is nobody's target.

    Args:
        model: a Linen module from (source [B, S], target [B, T]), and for packed pairs
            their segments, to logits [B, T, V].
        label_smoothing: s in [0, 1): that share of each target is spread over all tokens
            but padding. In training only, and in `loss` only: an evaluated loss is the
            plain cross-entropy, and perplexity always is of that.
        tokenizer, pad_id: as in `TextTask`.
        tokens_key, target_key: where a batch holds the source and the target.
    """

    label_smoothing: float = 0.0
    tokens_key: str = "source"
    target_key: str = "target"

    def __post_init__(self):
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(
                f"label_smoothing is {self.label_smoothing}; it must lie in [0, 1)"
            )

    def check(self, batch: Batch) -> None:
        """Raises a one-line ValueError for pairs that cannot be trained on."""
        super().check(batch)
        self._check_tokens(batch, "target_key", shift=1)
        sources, targets = (len(batch[k]) for k in (self.tokens_key, self.target_key))
        if sources != targets:
            raise ValueError(f"{sources} sources for {targets} targets; pair them")
        if _SEGMENTS[0] in batch or _SEGMENTS[1] in batch:
            self._check_segments(batch)

    def _check_segments(self, batch: Batch) -> None:
        known = inspect.signature(type(self.model).__call__).parameters
        if _SEGMENTS[0] not in known:
            raise ValueError(
                f"{type(self.model).__name__} cannot read packed pairs; take rows of one "
                "pair each, by nlp.transforms.Translation"
            )
        for name, key in zip(
            _SEGMENTS, (self.tokens_key, self.target_key), strict=True
        ):
            if name not in batch:
                raise ValueError(f"the batch has no {name!r}; packed pairs need both")
            self._check_rows(batch, name, np.shape(batch[key]))

    def prepare(self, batch: Batch, *, rng: jax.Array, train: bool) -> Batch:
        """In training, says how much each row is smoothed: `smoothing`, float32 [B]."""
        del rng
        if not train or not self.label_smoothing:
            return batch
        size = len(batch[self.target_key])
        return {**batch, "smoothing": jnp.full(size, self.label_smoothing)}

    def inputs(self, batch: Batch) -> tuple:
        pair = batch[self.tokens_key], batch[self.target_key][:, :-1]
        if _SEGMENTS[0] not in batch:
            return pair
        source, target = (batch[name] for name in _SEGMENTS)
        return *pair, source, target[:, :-1]

    def loss(
        self, outputs: jax.Array, batch: Batch
    ) -> tuple[jax.Array, dict[str, Mean]]:
        """Mean cross-entropy per target token in nats; metrics `loss`, `accuracy` and
        `perplexity`."""
        labels = batch[self.target_key][:, 1:]
        counted = labels != self.pad_id
        if _SEGMENTS[1] in batch:
            segments = batch[_SEGMENTS[1]]
            counted &= segments[:, 1:] == segments[:, :-1]
        counted = counted_tokens(counted, batch)
        logits = cleared(outputs, counted)
        labels = jnp.where(counted, labels, 0)
        losses = cross_entropy(logits, labels)
        metrics = token_metrics(losses, logits, labels, counted)
        if "smoothing" in batch:
            smoothing = batch["smoothing"][:, None]
            smoothed = smoothed_cross_entropy(logits, labels, smoothing, self.pad_id)
            metrics["loss"] = Mean.of(smoothed, counted)
        return metrics["loss"].compute(), metrics
