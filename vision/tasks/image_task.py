"""What every objective on images shares: where a batch holds them, how the model sees them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from training.task import Batch, Task
from vision import visualize


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageTask(Task):
    """A batch holds images, uint8 in 0..255 or float in 0..1 [B, H, W, C], and perhaps a
    `mask`, bool [B], False for rows of padding.

    Args:
        model: a Linen module whose first argument is normalised images.
        mean, std: of images in 0..1, one value or one per channel; the model sees
            (image - mean) / std.
        image_key: where a batch holds them.
    """

    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)
    image_key: str = "image"

    def __post_init__(self):
        if min(self.std) <= 0:
            raise ValueError(f"std is {self.std}; every value must be positive")

    def check(self, batch: Batch) -> None:
        """Raises a one-line ValueError for images that cannot be trained on."""
        self._require(batch, "image_key")
        image = np.asarray(batch[self.image_key])
        if image.ndim != 4:
            raise ValueError(
                f"image has shape {image.shape}; expected [batch, height, width, channels]"
            )
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, image.shape[-1]):
                raise ValueError(
                    f"{name} has {len(values)} values for images of {image.shape[-1]} "
                    "channels; give one value, or one per channel"
                )

    def _require(self, batch: Batch, field: str) -> None:
        """Raises ValueError if the batch lacks what `field` names."""
        key = getattr(self, field)
        if key not in batch:
            raise ValueError(
                f"the batch has no {key!r}, only {sorted(batch)}; set task.{field}"
            )

    def normalize(self, image: jax.Array) -> jax.Array:
        """Images as the model sees them: float32 [B, H, W, C]."""
        if jnp.issubdtype(image.dtype, jnp.integer):
            image = image.astype(jnp.float32) / 255
        mean, std = np.float32(self.mean), np.float32(self.std)
        return (image.astype(jnp.float32) - mean) / std

    def denormalize(self, image: np.ndarray) -> np.ndarray:
        """Images as a person sees them: uint8 [B, H, W, C]."""
        image = np.asarray(image)
        if image.dtype == np.uint8:
            return image
        return visualize.denormalize(image, self.mean, self.std)

    def prepare(self, batch: Batch, *, rng: jax.Array, train: bool) -> Batch:
        """Normalises the images."""
        del rng, train
        return {**batch, self.image_key: self.normalize(batch[self.image_key])}

    def inputs(self, batch: Batch) -> tuple:
        return (batch[self.image_key],)

    def plain_inputs(self, batch: Batch) -> tuple:
        return (self.normalize(batch[self.image_key]),)
