"""Sequence to sequence with teacher forcing: the next token of a translation, given the
source and the right tokens so far.

Papers: I. Sutskever, O. Vinyals, Q. V. Le, "Sequence to Sequence Learning with Neural
Networks", 2014, https://arxiv.org/abs/1409.3215; label smoothing as in A. Vaswani et al.,
"Attention Is All You Need", 2017, https://arxiv.org/abs/1706.03762.
"""

import dataclasses

import jax
import jax.numpy as jnp

from nlp.ops.cross_entropy import cross_entropy, smoothed_cross_entropy
from nlp.tasks.text_task import (
    TextTask,
    cleared,
    counted_tokens,
    token_metrics,
)
from training.metrics import Mean
from training.task import Batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequenceToSequence(TextTask):
    """Cross-entropy of each target token.

    A batch holds `source`, int32 [B, S], and `target`, int32 [B, T + 1]: bos ... eos and
    padding. The decoder reads the first T and predicts the last T; padding does not count.

    Args:
        model: a Linen module from (source [B, S], target [B, T]) to logits [B, T, V].
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

    def prepare(self, batch: Batch, *, rng: jax.Array, train: bool) -> Batch:
        """In training, says how much each row is smoothed: `smoothing`, float32 [B]."""
        del rng
        if not train or not self.label_smoothing:
            return batch
        size = len(batch[self.target_key])
        return {**batch, "smoothing": jnp.full(size, self.label_smoothing)}

    def inputs(self, batch: Batch) -> tuple:
        return batch[self.tokens_key], batch[self.target_key][:, :-1]

    def loss(
        self, outputs: jax.Array, batch: Batch
    ) -> tuple[jax.Array, dict[str, Mean]]:
        """Mean cross-entropy per target token in nats; metrics `loss`, `accuracy` and
        `perplexity`."""
        labels = batch[self.target_key][:, 1:]
        counted = counted_tokens(labels != self.pad_id, batch)
        logits = cleared(outputs, counted)
        labels = jnp.where(counted, labels, 0)
        losses = cross_entropy(logits, labels)
        metrics = token_metrics(losses, logits, labels, counted)
        if "smoothing" in batch:
            smoothing = batch["smoothing"][:, None]
            smoothed = smoothed_cross_entropy(logits, labels, smoothing, self.pad_id)
            metrics["loss"] = Mean.of(smoothed, counted)
        return metrics["loss"].compute(), metrics
