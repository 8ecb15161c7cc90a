"""MobileNet v1: a plain network of depthwise-separable convolutions.

Paper: A. Howard, M. Zhu, B. Chen, D. Kalenichenko, W. Wang, T. Weyand, M. Andreetto,
H. Adam, "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision
Applications", 2017, https://arxiv.org/abs/1704.04861.

Deviations: ReLU6, BatchNorm's epsilon 1e-3 and TensorFlow's padding are those of the
authors' code and its released weights; timm's have ReLU, 1e-5 and symmetric padding.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers.activations import Activation, activation_function
from layers.dense import Dense
from vision.layers.conv_norm import conv_norm
from vision.layers.padding import tensorflow_same


class MobileNetV1(nn.Module):
    """3x3 stem, stages of depthwise-separable convolutions, global average, linear head.

    The stem and the first block of every stage but the first halve height and width.
    Submodules: `stem_conv`, `stem_norm`, `stage_<i>_block_<j>`, `head`.

    Args:
        num_classes: K; 0 leaves the head out.
        width: the paper's alpha, by which all channels are multiplied.
        stem_width: channels of the stem, before `width`.
        stage_sizes: blocks of each stage.
        stage_widths: channels of each stage, before `width`.
        activation: after every norm; a function or a name of `layers.activations`.
        dropout_rate: before the head.
        padding: 'SAME' (TensorFlow) or 'symmetric' (torch).
        norm_momentum, norm_epsilon: of BatchNorm; momentum weighs the old statistics.
        dtype: of the computation; None takes the input's.
        param_dtype: of the parameters.
    """

    num_classes: int
    width: float = 1.0
    stem_width: int = 32
    stage_sizes: tuple[int, ...] = (1, 2, 2, 6, 2)
    stage_widths: tuple[int, ...] = (64, 128, 256, 512, 1024)
    activation: Activation | str = "relu6"
    dropout_rate: float = 0.0
    padding: str = tensorflow_same
    norm_momentum: float = 0.99
    norm_epsilon: float = 1e-3
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self):
        if len(self.stage_sizes) != len(self.stage_widths):
            raise ValueError(
                f"{len(self.stage_sizes)} stage_sizes for {len(self.stage_widths)} "
                "stage_widths; give one of each per stage"
            )
        self.dropout = nn.Dropout(self.dropout_rate)
        if self.num_classes:
            self.head = Dense(
                self.num_classes, dtype=self.dtype, param_dtype=self.param_dtype
            )

    def channels(self, channels: int) -> int:
        """`channels` times the width multiplier, at least 8."""
        return max(8, round(channels * self.width))

    @nn.compact
    def stages(self, image: jax.Array, *, train: bool = False) -> tuple[jax.Array, ...]:
        """The output of every stage, [B, H / s, W / s, C] at strides 2, 4, 8, 16, 32."""
        x = conv_norm(
            self,
            "stem",
            image,
            self.channels(self.stem_width),
            kernel_size=3,
            stride=2,
            train=train,
        )
        x = activation_function(self.activation)(x)
        outputs = []
        for i, size in enumerate(self.stage_sizes):
            for j in range(size):
                x = SeparableBlock(
                    features=self.channels(self.stage_widths[i]),
                    stride=2 if i > 0 and j == 0 else 1,
                    activation=self.activation,
                    padding=self.padding,
                    norm_momentum=self.norm_momentum,
                    norm_epsilon=self.norm_epsilon,
                    dtype=self.dtype,
                    param_dtype=self.param_dtype,
                    name=f"stage_{i}_block_{j}",
                )(x, train=train)
            outputs.append(x)
        return tuple(outputs)

    def features(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """The last stage's map: [B, h, w, C]."""
        return self.stages(image, train=train)[-1]

    def represent(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """One vector per image, what the head sees: [B, C]."""
        return self.features(image, train=train).mean((1, 2))

    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits [B, K] of normalised images, float [B, H, W, C]."""
        x = self.dropout(self.represent(image, train=train), deterministic=not train)
        return self.head(x) if self.num_classes else x


class SeparableBlock(nn.Module):
    """3x3 of each channel (stride), then 1x1 of all, each with its norm and activation."""

    features: int
    stride: int
    activation: Activation | str
    padding: str
    norm_momentum: float
    norm_epsilon: float
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """[B, H, W, C] -> [B, H / stride, W / stride, features]."""
        act = activation_function(self.activation)
        x = conv_norm(
            self,
            "depthwise",
            x,
            x.shape[-1],
            kernel_size=3,
            stride=self.stride,
            depthwise=True,
            train=train,
        )
        x = conv_norm(self, "pointwise", act(x), self.features, train=train)
        return act(x)


MobileNetV1_100 = MobileNetV1
MobileNetV1_75 = partial(MobileNetV1, width=0.75)
MobileNetV1_50 = partial(MobileNetV1, width=0.5)
MobileNetV1_25 = partial(MobileNetV1, width=0.25)
