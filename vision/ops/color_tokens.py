"""Visual tokens without a learned tokenizer: the mean colour of a patch, in few levels.

A stand-in for the discrete VAE of A. Ramesh et al., "Zero-Shot Text-to-Image Generation",
2021, https://arxiv.org/abs/2102.12092, whose 8192 tokens BEiT guesses: it makes BEiT's
objective run, and learn, where no such weights are at hand. Colours tell less about what
an image shows, so expect worse representations.
"""

import dataclasses

import jax
import jax.numpy as jnp

from vision.layers.patches import PatchSize, patchify


@dataclasses.dataclass(frozen=True)
class ColorTokens:
    """Images to one token per patch, levels ** channels in all.

    Args:
        patch_size: P, or (height, width); that of the model.
        levels: of each channel's mean.
        channels: C.

    Raises:
        ValueError: fewer than two levels.
    """

    patch_size: PatchSize = 16
    levels: int = 8
    channels: int = 3

    def __post_init__(self):
        if self.levels < 2:
            raise ValueError(f"levels is {self.levels}; it must be at least 2")

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""
        return self.levels**self.channels

    def __call__(self, image: jax.Array) -> jax.Array:
        """The token of every patch, row by row.

        Args:
            image: float [B, H, W, C] in 0..1.

        Returns:
            int32 [B, T], in [0, vocab_size).

        Raises:
            ValueError: an image of other channels, or one that patches do not tile.
        """
        if image.shape[-1] != self.channels:
            raise ValueError(
                f"images have {image.shape[-1]} channels, the tokenizer {self.channels}; "
                f"set tokenizer.channels={image.shape[-1]}"
            )
        patches = patchify(image, self.patch_size)
        patches = patches.reshape(
            len(image), -1, patches.shape[-1] // self.channels, self.channels
        )
        level = jnp.floor(patches.mean(2) * self.levels).astype(jnp.int32)
        level = level.clip(0, self.levels - 1)
        return (level * self._places()).sum(-1)

    def colors(self, tokens: jax.Array) -> jax.Array:
        """What tokens stand for: int [...] -> float32 [..., C] in 0..1, mid-level."""
        level = jnp.asarray(tokens)[..., None] // self._places() % self.levels
        return (level + 0.5) / self.levels

    def _places(self) -> jax.Array:
        """int32 [C]; the first channel counts most."""
        return self.levels ** jnp.arange(self.channels)[::-1]
