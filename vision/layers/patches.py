"""Images to sequences of patches and back."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype


def patchify(image: jax.Array, patch_size: int) -> jax.Array:
    """Cuts images into patches, row by row.

    Args:
        image: [B, H, W, C].
        patch_size: P; side of a patch in pixels.

    Returns:
        [B, H / P, W / P, P * P * C]; within a patch row, column, channel.

    Raises:
        ValueError: P does not divide H and W.
    """
    B, H, W, C = image.shape
    P = patch_size
    if H % P or W % P:
        raise ValueError(
            f"images of {H}x{W} cannot be cut into patches of {P}x{P}; choose a "
            "patch_size that divides both sides, or resize the images"
        )
    image = image.reshape(B, H // P, P, W // P, P, C)
    return image.transpose(0, 1, 3, 2, 4, 5).reshape(B, H // P, W // P, P * P * C)


def unpatchify(patches: jax.Array, patch_size: int) -> jax.Array:
    """Undoes `patchify`: [B, h, w, P * P * C] -> [B, h * P, w * P, C]."""
    B, h, w, _ = patches.shape
    P = patch_size
    patches = patches.reshape(B, h, w, P, P, -1)
    return patches.transpose(0, 1, 3, 2, 4, 5).reshape(B, h * P, w * P, -1)


class PatchEmbedding(nn.Module):
    """A convolution whose stride is its window: one vector per patch.

    Computed as one product of two-dimensional operands, whose kernel gradient needs no
    slow convolution; `kernel`, [P, P, C, D], and `bias`, [D], are a convolution's.
    """

    patch_size: int
    embed_dim: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, H / P, W / P, D]; raises ValueError if P does not divide."""
        patches = patchify(image, self.patch_size)
        kernel = self.param(
            "kernel",
            nn.initializers.lecun_normal(),
            (self.patch_size, self.patch_size, image.shape[-1], self.embed_dim),
            self.param_dtype,
        )
        bias = self.param(
            "bias", nn.initializers.zeros, (self.embed_dim,), self.param_dtype
        )
        patches, kernel, bias = promote_dtype(patches, kernel, bias, dtype=self.dtype)
        rows = patches.reshape(-1, patches.shape[-1])
        vectors = rows @ kernel.reshape(rows.shape[-1], self.embed_dim) + bias
        return vectors.reshape(*patches.shape[:-1], self.embed_dim)
