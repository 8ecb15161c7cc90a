"""Xception: every convolution but the first two is depthwise separable.

Paper: F. Chollet, "Xception: Deep Learning with Depthwise Separable Convolutions", 2016,
https://arxiv.org/abs/1610.02357.

Deviations: none from the paper's figure 5; where it leaves the choice, convolutions, pools
and BatchNorm are by default those of timm's `legacy_xception`. Keras has padding='SAME'
and norm_epsilon=1e-3.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers.activations import relu
from layers.dense import Dense
from layers.pooling import max_pool
from vision.layers.conv_norm import ConvNorm
from vision.layers.padding import padding_named
from vision.layers.separable import SeparableConvNorm


class Xception(nn.Module):
    """Entry flow, middle flow of equal blocks, exit flow, linear head.

    Submodules: `stem_<i>`, `entry_block_<i>`, `middle_block_<i>`, `exit_block`,
    `exit_conv_<i>`, `head`.

    Args:
        num_classes: K; 0 leaves the head out.
        stem_widths: channels of the two ordinary convolutions.
        entry_widths: of the entry flow's blocks, which halve the size.
        num_middle_blocks: three separable convolutions each.
        exit_widths: of the exit flow's block, and of the two convolutions behind it.
        padding: of the pools, 'symmetric' or 'SAME'; they differ on even sizes.
        dropout_rate: before the head.
        norm_momentum, norm_epsilon: of BatchNorm; momentum weighs the old statistics.
        dtype: of the computation; None takes the input's.
        param_dtype: of the parameters.
    """

    num_classes: int
    stem_widths: tuple[int, int] = (32, 64)
    entry_widths: tuple[int, ...] = (128, 256, 728)
    num_middle_blocks: int = 8
    exit_widths: tuple[int, ...] = (1024, 1536, 2048)
    padding: str = "symmetric"
    dropout_rate: float = 0.5
    norm_momentum: float = 0.9
    norm_epsilon: float = 1e-5
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self):
        padding_named(self.padding, 3)
        if self.num_classes:
            self.head = Dense(
                self.num_classes, dtype=self.dtype, param_dtype=self.param_dtype
            )

    @nn.compact
    def stages(self, image: jax.Array, *, train: bool = False) -> tuple[jax.Array, ...]:
        """The maps at strides 4, 8, 16, ... and the last: [B, h, w, C] each."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norms = {
            "norm_momentum": self.norm_momentum,
            "norm_epsilon": self.norm_epsilon,
        }
        block = partial(XceptionBlock, padding=self.padding, **norms, **dtypes)
        x = image
        for i, width in enumerate(self.stem_widths):
            x = ConvNorm(
                width,
                kernel_size=3,
                strides=1 if i else 2,
                padding="VALID",
                name=f"stem_{i}",
                **norms,
                **dtypes,
            )(x, train=train)
        outputs = []
        for i, width in enumerate(self.entry_widths):
            x = block(
                (width, width), stride=2, relu_first=i > 0, name=f"entry_block_{i}"
            )(x, train=train)
            outputs.append(x)
        width = x.shape[-1]
        for i in range(self.num_middle_blocks):
            x = block((width,) * 3, name=f"middle_block_{i}")(x, train=train)
        outputs[-1] = x
        first, *others = self.exit_widths
        x = block((width, first), stride=2, name="exit_block")(x, train=train)
        for i, width in enumerate(others):
            conv = SeparableConvNorm(width, name=f"exit_conv_{i}", **norms, **dtypes)
            x = relu(conv(x, train=train))
        return (*outputs, x)

    def features(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """The last map: [B, h, w, C]."""
        return self.stages(image, train=train)[-1]

    def represent(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """One vector per image, what the head sees: [B, C]."""
        return self.features(image, train=train).mean((1, 2))

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits [B, K] of normalised images, float [B, H, W, C]."""
        x = self.represent(image, train=train)
        if not self.num_classes:
            return x
        dropout = nn.Dropout(self.dropout_rate, name="dropout")
        return self.head(dropout(x, deterministic=not train))


class XceptionBlock(nn.Module):
    """Separable convolutions with relu in front and BatchNorm behind, plus the shortcut.

    Where the shape changes, the branch ends in a 3x3 max pool and the shortcut is a 1x1
    convolution with its norm. Submodules: `conv_<i>`, `shortcut`.

    Args:
        widths: channels of each convolution.
        stride: of the pool and the shortcut.
        relu_first: relu in front of the first convolution too.
        padding: of the pool.
        norm_momentum, norm_epsilon: of BatchNorm.
    """

    widths: tuple[int, ...]
    padding: str
    norm_momentum: float
    norm_epsilon: float
    stride: int = 1
    relu_first: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """[B, H, W, C] -> [B, ceil(H / stride), ceil(W / stride), widths[-1]]."""
        options = {
            "norm_momentum": self.norm_momentum,
            "norm_epsilon": self.norm_epsilon,
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
        }
        y = x
        for i, width in enumerate(self.widths):
            if i or self.relu_first:
                y = relu(y)
            y = SeparableConvNorm(width, name=f"conv_{i}", **options)(y, train=train)
        if self.stride == 1 and x.shape[-1] == self.widths[-1]:
            return x + y
        if self.stride > 1:
            strides = (self.stride, self.stride)
            y = max_pool(y, (3, 3), strides, padding_named(self.padding, 3))
        shortcut = ConvNorm(
            self.widths[-1],
            strides=self.stride,
            activation="identity",
            name="shortcut",
            **options,
        )
        return y + shortcut(x, train=train)
