"""Classification by the lengths of capsules, which must also suffice to draw the image.

S. Sabour, N. Frosst, G. Hinton, "Dynamic Routing Between Capsules", 2017,
https://arxiv.org/abs/1710.09829.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from training.metrics import Mean
from training.task import Batch
from vision import visualize
from vision.tasks.classification import Classification

MOST_PICTURES = 16


def margin_loss(
    lengths: jax.Array,
    target: jax.Array,
    *,
    present: float = 0.9,
    absent: float = 0.1,
    absent_weight: float = 0.5,
) -> jax.Array:
    """Squared shortfalls of the classes that are there, and excesses of the others.

    Args:
        lengths: float [B, K].
        target: float [B, K]; 1 for a class that is there.
        present: length that a class which is there should reach.
        absent: length that another should not exceed.
        absent_weight: of the others; below 1, so that lengths do not all shrink at first.

    Returns:
        float32 [B], summed over classes.
    """
    lengths = lengths.astype(jnp.float32)
    short = jnp.square(jax.nn.relu(present - lengths))
    long = jnp.square(jax.nn.relu(lengths - absent))
    return (target * short + absent_weight * (1 - target) * long).sum(-1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CapsuleClassification(Classification):
    """Margin loss of the capsules' lengths, plus the error of the reconstructed image.

    The decoder sees the capsules of the true classes, in evaluation too; the guess does
    not depend on it.

    Args:
        model: called with (image, target), gives `lengths` [B, K] and `reconstruction`
            [B, H, W, C] in 0..1, or None: `vision.models.capsnet.CapsNet`.
        present, absent, absent_weight: of `margin_loss`.
        reconstruction_weight: of the sum of squared errors over an image's values in
            0..1.
        mean, std: of images in 0..1; the model sees (image - mean) / std.
        The others: as in `Classification`, of which `sigmoid` does not apply.
    """

    present: float = 0.9
    absent: float = 0.1
    absent_weight: float = 0.5
    reconstruction_weight: float = 0.0005
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self):
        super().__post_init__()
        if self.sigmoid:
            raise ValueError(
                "sigmoid is True; the margin loss asks each class by itself already"
            )
        if not 0 <= self.absent < self.present <= 1:
            raise ValueError(
                f"absent is {self.absent} and present {self.present}; lengths need "
                "0 <= absent < present <= 1"
            )
        if self.reconstruction_weight < 0:
            raise ValueError(
                f"reconstruction_weight is {self.reconstruction_weight}; it must be >= 0"
            )

    def inputs(self, batch: Batch) -> tuple:
        return batch[self.image_key], self._target(batch)

    def loss(self, outputs: Any, batch: Batch) -> tuple[jax.Array, dict[str, Mean]]:
        """Metrics: those of `Classification`, `margin_loss` and, with a decoder,
        `reconstruction_error`, the sum of squares over an image."""
        mask = batch.get("mask")
        _, metrics = super().loss(outputs.lengths, batch)
        target = self._target(batch)
        lengths = outputs.lengths
        if mask is not None:
            # Exactly zero gradient for padding, whatever its capsules hold.
            lengths = jnp.where(mask[:, None], lengths, 0)
            target = jnp.where(mask[:, None], target, 0)
        margin = margin_loss(
            lengths,
            target,
            present=self.present,
            absent=self.absent,
            absent_weight=self.absent_weight,
        )
        metrics["margin_loss"] = metrics["loss"] = Mean.of(margin, mask)
        if outputs.reconstruction is not None:
            error = Mean.of(self._error(outputs.reconstruction, batch), mask)
            total = metrics["loss"].total + self.reconstruction_weight * error.total
            metrics |= {
                "loss": Mean(total, metrics["loss"].count),
                "reconstruction_error": error,
            }
        return metrics["loss"].compute(), metrics

    def _error(self, reconstruction: jax.Array, batch: Batch) -> jax.Array:
        """float32 [B]: the sum of squares over an image's values in 0..1."""
        mean, std = np.float32(self.mean), np.float32(self.std)
        image = batch[self.image_key] * std + mean
        difference = reconstruction.astype(jnp.float32) - image
        if (mask := batch.get("mask")) is not None:
            difference = jnp.where(mask[:, None, None, None], difference, 0)
        return jnp.square(difference).sum((1, 2, 3))

    def pictures(self, outputs: Any, batch: Batch) -> dict[str, np.ndarray]:
        """`predictions`, of lengths, and `reconstructions` below the images."""
        # A softmax over these gives each class its length's share of all.
        lengths = np.asarray(outputs.lengths, np.float32)
        found = super().pictures(np.log(np.maximum(lengths, 1e-9)), batch)
        if not found or outputs.reconstruction is None:
            return found
        image = np.asarray(batch[self.image_key])
        real = np.asarray(batch.get("mask", np.ones(len(image), bool)))
        drawn = np.asarray(outputs.reconstruction, np.float32)[real]
        drawn = np.rint(drawn.clip(0, 1) * 255).astype(np.uint8)
        rows = self.denormalize(image[real])[:MOST_PICTURES], drawn[:MOST_PICTURES]
        tiles = [visualize.fit(visualize.as_rgb(x), 64) for row in rows for x in row]
        found["reconstructions"] = visualize.grid(tiles, columns=len(rows[0]))
        return found
