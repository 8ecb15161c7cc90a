"""ConvNeXt: a residual convolutional network with the habits of Transformers.

Paper: Z. Liu, H. Mao, C.-Y. Wu, C. Feichtenhofer, T. Darrell, S. Xie, "A ConvNet for the
2020s", 2022, https://arxiv.org/abs/2201.03545: 7x7 depthwise convolutions, one norm and one
activation a block, LayerNorm, downsampling in layers of its own, layer scale.

Deviations: the convolutions of stem and downsampling start as `PatchEmbedding` does, not
with the paper's standard deviation of 0.02.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers.convolution import Conv
from layers.dense import Dense
from layers.drop_path import DropPath
from layers.mlp import Mlp
from layers.normalization import LayerNorm
from vision.layers.padding import symmetric
from vision.layers.patches import PatchEmbedding

small_normal = nn.initializers.truncated_normal(0.02)


class ConvNeXt(nn.Module):
    """4x4 patches, stages of blocks with 2x2 patches between, average, norm, linear head.

    Sizes that patches do not tile lose their last rows and columns, as in a convolution
    without padding. Submodules: `stem_conv`, `stem_norm`, `stage_<i>_block_<j>`,
    `downsample_<i>_norm`, `downsample_<i>_conv` (in front of stage i), `norm`, `head`.

    Args:
        num_classes: K; 0 leaves the head out.
        stage_sizes: blocks of each stage.
        stage_widths: channels of each stage.
        kernel_size: of the depthwise convolutions.
        layer_scale: initial factor of every branch, learned per channel; None for none.
        drop_path_rate: of the last block; the first has 0, between them it grows linearly.
        norm_epsilon: of every LayerNorm.
        dtype: of the computation; None takes the input's.
        param_dtype: of the parameters.
    """

    num_classes: int
    stage_sizes: tuple[int, ...] = (3, 3, 9, 3)
    stage_widths: tuple[int, ...] = (96, 192, 384, 768)
    kernel_size: int = 7
    layer_scale: float | None = 1e-6
    drop_path_rate: float = 0.0
    norm_epsilon: float = 1e-6
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self):
        if len(self.stage_sizes) != len(self.stage_widths):
            raise ValueError(
                f"{len(self.stage_sizes)} stage_sizes for {len(self.stage_widths)} "
                "stage_widths; give one of each per stage"
            )
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.norm = LayerNorm(epsilon=self.norm_epsilon, **dtypes)
        if self.num_classes:
            self.head = Dense(self.num_classes, kernel_init=small_normal, **dtypes)

    @nn.compact
    def stages(self, image: jax.Array, *, train: bool = False) -> tuple[jax.Array, ...]:
        """The output of every stage, [B, H / s, W / s, C] at strides 4, 8, 16, 32."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm = partial(LayerNorm, epsilon=self.norm_epsilon, **dtypes)
        patches = partial(PatchEmbedding, **dtypes)
        last = max(sum(self.stage_sizes) - 1, 1)
        x, outputs, block = image, [], 0
        for i, (size, width) in enumerate(
            zip(self.stage_sizes, self.stage_widths, strict=True)
        ):
            if i == 0:
                x = patches(4, width, name="stem_conv")(tiled(x, 4))
                x = norm(name="stem_norm")(x)
            else:
                x = norm(name=f"downsample_{i}_norm")(x)
                x = patches(2, width, name=f"downsample_{i}_conv")(tiled(x, 2))
            for j in range(size):
                x = ConvNeXtBlock(
                    kernel_size=self.kernel_size,
                    layer_scale=self.layer_scale,
                    drop_path_rate=self.drop_path_rate * block / last,
                    norm_epsilon=self.norm_epsilon,
                    name=f"stage_{i}_block_{j}",
                    **dtypes,
                )(x, train=train)
                block += 1
            outputs.append(x)
        return tuple(outputs)

    def features(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """The last stage's map: [B, h, w, C]."""
        return self.stages(image, train=train)[-1]

    def represent(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """One vector per image, what the head sees: [B, C]."""
        return self.norm(self.features(image, train=train).mean((1, 2)))

    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits [B, K] of normalised images, float [B, H, W, C]."""
        x = self.represent(image, train=train)
        return self.head(x) if self.num_classes else x


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution, norm, MLP of four times the width, layer scale, shortcut.

    Parameters: `depthwise_conv`, `norm`, `mlp`, `scale` [C].
    """

    kernel_size: int
    layer_scale: float | None
    drop_path_rate: float
    norm_epsilon: float
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """[B, H, W, C] -> [B, H, W, C]."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        channels = x.shape[-1]
        y = Conv(
            channels,
            kernel_size=(self.kernel_size, self.kernel_size),
            padding=symmetric(self.kernel_size),
            feature_group_count=channels,
            kernel_init=small_normal,
            name="depthwise_conv",
            **dtypes,
        )(x)
        y = LayerNorm(epsilon=self.norm_epsilon, name="norm", **dtypes)(y)
        y = Mlp(4 * channels, kernel_init=small_normal, name="mlp", **dtypes)(
            y, train=train
        )
        if self.layer_scale is not None:
            init = nn.initializers.constant(self.layer_scale)
            scale = self.param("scale", init, (channels,), self.param_dtype)
            y = y * scale.astype(y.dtype)
        drop_path = DropPath(self.drop_path_rate, name="drop_path")
        return x + drop_path(y, train=train)


def tiled(x: jax.Array, patch_size: int) -> jax.Array:
    """[B, H, W, C] without the last rows and columns that fill no patch."""
    height, width = (side // patch_size * patch_size for side in x.shape[1:3])
    return x[:, :height, :width]


ConvNeXtT = ConvNeXt
ConvNeXtS = partial(ConvNeXt, stage_sizes=(3, 3, 27, 3))
ConvNeXtB = partial(
    ConvNeXt, stage_sizes=(3, 3, 27, 3), stage_widths=(128, 256, 512, 1024)
)
ConvNeXtL = partial(
    ConvNeXt, stage_sizes=(3, 3, 27, 3), stage_widths=(192, 384, 768, 1536)
)
ConvNeXtXL = partial(
    ConvNeXt, stage_sizes=(3, 3, 27, 3), stage_widths=(256, 512, 1024, 2048)
)
