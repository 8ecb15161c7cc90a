"""Denoising: restore values from a corrupted copy of them.

P. Vincent, H. Larochelle, I. Lajoie, Y. Bengio, P.-A. Manzagol, "Stacked Denoising
Autoencoders", 2010, http://www.jmlr.org/papers/v11/vincent10a.html. The loss is the mean
over values, where the paper has the sum: layers of different widths compare.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from training.metrics import Mean
from training.task import Batch
from vision import visualize
from vision.tasks.image_task import ImageTask

NOISES = ("masking", "gaussian", "salt_and_pepper")
OBJECTIVES = ("cross_entropy", "squared_error")


def corruption(
    rng: jax.Array, shape: tuple[int, ...], *, noise: str, amount: float
) -> tuple[jax.Array, jax.Array]:
    """Noise as (keep, add), float32 of `shape`: the corrupted x is keep * x + add.

    Args:
        rng: PRNG key.
        noise: 'masking' sets values to 0; 'salt_and_pepper' to 0 or 1, equally often;
            'gaussian' adds normal noise.
        amount: the share of values set, or the noise's standard deviation.
    """
    if noise == "gaussian":
        return jnp.ones(shape), amount * jax.random.normal(rng, shape)
    draw = jax.random.uniform(rng, shape)
    keep = (draw >= amount).astype(jnp.float32)
    salt = (noise == "salt_and_pepper") & (draw < amount / 2)
    return keep, salt.astype(jnp.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Denoising(ImageTask):
    """The error of the restored values, all of them, corrupted or not.

    Evaluations corrupt too. Noise derives from the step's key, and not from the number of
    devices; every batch of an evaluation gets the same.

    Args:
        model: called with (image, keep, add), gives a `Reconstruction`, and says how
            wide the noise is by `input_dim`; a
            `vision.models.denoising_autoencoder.StackedAutoencoder`, or its like.
        noise: 'masking', 'gaussian' or 'salt_and_pepper', see `corruption`.
        amount: share of the values, in [0, 1]; of 'gaussian' the standard deviation.
        objective: 'cross_entropy' takes values in 0..1 as probabilities (its least is
            their entropy, not 0) and needs a model whose reconstruction is a sigmoid and
            images in 0..1; 'squared_error' takes any.
        mean, std: of images in 0..1; the model sees (image - mean) / std.
    """

    noise: str = "masking"
    amount: float = 0.25
    objective: str = "cross_entropy"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self):
        super().__post_init__()
        for name, known in (("noise", NOISES), ("objective", OBJECTIVES)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; known: {', '.join(known)}"
                )
        if self.amount < 0 or (self.noise != "gaussian" and self.amount > 1):
            raise ValueError(
                f"amount is {self.amount}; a share of values lies in [0, 1], a standard "
                "deviation is >= 0"
            )
        if self.objective == "squared_error":
            return
        activation = self.model.reconstruction_activation
        if activation != "sigmoid":
            raise ValueError(
                f"cross_entropy of a reconstruction by {activation!r}; make it 'sigmoid' "
                "or set objective='squared_error'"
            )
        if any(self.mean) or set(self.std) != {1.0}:
            raise ValueError(
                f"cross_entropy of images with mean {self.mean} and std {self.std}; keep "
                "them in 0..1 by mean=(0.0,), std=(1.0,)"
            )

    def prepare(self, batch: Batch, *, rng: jax.Array, train: bool) -> Batch:
        """Normalises images and draws the noise: `keep` and `add`, float32 [B, D]."""
        batch = super().prepare(batch, rng=rng, train=train)
        shape = batch[self.image_key].shape
        batch["keep"], batch["add"] = corruption(
            rng,
            (shape[0], self.model.input_dim(shape)),
            noise=self.noise,
            amount=self.amount,
        )
        return batch

    def inputs(self, batch: Batch) -> tuple:
        return batch[self.image_key], batch["keep"], batch["add"]

    def loss(self, outputs: Any, batch: Batch) -> tuple[jax.Array, dict[str, Mean]]:
        """Metrics: `loss` and `squared_error`, the mean over an example's values."""
        mask = batch.get("mask")

        def real(x: jax.Array) -> jax.Array:
            """Zero for padding: no gradient from it, whatever it holds."""
            x = x.astype(jnp.float32)
            return x if mask is None else jnp.where(mask[:, None], x, 0)

        target, logits = real(outputs.target), real(outputs.logits)
        square = jnp.square(real(outputs.value) - target).mean(-1)
        loss = square
        if self.objective == "cross_entropy":
            loss = (jax.nn.softplus(logits) - target * logits).mean(-1)
        metrics = {
            "loss": Mean.of(loss, mask),
            "squared_error": Mean.of(square, mask),
        }
        return metrics["loss"].compute(), metrics

    def pictures(self, outputs: Any, batch: Batch) -> dict[str, np.ndarray]:
        """`reconstructions`: corrupted, restored and true, side by side. Above the first
        layer the first two are codes, led down to pixels by the decoders below."""
        image = np.asarray(batch[self.image_key])
        real = np.asarray(batch.get("mask", np.ones(len(image), bool)))
        if not real.any():
            return {}
        triplet = (
            self.denormalize(np.asarray(x, np.float32)[real])
            for x in (outputs.corrupted, outputs.image, image)
        )
        return {"reconstructions": visualize.triplets(*triplet)}
