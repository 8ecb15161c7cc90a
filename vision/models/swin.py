"""Swin: a Transformer in stages whose attention stays within windows that shift.

Paper: Z. Liu, Y. Lin, Y. Cao, H. Hu, Y. Wei, Z. Zhang, S. Lin, B. Guo, "Swin Transformer:
Hierarchical Vision Transformer using Shifted Windows", 2021,
https://arxiv.org/abs/2103.14030.

Any image size will do: images, maps and windows are filled up with zeros on the right and
below, as in the authors' detectors and in timm, so that windows of the border see the
projections of zeros. Where a map is smaller than a window, the window is the map, and
where one window is enough, nothing shifts.

Deviation: a bias table has a row for every offset within a full window also where the map
is smaller than that; timm's then is smaller.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from layers.attention import MultiHeadAttention
from layers.dense import Dense
from layers.drop_path import DropPath
from layers.mlp import Mlp
from layers.normalization import LayerNorm
from vision.layers.patches import PatchEmbedding, patchify

_INIT = nn.initializers.truncated_normal(0.02)
Sides = tuple[int, int]


class Swin(nn.Module):
    """Patch embedding, stages of window attention, norm, global average, linear head.

    Each stage but the first begins by merging 2x2 neighbours, which halves height and
    width and doubles the channels. Submodules: `patch_embedding`, `patch_norm`,
    `stage_<i>_merging`, `stage_<i>_block_<j>`, `norm`, `head`.

    Args:
        num_classes: K; 0 leaves the head out.
        patch_size: side of a patch in pixels.
        embed_dim: channels of the first stage.
        stage_sizes: blocks of each stage; every second one shifts its windows.
        num_heads: of each stage.
        window_size: side of a window in tokens.
        mlp_ratio: hidden width of the MLPs over the channels.
        drop_path_rate: of the last block; the first has 0, between them it grows linearly.
        norm_epsilon: of every LayerNorm.
        attention_implementation: of `layers.attention.dot_product_attention`.
        dtype: of the computation; None takes the input's.
        param_dtype: of the parameters.
    """

    num_classes: int
    patch_size: int = 4
    embed_dim: int = 96
    stage_sizes: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    window_size: int = 7
    mlp_ratio: int = 4
    drop_path_rate: float = 0.0
    norm_epsilon: float = 1e-5
    attention_implementation: str | None = None
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self):
        if len(self.stage_sizes) != len(self.num_heads):
            raise ValueError(
                f"{len(self.stage_sizes)} stage_sizes for {len(self.num_heads)} "
                "num_heads; give one of each per stage"
            )
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.norm = LayerNorm(epsilon=self.norm_epsilon, **dtypes)
        if self.num_classes:
            self.head = Dense(self.num_classes, kernel_init=_INIT, **dtypes)

    @nn.compact
    def stages(self, image: jax.Array, *, train: bool = False) -> tuple[jax.Array, ...]:
        """The output of every stage, [B, h, w, C], h = H / (P * 2^i) rounded up."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm = partial(LayerNorm, epsilon=self.norm_epsilon, **dtypes)
        x = fill_up(image, (self.patch_size,) * 2)
        x = PatchEmbedding(
            self.patch_size, self.embed_dim, name="patch_embedding", **dtypes
        )(x)
        x = norm(name="patch_norm")(x)
        rates = np.linspace(0, self.drop_path_rate, sum(self.stage_sizes)).tolist()
        outputs = []
        for i, size in enumerate(self.stage_sizes):
            if i:
                x = PatchMerging(norm=norm, name=f"stage_{i}_merging", **dtypes)(x)
            for j in range(size):
                x = SwinBlock(
                    num_heads=self.num_heads[i],
                    window_size=self.window_size,
                    shifted=j % 2 == 1,
                    mlp_dim=self.mlp_ratio * x.shape[-1],
                    drop_path_rate=rates[sum(self.stage_sizes[:i]) + j],
                    norm=norm,
                    implementation=self.attention_implementation,
                    name=f"stage_{i}_block_{j}",
                    **dtypes,
                )(x, train=train)
            outputs.append(x)
        return tuple(outputs)

    def features(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """The last stage's map, normalised: [B, h, w, C]."""
        return self.norm(self.stages(image, train=train)[-1])

    def represent(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """One vector per image, what the head sees: [B, C]."""
        return self.features(image, train=train).mean((1, 2))

    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits [B, K] of normalised images, float [B, H, W, C]."""
        x = self.represent(image, train=train)
        return self.head(x) if self.num_classes else x


class PatchMerging(nn.Module):
    """2x2 neighbours, one after another, normalised and reduced to half their channels."""

    norm: Any
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, h, w, C] -> [B, h / 2, w / 2, 2 C], odd sides filled up."""
        channels = x.shape[-1]
        x = fill_up(x, (2, 2))
        # Down before right: above left, below left, above right, below right.
        x = jnp.concatenate(
            [x[:, i::2, j::2] for j in range(2) for i in range(2)], axis=-1
        )
        return Dense(
            2 * channels,
            use_bias=False,
            kernel_init=_INIT,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="reduction",
        )(self.norm(name="norm")(x))


class SwinBlock(nn.Module):
    """x + attention within windows of norm(x), then x + mlp(norm(x))."""

    num_heads: int
    window_size: int
    shifted: bool
    mlp_dim: int
    drop_path_rate: float
    norm: Any
    implementation: str | None
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """[B, h, w, C] -> [B, h, w, C]."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        y = self._attention(self.norm(name="attention_norm")(x), train=train)
        x = x + DropPath(self.drop_path_rate, name="attention_drop_path")(
            y, train=train
        )
        y = self.norm(name="mlp_norm")(x)
        y = Mlp(self.mlp_dim, kernel_init=_INIT, name="mlp", **dtypes)(y, train=train)
        return x + DropPath(self.drop_path_rate, name="mlp_drop_path")(y, train=train)

    def _attention(self, x: jax.Array, *, train: bool) -> jax.Array:
        B, h, w, _ = x.shape
        window = (min(self.window_size, h), min(self.window_size, w))
        x = fill_up(x, window)
        grid = x.shape[1:3]
        shift = window_shift(grid, window) if self.shifted else (0, 0)
        x = jnp.roll(x, (-shift[0], -shift[1]), (1, 2))
        table = self.param(
            "position_bias",
            _INIT,
            ((2 * self.window_size - 1) ** 2, self.num_heads),
            self.param_dtype,
        )
        index = relative_position_index(window, self.window_size)
        mask = None
        if any(shift):
            mask = jnp.tile(window_mask(grid, window, shift)[:, None], (B, 1, 1, 1))
        y = MultiHeadAttention(
            self.num_heads,
            kernel_init=_INIT,
            implementation=self.implementation,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="attention",
        )(
            to_windows(x, window),
            bias=table[index].transpose(2, 0, 1)[None],
            mask=mask,
            train=train,
        )
        y = jnp.roll(from_windows(y, grid, window), shift, (1, 2))
        return y[:, :h, :w]


def fill_up(x: jax.Array, sides: Sides) -> jax.Array:
    """[B, h, w, C] with zeros on the right and below, up to multiples of (height, width)."""
    height, width = (-x.shape[1 + i] % sides[i] for i in range(2))
    if not height and not width:
        return x
    return jnp.pad(x, ((0, 0), (0, height), (0, width), (0, 0)))


def to_windows(x: jax.Array, window: Sides) -> jax.Array:
    """[B, h, w, C] -> [B * windows, tokens of a window, C], both row by row."""
    C = x.shape[-1]
    return patchify(x, window).reshape(-1, window[0] * window[1], C)


def from_windows(windows: jax.Array, grid: Sides, window: Sides) -> jax.Array:
    """Undoes `to_windows`: [B * windows, tokens, C] -> [B, *grid, C]."""
    (h, w), (M, N), C = grid, window, windows.shape[-1]
    x = windows.reshape(-1, h // M, w // N, M, N, C)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, h, w, C)


def window_shift(grid: Sides, window: Sides) -> Sides:
    """By how much windows shift, (down, right): half a window, or 0 if one is enough."""
    return tuple(
        0 if side <= size else size // 2
        for side, size in zip(grid, window, strict=True)
    )


def window_mask(grid: Sides, window: Sides, shift: Sides) -> np.ndarray:
    """Which tokens of a window were neighbours before a map was rolled.

    Args:
        grid: (height, width) of the map, multiples of the window's.
        window: its sides.
        shift: by how much the map was rolled, up and to the left.

    Returns:
        bool [windows, T, T], T tokens of a window; False between tokens of which one came
        round from the other end of the map.
    """
    came_round = [np.arange(grid[i]) >= grid[i] - shift[i] for i in range(2)]
    region = 2 * came_round[0][:, None] + came_round[1]
    (h, w), (M, N) = grid, window
    region = region.reshape(h // M, M, w // N, N).transpose(0, 2, 1, 3)
    region = region.reshape(-1, M * N)
    return region[:, :, None] == region[:, None, :]


def relative_position_index(window: Sides, window_size: int) -> np.ndarray:
    """Which row of a bias table belongs to each pair of tokens of a window.

    Args:
        window: (height, width), at most `window_size` each.
        window_size: of the table's (2 window_size - 1)^2 rows: offsets, query less key,
            row by row.

    Returns:
        int [T, T], query first.
    """
    y, x = np.divmod(np.arange(window[0] * window[1]), window[1])
    dy, dx = (p[:, None] - p + window_size - 1 for p in (y, x))
    return dy * (2 * window_size - 1) + dx


_T = partial(Swin, embed_dim=96, num_heads=(3, 6, 12, 24))
Swin_T = partial(_T, stage_sizes=(2, 2, 6, 2))
Swin_S = partial(_T, stage_sizes=(2, 2, 18, 2))
Swin_B = partial(
    Swin, embed_dim=128, stage_sizes=(2, 2, 18, 2), num_heads=(4, 8, 16, 32)
)
Swin_L = partial(
    Swin, embed_dim=192, stage_sizes=(2, 2, 18, 2), num_heads=(6, 12, 24, 48)
)
