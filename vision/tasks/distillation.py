"""Distillation: a student learns labels and, from a frozen teacher, what it would answer.

Papers: H. Touvron et al., "Training data-efficient image transformers & distillation
through attention", 2020, https://arxiv.org/abs/2012.12877, whose hard distillation takes
the teacher's guess as a label; soft distillation is that of G. Hinton, O. Vinyals, J. Dean,
"Distilling the Knowledge in a Neural Network", 2015, https://arxiv.org/abs/1503.02531.

Deviation: the soft loss is a mean over examples, as the papers write it; DeiT's code also
divides by the number of classes.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from training.metrics import Mean
from training.task import Batch
from vision.tasks.classification import Classification

KINDS = ("hard", "soft")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distillation(Classification):
    """(1 - share) * cross-entropy with the labels + share * loss from the teacher.

    In evaluation a plain classification by the student.

    Args:
        model: gives logits [B, K] in evaluation and in training a struct with `logits`,
            `distillation_logits` and `teacher_logits`, all [B, K]:
            `vision.models.deit.StudentAndTeacher`.
        kind: 'hard', cross-entropy with the class that the teacher guesses; or 'soft',
            temperature^2 * KL(teacher || student) of both softmaxes at that temperature.
        share: of the teacher, in [0, 1]; 0.5 in the paper for 'hard', 0.1 for 'soft'.
        temperature: > 0, of 'soft'; 3 in the paper.
        The others: as in `Classification`. Labels are smoothed and mixed, the teacher's
            are not; it sees the same mixed images.
    """

    kind: str = "hard"
    share: float = 0.5
    temperature: float = 3.0

    def __post_init__(self):
        super().__post_init__()
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}; known: {', '.join(KINDS)}")
        if not 0 <= self.share <= 1:
            raise ValueError(f"share is {self.share}; it must lie in [0, 1]")
        if self.temperature <= 0:
            raise ValueError(
                f"temperature is {self.temperature}; it must be positive (large is soft)"
            )

    def loss(self, outputs: Any, batch: Batch) -> tuple[jax.Array, dict[str, Mean]]:
        """Metrics: in training besides those of `Classification`, all of the class
        logits, `label_loss`, `distillation_loss` and `agreement`, the share of examples
        for which the distillation logits guess what the teacher does."""
        if not hasattr(outputs, "teacher_logits"):
            return super().loss(outputs, batch)
        _, metrics = super().loss(outputs.logits, batch)
        mask = batch.get("mask")

        def real(logits: jax.Array) -> jax.Array:
            """Zero for padding: no gradient from it, whatever it holds."""
            logits = logits.astype(jnp.float32)
            return logits if mask is None else jnp.where(mask[:, None], logits, 0)

        student, teacher = (
            real(outputs.distillation_logits),
            real(outputs.teacher_logits),
        )
        teacher = jax.lax.stop_gradient(teacher)
        of_labels = metrics["loss"]
        of_teacher = Mean.of(self._from_teacher(student, teacher), mask)
        total = (1 - self.share) * of_labels.total + self.share * of_teacher.total
        agreement = student.argmax(-1) == teacher.argmax(-1)
        metrics |= {
            "loss": Mean(total, of_labels.count),
            "label_loss": of_labels,
            "distillation_loss": of_teacher,
            "agreement": Mean.of(agreement, mask),
        }
        return metrics["loss"].compute(), metrics

    def _from_teacher(self, student: jax.Array, teacher: jax.Array) -> jax.Array:
        """float32 [B] from logits [B, K]."""
        if self.kind == "hard":
            guess = teacher.argmax(-1, keepdims=True)
            log_odds = jax.nn.log_softmax(student)
            return -jnp.take_along_axis(log_odds, guess, axis=-1)[:, 0]
        student = jax.nn.log_softmax(student / self.temperature)
        teacher = jax.nn.log_softmax(teacher / self.temperature)
        divergence = (jnp.exp(teacher) * (teacher - student)).sum(-1)
        return self.temperature**2 * divergence
