"""Image classification: one label per image, or several with `sigmoid=True`.

Sigmoid cross-entropy trains one independent yes-or-no question per class; on single
labels it matches or beats softmax: L. Beyer, O. J. Henaff, A. Kolesnikov, X. Zhai,
A. van den Oord, "Are we done with ImageNet?", 2020, https://arxiv.org/abs/2006.07159.
Label smoothing: C. Szegedy, V. Vanhoucke, S. Ioffe, J. Shlens, Z. Wojna, "Rethinking the
Inception Architecture for Computer Vision", 2015, https://arxiv.org/abs/1512.00567.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from training.metrics import Mean, accuracy
from training.task import Batch
from vision import visualize
from vision.ops.mixing import Mixing
from vision.tasks.image_task import ImageTask


def softmax_cross_entropy(logits: jax.Array, target: jax.Array) -> jax.Array:
    """-sum over classes of target * log softmax(logits): float32 [..., K] -> [...]."""
    return -(target * jax.nn.log_softmax(logits)).sum(-1)


def sigmoid_cross_entropy(logits: jax.Array, target: jax.Array) -> jax.Array:
    """Sum over classes of the binary cross-entropies: float32 [..., K] -> [...]."""
    yes, no = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    return -(target * yes + (1 - target) * no).sum(-1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classification(ImageTask):
    """Cross-entropy between a model's logits and the labels.

    A batch holds `image`, uint8 in 0..255 or float in 0..1 [B, H, W, C], `label`, int [B]
    or (0 or 1 for every class) [B, K], and perhaps `mask`, bool [B]. Smoothing and mixing
    touch training only, so that an evaluated loss is the plain cross-entropy.

    Args:
        model: a Linen module from images to logits [B, K], with K as `num_classes`.
        sigmoid: one yes-or-no question per class, summed; else softmax.
        auxiliary_weight: of the cross-entropy of every further head of a model that
            returns a tuple of logits in training: GoogLeNet's 0.3.
        label_smoothing: s in [0, 1); targets become (1 - s) * target + s / K.
        mixing: a mixing of `vision.ops.mixing`; None for none. Training metrics then
            count the class of the largest share as the label.
        mean, std: of images in 0..1, one value or one per channel; the model sees
            (image - mean) / std.
        class_names: for pictures; numbers where empty.
        image_key, label_key: where a batch holds them.
    """

    sigmoid: bool = False
    auxiliary_weight: float = 0.3
    label_smoothing: float = 0.0
    mixing: Mixing | None = None
    class_names: tuple[str, ...] = ()
    label_key: str = "label"

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(
                f"label_smoothing is {self.label_smoothing}; it must lie in [0, 1)"
            )

    def check(self, batch: Batch) -> None:
        """Raises a one-line ValueError for labels or images that cannot be trained on."""
        super().check(batch)
        self._require(batch, "label_key")
        label = np.asarray(batch[self.label_key])
        mask = np.asarray(batch.get("mask", np.ones(len(label), bool)))
        self._check_labels(label[mask])

    def _check_labels(self, label: np.ndarray) -> None:
        num_classes = self.model.num_classes
        if label.ndim == 2:
            if label.shape[1] != num_classes:
                raise ValueError(
                    f"labels of {label.shape[1]} classes for a model of {num_classes}; "
                    f"set model.num_classes={label.shape[1]}"
                )
            if label.size and not 0 <= label.min() <= label.max() <= 1:
                bad = label[(label < 0) | (label > 1) | np.isnan(label)][0]
                raise ValueError(
                    f"label value {bad} of a class is outside [0, 1]; use 0 and 1"
                )
            return
        if label.ndim != 1 or label.dtype.kind not in "iu":
            raise ValueError(
                f"labels are {label.dtype} of shape {label.shape}; expected one integer "
                "per image, or [batch, num_classes]"
            )
        outside = label[(label < 0) | (label >= num_classes)]
        if outside.size:
            bad = int(outside.max() if outside.max() > 0 else outside.min())
            remedy = (
                f"set model.num_classes to at least {bad + 1}"
                if bad > 0
                else "labels count from 0"
            )
            raise ValueError(f"label {bad} is outside [0, {num_classes}); {remedy}")

    def prepare(self, batch: Batch, *, rng: jax.Array, train: bool) -> Batch:
        """Normalises images; in training also makes smoothed and mixed `target`s."""
        batch = super().prepare(batch, rng=rng, train=train)
        if train and (self.mixing is not None or self.label_smoothing):
            target = self._target(batch)
            if self.mixing is not None:
                batch[self.image_key], target = self.mixing(
                    batch[self.image_key], target, rng=rng, mask=batch.get("mask")
                )
            smoothing = self.label_smoothing
            batch["target"] = (1 - smoothing) * target + smoothing / target.shape[-1]
        return batch

    def loss(
        self, outputs: jax.Array | tuple[jax.Array, ...], batch: Batch
    ) -> tuple[jax.Array, dict[str, Mean]]:
        """Mean cross-entropy (of a tuple's further logits `auxiliary_weight` times, on top);
        metrics `loss`, `accuracy` and, beyond 5 classes, `top5_accuracy`. With several
        labels per image, a guess that is one of them is right, and there is no
        `top5_accuracy`."""
        mask = batch.get("mask")
        heads = outputs if isinstance(outputs, tuple) else (outputs,)
        heads = [head.astype(jnp.float32) for head in heads]
        target = self._target(batch)
        if mask is not None:
            # Exactly zero gradient for padding, even where its logits are not finite.
            heads = [jnp.where(mask[:, None], head, 0) for head in heads]
            target = jnp.where(mask[:, None], target, 0)
        cross_entropy = sigmoid_cross_entropy if self.sigmoid else softmax_cross_entropy
        logits, *auxiliary = heads
        losses = cross_entropy(logits, target)
        for head in auxiliary:
            losses += self.auxiliary_weight * cross_entropy(head, target)
        metrics = {"loss": Mean.of(losses, mask)}
        if batch[self.label_key].ndim == 2:
            guess = logits.argmax(-1, keepdims=True)
            share = jnp.take_along_axis(target, guess, axis=-1)[..., 0]
            right = (share >= target.max(-1)) & (share > 0)
            metrics["accuracy"] = Mean.of(right, mask)
        else:
            label = target.argmax(-1)
            metrics["accuracy"] = accuracy(logits, label, mask)
            if logits.shape[-1] > 5:
                metrics["top5_accuracy"] = accuracy(logits, label, mask, k=5)
        return metrics["loss"].compute(), metrics

    def _target(self, batch: Batch) -> jax.Array:
        """float32 [B, K]: the weight of every class."""
        if "target" in batch:
            return batch["target"]
        label = batch[self.label_key]
        if label.ndim == 2:
            return label.astype(jnp.float32)
        return jax.nn.one_hot(label, self.model.num_classes, dtype=jnp.float32)

    def pictures(self, outputs: Any, batch: Batch) -> dict[str, np.ndarray]:
        """`predictions`: the first images with the guess, green where it is right."""
        real = np.asarray(batch.get("mask", np.ones(len(batch[self.image_key]), bool)))
        if not real.any():
            return {}
        image = self.denormalize(np.asarray(batch[self.image_key])[real])
        logits = np.asarray(outputs, np.float32)[real]
        guess = logits.argmax(-1)
        label = np.asarray(batch.get("target", batch[self.label_key]))[real]
        if label.ndim == 2:
            # Of several labels, show the guess if it is one, else the first.
            hit = np.take_along_axis(label, guess[:, None], axis=-1)[:, 0] > 0.5
            label = np.where(hit, guess, label.argmax(-1))
        scores = _sigmoid(logits) if self.sigmoid else _softmax(logits)
        confidence = np.take_along_axis(scores, guess[:, None], axis=-1)[:, 0]
        picture = visualize.predictions(
            image, guess, label, class_names=self.class_names, confidence=confidence
        )
        return {"predictions": picture}


def _softmax(logits: np.ndarray) -> np.ndarray:
    scores = np.exp(logits - logits.max(-1, keepdims=True))
    return scores / scores.sum(-1, keepdims=True)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits.clip(-60, 60)))
