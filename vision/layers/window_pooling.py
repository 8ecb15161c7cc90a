"""Pooling whose windows are torch's: adaptive averages, and maxima in ceil mode."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from layers.pooling import max_pool


def adaptive_avg_pool(x: jax.Array, size: int | tuple[int, int]) -> jax.Array:
    """The mean of each cell of a grid laid over maps of any size, as torch does it.

    Cell i of n along an axis of length L covers floor(i L / n) to ceil((i + 1) L / n):
    neighbours overlap where n does not divide L, and a map smaller than the grid is
    repeated.

    Args:
        x: float [B, H, W, C].
        size: h and w of the result, or one number for both.

    Returns:
        [B, h, w, C], in x's dtype; x itself if it has that size already.
    """
    height, width = (size, size) if isinstance(size, int) else size
    # The mean over a rectangle is the mean over its rows of the means over its columns.
    for axis, cells in ((1, height), (2, width)):
        if x.shape[axis] == cells:
            continue
        weights = jnp.asarray(cell_weights(x.shape[axis], cells), x.dtype)
        equation = "OH,BHWC->BOWC" if axis == 1 else "OW,BHWC->BHOC"
        x = jnp.einsum(equation, weights, x, precision=lax.Precision.HIGHEST)
    return x


def cell_weights(length: int, cells: int) -> np.ndarray:
    """float64 [cells, length]: row i averages what cell i covers."""
    position, cell = np.arange(length), np.arange(cells)[:, None]
    start = cell * length // cells
    end = -(-(cell + 1) * length // cells)
    inside = (position >= start) & (position < end)
    return inside / inside.sum(1, keepdims=True)


def max_pool_ceil(
    x: jax.Array, window: int, stride: int, padding: int = 0
) -> jax.Array:
    """The largest value of square windows, the last of which may hang over the edge.

    Sizes round up, as in Caffe and torch's `ceil_mode`, but no window starts beyond the
    edge.

    Args:
        x: float [B, H, W, C].
        window, stride: in pixels.
        padding: on every side; never the largest.

    Returns:
        [B, h, w, C].

    Raises:
        ValueError: the map is smaller than the part of a window that may not hang over.
    """
    pads = ceil_padding(x.shape[1:3], window, stride, padding)
    return max_pool(x, (window, window), strides=(stride, stride), padding=pads)


def ceil_padding(
    sizes: Sequence[int], window: int, stride: int, padding: int = 0
) -> tuple[tuple[int, int], ...]:
    """(low, high) for each side's length, so that the last window has its place."""
    pairs = []
    for size in sizes:
        last = -(-(size + 2 * padding - window) // stride)
        if last * stride >= size + padding:
            last -= 1
        if last < 0:
            raise ValueError(
                f"map of {'x'.join(map(str, sizes))} is too small to pool by windows of "
                f"{window} with stride {stride}; give larger images"
            )
        pairs.append((padding, max(last * stride + window - size - padding, 0)))
    return tuple(pairs)
