"""Contrastive learning: find the other view of the same image among all views of a batch.

Paper: T. Chen, S. Kornblith, M. Norouzi, G. Hinton, "A Simple Framework for Contrastive
Learning of Visual Representations", 2020, https://arxiv.org/abs/2002.05709 (the loss is
its NT-Xent). Metric `alignment`: T. Wang, P. Isola, "Understanding Contrastive
Representation Learning through Alignment and Uniformity on the Hypersphere", 2020,
https://arxiv.org/abs/2005.10242.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from training.metrics import Mean, accuracy
from training.task import Batch
from vision import visualize
from vision.tasks.image_task import ImageTask

NUM_VIEWS = 2
# Its exponential is zero beside any similarity; unlike -inf it never makes NaN.
_EXCLUDED = -1e30


def unit_length(x: jax.Array) -> jax.Array:
    """float32 [..., P] divided by its Euclidean norm; zero stays zero."""
    square = jnp.square(x).sum(-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, 1e-12))


def similarities(
    projection: jax.Array, temperature: float, mask: jax.Array | None = None
) -> jax.Array:
    """Cosines of all pairs of views over the temperature.

    Args:
        projection: float32 [B, 2, P].
        mask: bool [B]; views of False rows are nobody's candidates.

    Returns:
        float32 [2 * B, 2 * B]; view v of image b is number 2 * b + v. A view and itself,
        and all that is masked, stand at -1e30.
    """
    x = unit_length(projection).reshape(-1, projection.shape[-1])
    # Half precision of the product would be felt after division by the temperature.
    cosine = jnp.einsum("ID,JD->IJ", x, x, precision=jax.lax.Precision.HIGHEST)
    candidate = ~jnp.eye(len(x), dtype=bool)
    if mask is not None:
        candidate &= jnp.repeat(mask, NUM_VIEWS)[None, :]
    return jnp.where(candidate, cosine / temperature, _EXCLUDED)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contrastive(ImageTask):
    """NT-Xent: softmax cross-entropy of each view's partner among the 2B - 1 other views.

    A batch holds `views`, uint8 in 0..255 or float in 0..1 [B, 2, H, W, C] (see
    `vision.views.TwoViews`), and perhaps `mask`, bool [B]: views of padding are neither
    positives nor negatives. The B images are those of the global batch, over all devices
    and hosts. Accumulation does shrink the pool: with k micro-batches each view has
    2B / k - 2 negatives instead of 2B - 2, the loss is smaller (log(2B / k - 1) for a
    model that knows nothing) and the gradient another one. The same holds for the batch
    size of an evaluation: losses and accuracies compare only at the same one.

    A batch without `views`, from a pipeline made for probes, can be checked, prepared and
    represented, by its images; only the loss cannot be had from it.

    Args:
        model: from views to projections [B, 2, P]; `vision.models.simclr.SimCLR` is one.
        temperature: what cosines are divided by, > 0.
        views_key: where a batch holds the views.
    """

    temperature: float = 0.1
    views_key: str = "views"

    def __post_init__(self):
        super().__post_init__()
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}; it must be positive")

    def check(self, batch: Batch) -> None:
        """Raises a one-line ValueError for views or images that cannot be used."""
        if self.views_key not in batch:
            if self.image_key in batch:
                return super().check(batch)
            self._require(batch, "views_key")
        shape = np.shape(batch[self.views_key])
        if len(shape) != 5 or shape[1] != NUM_VIEWS:
            raise ValueError(
                f"{self.views_key} has shape {shape}; expected [batch, 2, height, width, "
                "channels], as vision.views.TwoViews makes it"
            )
        super().check({self.image_key: batch[self.views_key][:, 0]})

    def prepare(self, batch: Batch, *, rng: jax.Array, train: bool) -> Batch:
        """Normalises the views, and the images where there are any."""
        del rng, train
        keys = {self.views_key, self.image_key} & set(batch)
        return {**batch, **{key: self.normalize(batch[key]) for key in keys}}

    def inputs(self, batch: Batch) -> tuple:
        """The views.

        Raises:
            ValueError: the batch has none.
        """
        if self.views_key not in batch:
            raise ValueError(
                f"the batch has no {self.views_key!r}, only {sorted(batch)}; end the "
                "pipeline's transforms in a vision.views.TwoViews"
            )
        return (batch[self.views_key],)

    def plain_inputs(self, batch: Batch) -> tuple:
        """The normalised images; of a batch that has views only, the first views."""
        if self.image_key in batch or self.views_key not in batch:
            return super().plain_inputs(batch)
        return (self.normalize(batch[self.views_key][:, 0]),)

    def loss(
        self, outputs: jax.Array, batch: Batch
    ) -> tuple[jax.Array, dict[str, Mean]]:
        """Mean over images and views of the cross-entropy.

        Metrics: `loss`; `accuracy`, how often the partner is the nearest of all other
        views; `alignment`, the mean squared distance of partners on the unit sphere.
        """
        mask = batch.get("mask")
        projection = outputs.astype(jnp.float32)
        if mask is not None:
            # Exactly zero gradient for padding, even where it is not finite.
            projection = jnp.where(mask[:, None, None], projection, 0)
        logits = similarities(projection, self.temperature, mask)
        partner = jnp.arange(len(logits)) ^ 1
        is_partner = partner[:, None] == jnp.arange(len(logits))[None, :]
        own = jnp.where(is_partner, logits, 0).sum(-1)
        losses = jax.nn.logsumexp(logits, axis=-1) - own
        per_image = losses.reshape(-1, NUM_VIEWS).mean(-1)
        first, second = unit_length(projection).swapaxes(0, 1)
        distance = jnp.square(first - second).sum(-1)
        rows = None if mask is None else jnp.repeat(mask, NUM_VIEWS)
        metrics = {
            "loss": Mean.of(per_image, mask),
            "accuracy": accuracy(logits, partner, rows),
            "alignment": Mean.of(distance, mask),
        }
        return metrics["loss"].compute(), metrics

    def pictures(self, outputs: Any, batch: Batch) -> dict[str, np.ndarray]:
        """`views`: the first pairs, side by side, with their cosine."""
        views = np.asarray(batch[self.views_key])
        real = np.asarray(batch.get("mask", np.ones(len(views), bool)))
        if not real.any():
            return {}
        projection = np.asarray(outputs, np.float32)[real]
        norm = np.linalg.norm(projection, axis=-1, keepdims=True)
        first, second = (projection / np.maximum(norm, 1e-6)).swapaxes(0, 1)
        tiles = []
        for pair, cosine in zip(
            self.denormalize(views[real]), (first * second).sum(-1), strict=True
        ):
            picture = np.concatenate(
                [visualize.fit(visualize.as_rgb(view), 112) for view in pair], axis=1
            )
            below = visualize.caption(f"cosine {cosine:.2f}", picture.shape[1])
            tiles.append(np.concatenate([picture, below]))
        return {"views": visualize.grid(tiles)}
