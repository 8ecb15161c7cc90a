"""Colourisation: cross-entropy between guessed and softly encoded true colours, rare colours
weighted up.

R. Zhang, P. Isola, A. A. Efros, "Colorful Image Colorization", 2016,
https://arxiv.org/abs/1603.08511, equations 2 to 5. The loss is the mean over an image's
places, where the paper has the sum.
"""

import dataclasses

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from training.metrics import Mean, accuracy
from training.task import Batch
from vision import visualize
from vision.ops import lab
from vision.tasks.image_task import ImageTask


@dataclasses.dataclass(frozen=True, kw_only=True)
class Colorization(ImageTask):
    """The model sees the lightness of RGB images and predicts one of 313 bins of the ab
    plane at each place of its grid; the target is ab averaged over the place.

    Args:
        model: a Linen module from normalised lightness, [B, H, W, 1], to logits
            [B, h, w, 313], such as `vision.models.colorization.Colorization`.
        prior: how often each bin occurs in the dataset, 313 numbers on any scale, from
            `vision.ops.lab.bin_distribution`; None weighs all colours alike. A config
            reads it from a file by `prior=dict(type="numpy.load", file="prior.npy")`.
        uniform: how much of a uniform distribution is mixed into the prior.
        neighbors, sigma: of the soft encoding, see `vision.ops.lab.soft_encode`.
        temperature: of the annealed mean that turns a prediction into one colour.
        mean, std: of L / 100, one value each; the model sees (L / 100 - mean) / std.
    """

    prior: tuple[float, ...] | None = None
    uniform: float = 0.5
    neighbors: int = 5
    sigma: float = lab.SIGMA
    temperature: float = 0.38

    def __post_init__(self):
        super().__post_init__()
        for name in ("mean", "std"):
            if len(getattr(self, name)) != 1:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; lightness has one channel, give "
                    "one value"
                )
        for name in ("sigma", "temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; it must be positive"
                )
        if self.prior is not None:
            object.__setattr__(self, "prior", tuple(map(float, self.prior)))
            self._weights()

    def check(self, batch: Batch) -> None:
        """Raises a one-line ValueError for images without colour."""
        super().check(batch)
        channels = np.shape(batch[self.image_key])[-1]
        if channels != 3:
            raise ValueError(
                f"images have {channels} channels; colourisation needs RGB images"
            )

    def _weights(self) -> np.ndarray:
        """float32 [313]: what an error at each bin costs."""
        if self.prior is None:
            return np.ones(lab.NUM_BINS, np.float32)
        return lab.class_weights(np.asarray(self.prior), uniform=self.uniform)

    def prepare(self, batch: Batch, *, rng: jax.Array, train: bool) -> Batch:
        """Adds `lightness`, normalised, float32 [B, H, W, 1], and `ab`, float32
        [B, H, W, 2]. Padding becomes black."""
        del rng, train
        rgb = batch[self.image_key]
        if jnp.issubdtype(rgb.dtype, jnp.integer):
            rgb = rgb.astype(jnp.float32) / 255
        if "mask" in batch:
            rgb = jnp.where(batch["mask"][:, None, None, None], rgb, 0)
        colors = lab.rgb_to_lab(rgb.clip(0, 1))
        lightness = self.normalize(colors[..., :1] / 100)
        return {**batch, "lightness": lightness, "ab": colors[..., 1:]}

    def inputs(self, batch: Batch) -> tuple:
        return (batch["lightness"],)

    def plain_inputs(self, batch: Batch) -> tuple:
        return self.inputs(self.prepare(batch, rng=jax.random.key(0), train=False))

    def loss(
        self, outputs: jax.Array, batch: Batch
    ) -> tuple[jax.Array, dict[str, Mean]]:
        """Metrics: `loss`, weighted; `accuracy`, the share of places whose likeliest bin
        is the one nearest to the truth; `ab_rmse`, the mean over images of the
        root-mean-square distance of annealed mean and truth in the ab plane."""
        mask = batch.get("mask")
        logits = outputs.astype(jnp.float32)
        if mask is not None:
            # Exactly zero gradient for padding, even where its logits are not finite.
            logits = jnp.where(mask[:, None, None, None], logits, 0)
        ab = lab.shrink(batch["ab"], *logits.shape[1:3])
        target = lab.soft_encode(ab, neighbors=self.neighbors, sigma=self.sigma)
        nearest = lab.nearest_bin(ab)
        entropy = -(target * jax.nn.log_softmax(logits)).sum(-1)
        weighted = jnp.asarray(self._weights())[nearest] * entropy
        guess = lab.annealed_mean(logits, temperature=self.temperature)
        square = ((guess - ab) ** 2).sum(-1).mean((1, 2))
        metrics = {
            "loss": Mean.of(weighted.mean((1, 2)), mask),
            "accuracy": accuracy(logits, nearest, mask),
            "ab_rmse": Mean.of(jnp.sqrt(square), mask),
        }
        return metrics["loss"].compute(), metrics

    def pictures(self, outputs: jax.Array, batch: Batch) -> dict[str, np.ndarray]:
        """`colors`: the grey image, the image in guessed colours and the true one."""
        ab = np.asarray(batch["ab"])
        real = np.asarray(batch.get("mask", np.ones(len(ab), bool)))
        if not real.any():
            return {}
        ab, logits = ab[real], np.asarray(outputs)[real]
        decode = jax.jit(lab.annealed_mean)
        coarse = np.asarray(decode(logits, temperature=self.temperature))
        size = ab.shape[2], ab.shape[1]
        guess = np.stack([cv2.resize(x, size) for x in coarse])
        lightness = np.asarray(batch["lightness"])[real]
        lightness = 100 * (lightness * np.float32(self.std) + np.float32(self.mean))

        def picture(ab: np.ndarray) -> np.ndarray:
            rgb = jax.jit(lab.lab_to_rgb)(np.concatenate([lightness, ab], axis=-1))
            return np.round(255 * np.asarray(rgb)).astype(np.uint8)

        triplets = [picture(x) for x in (np.zeros_like(ab), guess, ab)]
        return {"colors": visualize.triplets(*triplets)}
