"""Masked autoencoding: the squared error of guessed pixels, on hidden patches only.

K. He et al., "Masked Autoencoders Are Scalable Vision Learners", 2021,
https://arxiv.org/abs/2111.06377.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from training.metrics import Mean
from training.task import Batch
from vision import visualize
from vision.layers.patches import patch_moments, patch_sequence, sides, unpatchify
from vision.tasks.image_task import ImageTask


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedAutoencoding(ImageTask):
    """Mean squared error between guessed and true patches, where they were hidden.

    What is hidden derives from the step's key, and not from the number of devices. An
    evaluation hides the same places in every batch.

    Args:
        model: a `vision.models.mae.MAE`, or its like.
        normalize_target: each patch is to be guessed less its own mean and over its own
            standard deviation, which makes better representations.
        paste_visible: pictures show visible patches as they are, not as guessed (the
            paper shows the guess).
    """

    normalize_target: bool = False
    paste_visible: bool = False

    def prepare(self, batch: Batch, *, rng: jax.Array, train: bool) -> Batch:
        """Normalises images and draws the `noise`, float32 [B, T], that shuffles them."""
        batch = super().prepare(batch, rng=rng, train=train)
        B, H, W, _ = batch[self.image_key].shape
        height, width = sides(self.model.backbone.patch_size)
        batch["noise"] = jax.random.uniform(rng, (B, (H // height) * (W // width)))
        return batch

    def inputs(self, batch: Batch) -> tuple:
        return batch[self.image_key], batch["noise"]

    def loss(self, outputs: Any, batch: Batch) -> tuple[jax.Array, dict[str, Mean]]:
        """Metric: `loss`, the error of an image's hidden patches."""
        target = self._patches(batch[self.image_key])
        if self.normalize_target:
            mean, std = patch_moments(target)
            target = (target - mean) / std
        prediction = outputs.prediction.astype(jnp.float32)
        real = batch.get("mask")
        if real is not None:  # no gradient from padding, whatever it holds
            prediction = jnp.where(real[:, None, None], prediction, 0)
            target = jnp.where(real[:, None, None], target, 0)
        error = ((prediction - target) ** 2).mean(-1)
        hidden = outputs.mask.astype(jnp.float32)
        loss = Mean.of((error * hidden).sum(1) / hidden.sum(1), real)
        return loss.compute(), {"loss": loss}

    def _patches(self, image: jax.Array) -> jax.Array:
        return patch_sequence(image, self.model.backbone.patch_size)

    def pictures(self, outputs: Any, batch: Batch) -> dict[str, np.ndarray]:
        """`reconstructions`: masked, guessed and true, side by side."""
        image = np.asarray(batch[self.image_key])
        if not len(image):
            return {}
        target = self._patches(image)
        guess = np.asarray(outputs.prediction, np.float32)
        if self.normalize_target:
            mean, std = patch_moments(target)
            guess = guess * np.asarray(std) + np.asarray(mean)
        hidden = np.asarray(outputs.mask)[..., None]
        if self.paste_visible:
            guess = np.where(hidden, guess, target)
        patch_size = self.model.backbone.patch_size
        height, width = sides(patch_size)
        grid = image.shape[1] // height, image.shape[2] // width

        def whole(patches: np.ndarray) -> np.ndarray:
            cells = patches.reshape(len(patches), *grid, -1)
            return np.asarray(unpatchify(cells, patch_size))

        covered = np.broadcast_to(
            whole(np.broadcast_to(hidden, guess.shape)), image.shape
        )
        original = self.denormalize(image)
        masked = np.where(covered, np.uint8(visualize.GREY), original)
        return {
            "reconstructions": visualize.triplets(
                masked, self.denormalize(whole(guess)), original
            )
        }
