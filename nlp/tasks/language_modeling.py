"""Causal language modelling: what comes next, at every place of a text.

Paper: A. Radford, J. Wu, R. Child, D. Luan, D. Amodei, I. Sutskever, "Language Models are
Unsupervised Multitask Learners", 2019,
https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from nlp.ops.cross_entropy import cross_entropy
from nlp.tasks.text_task import (
    TextTask,
    cleared,
    counted_tokens,
    real_rows,
    token_metrics,
)
from training.metrics import Mean
from training.task import Batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageModeling(TextTask):
    """Cross-entropy of each token given those before it in its document.

    A batch holds `tokens`, int32 [B, L + 1]: the model reads the first L and predicts the
    last L. Where documents are packed into rows, it also holds `segments`, int32
    [B, L + 1], 0 for padding, 1, 2, ... for documents: the model gets them, to attend
    within a document only, and the first token of a document is nobody's target. Without
    segments every target counts. `characters`, int [B], says how many characters the
    counted targets of a row stand for.

    Args:
        model: a Linen module from (tokens [B, L], segments [B, L] or nothing) to logits
            [B, L, V].
        segments_key: where a batch holds them.
        tokenizer, pad_id, tokens_key: as in `TextTask`; padding is what `segments` says.
    """

    segments_key: str = "segments"

    def check(self, batch: Batch) -> None:
        """Raises a one-line ValueError for rows that cannot be trained on."""
        self._check_tokenizer()
        self._check_tokens(batch, "tokens_key", shift=1)
        tokens = np.asarray(batch[self.tokens_key])
        if self.segments_key in batch:
            self._check_rows(batch, self.segments_key, tokens.shape)
        elif self.tokenizer is not None:
            real = tokens[real_rows(batch, len(tokens))]
            if (real == self.pad_id).any():
                raise ValueError(
                    f"rows hold padding (token {self.pad_id}) and the batch has no "
                    f"{self.segments_key!r} to tell what counts; pack the texts, or set "
                    "task.segments_key"
                )
        if "characters" in batch:
            self._check_rows(batch, "characters", tokens.shape[:1])

    def inputs(self, batch: Batch) -> tuple:
        tokens = batch[self.tokens_key][:, :-1]
        if self.segments_key in batch:
            return tokens, batch[self.segments_key][:, :-1]
        return (tokens,)

    def loss(
        self, outputs: jax.Array, batch: Batch
    ) -> tuple[jax.Array, dict[str, Mean]]:
        """Mean cross-entropy per target in nats; metrics `loss`, `accuracy`, `perplexity`
        and, where characters are known, `bits_per_character`."""
        labels = batch[self.tokens_key][:, 1:]
        counted = counted_tokens(self._targets(batch), batch)
        logits = cleared(outputs, counted)
        labels = jnp.where(counted, labels, 0)
        losses = cross_entropy(logits, labels)
        metrics = token_metrics(losses, logits, labels, counted)
        if "characters" in batch:
            characters = Mean.of(batch["characters"], batch.get("mask")).total
            bits = metrics["loss"].total / math.log(2)
            metrics["bits_per_character"] = Mean(bits, characters)
        return metrics["loss"].compute(), metrics

    def _targets(self, batch: Batch) -> jax.Array:
        """bool [B, L]: targets whose document has begun before them."""
        if self.segments_key not in batch:
            return jnp.ones_like(batch[self.tokens_key][:, 1:], bool)
        segments = batch[self.segments_key]
        return (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] != 0)
