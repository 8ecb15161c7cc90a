"""Where a token stands: fixed tables, learned ones, rotations, biases of attention, and
tables for another grid."""

import dataclasses
import math
import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


def sincos_1d(length: int, embed_dim: int, max_wavelength: float = 1e4) -> np.ndarray:
    """Sines (even columns) and cosines (odd ones) of falling frequency.

    A. Vaswani et al., "Attention Is All You Need", 2017, https://arxiv.org/abs/1706.03762.

    Args:
        length: T.
        embed_dim: D, even.
        max_wavelength: the last wavelength, over 2 pi, would be this.

    Returns:
        float32 [T, D].

    Raises:
        ValueError: D is odd.
    """
    if embed_dim % 2:
        raise ValueError(f"embed_dim {embed_dim} is odd; sines and cosines need pairs")
    frequency = max_wavelength ** (-np.arange(0, embed_dim, 2) / embed_dim)
    angle = np.arange(length)[:, None] * frequency
    table = np.stack([np.sin(angle), np.cos(angle)], axis=-1)
    return table.reshape(length, embed_dim).astype(np.float32)


def sincos_2d(
    height: int,
    width: int,
    embed_dim: int,
    *,
    max_wavelength: float = 1e4,
    reach_last: bool = False,
    column_first: bool = True,
) -> np.ndarray:
    """For each cell of a grid, row by row: sines and cosines of its two coordinates.

    The D columns are four equal parts: sines of the column number (x), its cosines, sines
    of the row number (y), its cosines. That is the order of MAE (K. He et al., "Masked
    Autoencoders Are Scalable Vision Learners", 2021, https://arxiv.org/abs/2111.06377),
    whose code names the halves the other way round, and of L. Beyer et al., "Better plain
    ViT baselines", 2022, https://arxiv.org/abs/2205.01580.

    Args:
        height, width: of the grid, in cells.
        embed_dim: D, a multiple of 4.
        max_wavelength: frequency i of n is max_wavelength ** (-i / n).
        reach_last: divide by n - 1 rather than n, so that the last frequency is
            1 / max_wavelength itself: False in MAE, True in "Better plain ViT baselines".
        column_first: False puts the row's half first.

    Returns:
        float32 [height * width, D].

    Raises:
        ValueError: D is not a multiple of 4.
    """
    if embed_dim % 4:
        raise ValueError(
            f"embed_dim {embed_dim} is not a multiple of 4: sine and cosine of 2 coordinates"
        )
    n = embed_dim // 4
    frequency = max_wavelength ** (-np.arange(n) / max(n - reach_last, 1))
    row, column = np.mgrid[:height, :width].reshape(2, -1, 1) * frequency
    angles = (column, row) if column_first else (row, column)
    parts = [part for angle in angles for part in (np.sin(angle), np.cos(angle))]
    return np.concatenate(parts, axis=1).astype(np.float32)


class LearnedPositions(nn.Module):
    """Adds a learned vector to each position.

    Parameters: `embedding` [max_length + offset, D].

    Args:
        max_length: longest sequence.
        offset: rows of the table before that of position 0, which nothing uses.
    """

    max_length: int
    offset: int = 0
    init: nn.initializers.Initializer = nn.initializers.normal(0.02)
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, positions: jax.Array | None = None) -> jax.Array:
        """x: [B, T, D] -> [B, T, D], in x's dtype.

        Args:
            x: [B, T, D].
            positions: int32 [T] or [B, T], below `max_length`; None for 0 to T - 1.

        Raises:
            ValueError: T is greater than `max_length`.
        """
        length, embed_dim = x.shape[-2:]
        if length > self.max_length:
            raise ValueError(
                f"sequence of {length} is longer than max_length={self.max_length}"
            )
        rows = self.max_length + self.offset
        table = self.param("embedding", self.init, (rows, embed_dim), self.param_dtype)
        if positions is None:
            chosen = table[self.offset : self.offset + length]
        else:
            # NaN for what lies outside, which indexing would replace by the last.
            chosen = jnp.take(table, positions + self.offset, axis=0, mode="fill")
        return x + chosen.astype(x.dtype)


