"""Images to sequences of patches and back."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

PatchSize = int | tuple[int, int]


def sides(patch_size: PatchSize) -> tuple[int, int]:
    """(height, width) in pixels; one number means a square."""
    if isinstance(patch_size, int):
        return patch_size, patch_size
    height, width = patch_size
    return height, width


def patchify(image: jax.Array, patch_size: PatchSize) -> jax.Array:
    """Cuts images into patches, row by row.

    Args:
        image: [B, H, W, C].
        patch_size: P, or (P, Q); height and width of a patch in pixels.

    Returns:
        [B, H / P, W / Q, P * Q * C]; within a patch row, column, channel.

    Raises:
        ValueError: the patches do not tile the image.
    """
    B, H, W, C = image.shape
    P, Q = sides(patch_size)
    if H % P or W % Q:
        raise ValueError(
            f"images of {H}x{W} cannot be cut into patches of {P}x{Q}; choose a "
            "patch_size that divides both sides, or resize the images"
        )
    image = image.reshape(B, H // P, P, W // Q, Q, C)
    return image.transpose(0, 1, 3, 2, 4, 5).reshape(B, H // P, W // Q, P * Q * C)


def unpatchify(patches: jax.Array, patch_size: PatchSize) -> jax.Array:
    """Undoes `patchify`: [B, h, w, P * Q * C] -> [B, h * P, w * Q, C]."""
    B, h, w, _ = patches.shape
    P, Q = sides(patch_size)
    patches = patches.reshape(B, h, w, P, Q, -1)
    return patches.transpose(0, 1, 3, 2, 4, 5).reshape(B, h * P, w * Q, -1)


def patch_sequence(image: jax.Array, patch_size: PatchSize) -> jax.Array:
    """`patchify`, the grid in one dimension: [B, H, W, C] -> [B, T, P * Q * C]."""
    patches = patchify(image, patch_size)
    return patches.reshape(len(image), -1, patches.shape[-1])


def patch_moments(patches: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation over each patch's values: [B, T, 1] both.

    The variance is unbiased, and 1e-6 is added to it, as in the code of MAE's authors.
    """
    variance = jnp.var(patches, -1, ddof=1, keepdims=True)
    return jnp.mean(patches, -1, keepdims=True), jnp.sqrt(variance + 1e-6)


class PatchEmbedding(nn.Module):
    """A convolution whose stride is its window: one vector per patch.

    Computed as one product of two-dimensional operands, whose kernel gradient needs no
    slow convolution; `kernel`, [P, Q, C, D], and `bias`, [D], are a convolution's.
    """

    patch_size: PatchSize
    embed_dim: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, H / P, W / Q, D]; raises ValueError if they do not tile."""
        patches = patchify(image, self.patch_size)
        kernel = self.param(
            "kernel",
            nn.initializers.lecun_normal(),
            (*sides(self.patch_size), image.shape[-1], self.embed_dim),
            self.param_dtype,
        )
        bias = self.param(
            "bias", nn.initializers.zeros, (self.embed_dim,), self.param_dtype
        )
        patches, kernel, bias = promote_dtype(patches, kernel, bias, dtype=self.dtype)
        rows = patches.reshape(-1, patches.shape[-1])
        vectors = rows @ kernel.reshape(rows.shape[-1], self.embed_dim) + bias
        return vectors.reshape(*patches.shape[:-1], self.embed_dim)
