"""Sentence classification: one label per row of tokens.

The penalty of structured self-attention: Z. Lin, M. Feng, C. N. dos Santos, M. Yu, B. Xiang,
B. Zhou, Y. Bengio, "A Structured Self-attentive Sentence Embedding", 2017,
https://arxiv.org/abs/1703.03130.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nlp.ops.cross_entropy import cross_entropy
from nlp.tasks.text_task import TextTask, cleared, counted_tokens, find_field, real_rows
from training.metrics import Mean, Sum, accuracy
from training.task import Batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class SentenceClassification(TextTask):
    """Cross-entropy between a model's logits and the labels.

    A batch holds `tokens`, int32 [B, T], `label`, int [B], and perhaps `types`, int32
    [B, T], which the model then gets as second argument.

    Args:
        model: a Linen module from (tokens [B, T]) to logits [B, K], or to a struct with
            `logits` and perhaps `penalty`, float [B]; with K as `num_classes`.
        penalty_weight: of the mean penalty in the loss (Lin et al.: 1).
        class_names: for pictures; numbers where empty.
        label_key: where a batch holds the labels.
        tokenizer, pad_id, tokens_key: as in `TextTask`.
    """

    penalty_weight: float = 0.0
    class_names: tuple[str, ...] = ()
    label_key: str = "label"

    def __post_init__(self):
        if self.penalty_weight < 0:
            raise ValueError(
                f"penalty_weight is {self.penalty_weight}; it must not be negative"
            )

    def check(self, batch: Batch) -> None:
        """Raises a one-line ValueError for tokens or labels that cannot be trained on."""
        super().check(batch)
        tokens = np.asarray(batch[self.tokens_key])
        if "types" in batch:
            self._check_rows(batch, "types", tokens.shape)
        self._require(batch, "label_key")
        label = np.asarray(batch[self.label_key])
        if label.shape != tokens.shape[:1] or label.dtype.kind not in "iu":
            raise ValueError(
                f"labels are {label.dtype} of shape {label.shape}; expected one integer "
                f"for each of {len(tokens)} rows"
            )
        num_classes = find_field(self.model, "num_classes")
        if num_classes is None:
            raise ValueError(
                f"{type(self.model).__name__} has no num_classes; give the model one"
            )
        label = label[real_rows(batch, len(tokens))]
        for bad in label[(label < 0) | (label >= num_classes)][:1]:
            remedy = (
                "labels count from 0"
                if bad < 0
                else f"set model.num_classes to at least {bad + 1}"
            )
            raise ValueError(f"label {bad} is outside [0, {num_classes}); {remedy}")

    def inputs(self, batch: Batch) -> tuple:
        tokens = batch[self.tokens_key]
        return (tokens, batch["types"]) if "types" in batch else (tokens,)

    def loss(self, outputs: Any, batch: Batch) -> tuple[jax.Array, dict[str, Mean]]:
        """Mean cross-entropy plus the weighted mean penalty; metrics `loss` (the sum),
        `accuracy` and, where there is a penalty, `penalty` and `cross_entropy`."""
        label = batch[self.label_key].astype(jnp.int32)
        real = counted_tokens(jnp.ones((len(label), 1), bool), batch)[:, 0]
        logits = cleared(getattr(outputs, "logits", outputs), real)
        label = jnp.where(real, label, 0)
        entropy = Mean.of(cross_entropy(logits, label), real)
        metrics = {"loss": entropy, "accuracy": accuracy(logits, label, real)}
        penalty = getattr(outputs, "penalty", None)
        if penalty is not None:
            mean = Mean.of(jnp.where(real, penalty, 0), real)
            metrics |= {
                "loss": Sum((entropy, mean), (1.0, self.penalty_weight)),
                "cross_entropy": entropy,
                "penalty": mean,
            }
        return metrics["loss"].compute(), metrics