def rotary(x: jax.Array, positions: jax.Array, *, base: float = 1e4) -> jax.Array:
    """Turns pairs of channels by angles that grow with the position.

    J. Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021,
    https://arxiv.org/abs/2104.09864. Channel i is paired with i + H / 2, as in most
    published weights, and not with its neighbour as in the paper.

    Args:
        x: [B, T, N, H], H even: queries or keys.
        positions: int32 [T] or [B, T].
        base: the longest wavelength, over 2 pi, would be this.

    Returns:
        [B, T, N, H], in x's dtype, turned in float32. The products of queries and keys
        depend on the difference of their positions only.

    Raises:
        ValueError: H is odd.
    """
    H = x.shape[-1]
    if H % 2:
        raise ValueError(
            f"head_dim {H} is odd; rotary positions turn pairs of channels"
        )
    frequency = base ** (-np.arange(0, H, 2, dtype=np.float32) / H)
    angle = positions[..., None].astype(jnp.float32) * frequency
    angle = angle.reshape(-1, angle.shape[-2], 1, H // 2)  # [B or 1, T, 1, H / 2]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    first, second = jnp.split(x.astype(jnp.promote_types(x.dtype, jnp.float32)), 2, -1)
    turned = (first * cos - second * sin, second * cos + first * sin)
    return jnp.concatenate(turned, -1).astype(x.dtype)


def alibi_bias(
    num_heads: int, query_positions: jax.Array, key_positions: jax.Array
) -> jax.Array:
    """Attention's bias against distance, a fixed slope per head.

    O. Press, N. A. Smith, M. Lewis, "Train Short, Test Long", 2022,
    https://arxiv.org/abs/2108.12409.

    Args:
        num_heads: N. The slopes of a power of two are 2 ** (-8 i / N), i from 1; of other
            N, those of the next lower power and every other one of the next higher.
        query_positions: int32 [T].
        key_positions: int32 [S].

    Returns:
        float32 [1, N, T, S]: -slope * |distance|.
    """

    def slopes(n: int) -> np.ndarray:
        return 2.0 ** (-8 / n * np.arange(1, n + 1))

    lower = 2 ** int(math.log2(num_heads))
    slope = np.concatenate([slopes(lower), slopes(2 * lower)[::2]])[:num_heads]
    distance = jnp.abs(query_positions[:, None] - key_positions).astype(jnp.float32)
    return -slope.astype(np.float32)[None, :, None, None] * distance


class RelativePositionBias(nn.Module):
    """T5's learned bias of attention: one value per head and range of distances.

    C. Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
    Transformer", 2019, https://arxiv.org/abs/1910.10683. Half of the buckets are single
    distances, the others grow logarithmically up to `max_distance`.

    Parameters: `embedding` [num_buckets, N].

    Args:
        num_heads: N.
        bidirectional: half of the buckets for keys after the query; else these share
            bucket 0.
    """

    num_heads: int
    num_buckets: int = 32
    max_distance: int = 128
    bidirectional: bool = True
    init: nn.initializers.Initializer = nn.initializers.normal(1.0)
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, query_positions: jax.Array, key_positions: jax.Array
    ) -> jax.Array:
        """int32 [T], int32 [S] -> float32 [1, N, T, S]."""
        shape = (self.num_buckets, self.num_heads)
        table = self.param("embedding", self.init, shape, self.param_dtype)
        bucket = self._bucket(key_positions - query_positions[:, None])
        values = jnp.take(table, bucket, axis=0).astype(jnp.float32)
        return values.transpose(2, 0, 1)[None]

    def _bucket(self, distance: jax.Array) -> jax.Array:
        """The bucket of key - query: int32 [T, S]."""
        buckets, first = self.num_buckets, 0
        if self.bidirectional:
            buckets //= 2
            first = jnp.where(distance > 0, buckets, 0)
            distance = jnp.abs(distance)
        else:
            distance = jnp.maximum(-distance, 0)
        exact = buckets // 2
        # log 0 is never chosen, but must not be computed either.
        ratio = jnp.log(jnp.maximum(distance, 1).astype(jnp.float32) / exact)
        steps = ratio / math.log(self.max_distance / exact) * (buckets - exact)
        far = jnp.minimum(exact + steps.astype(jnp.int32), buckets - 1)
        return first + jnp.where(distance < exact, distance, far)


def resize_positions(
    positions: jax.Array,
    old_grid: tuple[int, int],
    new_grid: tuple[int, int],
    *,
    num_prefix: int = 0,
    method: str = "bicubic",
) -> jax.Array:
    """A position table for another grid, by interpolation (antialiased when shrinking).

    As timm does, and torch with `antialias=True`; torch's bicubic without it uses another
    kernel (a = -0.75, here -0.5).

    Args:
        positions: [..., num_prefix + height * width, D] of the old grid.
        old_grid, new_grid: (height, width), in cells.
        num_prefix: leading vectors that belong to no cell (class token); kept.
        method: 'bicubic' or 'bilinear'.

    Returns:
        [..., num_prefix + height * width, D] of the new grid.

    Raises:
        ValueError: the table's length is not that of the old grid.
    """
    *batch, length, embed_dim = positions.shape
    if length != num_prefix + old_grid[0] * old_grid[1]:
        raise ValueError(
            f"a table of {length} positions is not {num_prefix} and a grid of "
            f"{old_grid[0]}x{old_grid[1]}"
        )
    prefix, cells = jnp.split(jnp.asarray(positions), [num_prefix], axis=-2)
    cells = jax.image.resize(
        cells.reshape(*batch, *old_grid, embed_dim),
        (*batch, *new_grid, embed_dim),
        method,
    )
    return jnp.concatenate([prefix, cells.reshape(*batch, -1, embed_dim)], axis=-2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResizePositions:
    """Adapts position tables of another grid when a run starts from another one.

    An adapter of `training.initialization.FromRun`. A table of relative positions has a grid
    too, of offsets: 2 h - 1 by 2 w - 1 for h by w cells.

    Args:
        match: pattern of the tables' paths.
        old_grid, new_grid: (height, width), in cells; None for squares.
        num_prefix: leading vectors that belong to no cell; None for 1 or 2 where the length
            is so much more than a square, else 0.
        num_suffix: vectors at the end that belong to no cell.
        method: 'bicubic' or 'bilinear'.
    """

    match: str = "position_embedding$"
    old_grid: tuple[int, int] | None = None
    new_grid: tuple[int, int] | None = None
    num_prefix: int | None = None
    num_suffix: int = 0
    method: str = "bicubic"

    def __call__(
        self, path: str, table: np.ndarray, shape: tuple[int, ...]
    ) -> np.ndarray | None:
        """float [..., T, D] -> [..., T', D], or None if `path` is not of a table.

        Raises:
            ValueError: the tables differ in more than their length; a length is no square
                and no grid was given.
        """
        if not re.search(self.match, path):
            return None
        if (*table.shape[:-2], table.shape[-1]) != (*shape[:-2], shape[-1]):
            raise ValueError(f"a table of {table.shape} cannot be resized to {shape}")
        length = table.shape[-2] - self.num_suffix
        old, prefix = _grid(length, self.old_grid, self.num_prefix)
        new, _ = _grid(shape[-2] - self.num_suffix, self.new_grid, prefix)
        resized = resize_positions(
            table[..., :length, :], old, new, num_prefix=prefix, method=self.method
        )
        return np.concatenate([resized, table[..., length:, :]], axis=-2)


def _grid(
    length: int, grid: tuple[int, int] | None, num_prefix: int | None
) -> tuple[tuple[int, int], int]:
    """((height, width), leading vectors) of a table of this length."""
    if grid is not None:
        return grid, length - grid[0] * grid[1] if num_prefix is None else num_prefix
    for prefix in (0, 1, 2) if num_prefix is None else (num_prefix,):
        side = math.isqrt(max(0, length - prefix))
        if side and side * side == length - prefix:
            return (side, side), prefix
    raise ValueError(
        f"{length} positions are no square grid; give old_grid and new_grid"
    )
