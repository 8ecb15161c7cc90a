"""EfficientNet: one searched network, scaled in width, depth and resolution together.

Paper: M. Tan, Q. Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural
Networks", 2019, https://arxiv.org/abs/1905.11946; stochastic depth as in
`layers.drop_path`.

Padding and BatchNorm's epsilon are those of the authors' code ('SAME', 1e-3), and of timm's
`tf_efficientnet` files. torchvision's and timm's other files need padding="symmetric" and,
from B0 to B4, norm_epsilon=1e-5.
"""

import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers.activations import silu
from layers.convolution import Conv, he_normal_fan_out
from layers.dense import Dense
from layers.normalization import BatchNorm
from vision.layers.conv_norm import conv_norm
from vision.layers.inverted_bottleneck import InvertedBottleneck, divisible
from vision.layers.padding import tensorflow_same


class EfficientNet(nn.Module):
    """3x3 stem, seven stages of MBConv blocks, 1x1, global average, linear head.

    Submodules: `stem_conv`, `stem_norm`, `stage_<i>_block_<j>`, `head_conv`, `head_norm`,
    `head`.

    Args:
        num_classes: K; 0 leaves the head out.
        width: by which all channels are multiplied, then rounded to multiples of 8.
        depth: by which the blocks of every stage are multiplied, then rounded up.
        stage_specs: for each stage its expansion, kernel, channels, blocks, and first
            stride, before scaling: the paper's table 1.
        stem_width, head_width: channels of the first and of the last convolution, before
            `width`.
        dropout_rate: before the head.
        drop_path_rate: a block's grows linearly from 0 to nearly this.
        padding: 'SAME' (TensorFlow) or 'symmetric' (torch).
        norm_momentum, norm_epsilon: of BatchNorm; momentum weighs the old statistics.
        dtype: of the computation; None takes the input's.
        param_dtype: of the parameters.
    """

    num_classes: int
    width: float = 1.0
    depth: float = 1.0
    stage_specs: tuple[tuple[int, int, int, int, int], ...] = (
        (1, 3, 16, 1, 1),
        (6, 3, 24, 2, 2),
        (6, 5, 40, 2, 2),
        (6, 3, 80, 3, 2),
        (6, 5, 112, 3, 1),
        (6, 5, 192, 4, 2),
        (6, 3, 320, 1, 1),
    )
    stem_width: int = 32
    head_width: int = 1280
    dropout_rate: float = 0.0
    drop_path_rate: float = 0.0
    padding: str = tensorflow_same
    norm_momentum: float = 0.99
    norm_epsilon: float = 1e-3
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self):
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.head_conv = Conv(
            divisible(self.head_width * self.width),
            kernel_size=(1, 1),
            use_bias=False,
            kernel_init=he_normal_fan_out,
            **dtypes,
        )
        self.head_norm = BatchNorm(
            momentum=self.norm_momentum, epsilon=self.norm_epsilon, **dtypes
        )
        self.dropout = nn.Dropout(self.dropout_rate)
        if self.num_classes:
            # Uniform, of variance 1 / (3 K), as in the authors' code.
            self.head = Dense(
                self.num_classes,
                kernel_init=nn.initializers.variance_scaling(
                    1 / 3, "fan_out", "uniform"
                ),
                **dtypes,
            )

    @property
    def stage_sizes(self) -> tuple[int, ...]:
        """Blocks of each stage, after scaling."""
        return tuple(math.ceil(self.depth * spec[3]) for spec in self.stage_specs)

    @nn.compact
    def stages(self, image: jax.Array, *, train: bool = False) -> tuple[jax.Array, ...]:
        """The output of every stage, [B, H / s, W / s, C].

        Strides s are 2, 4, 8, 16, 16, 32, 32.
        """
        width = divisible(self.stem_width * self.width)
        x = conv_norm(self, "stem", image, width, kernel_size=3, stride=2, train=train)
        x = silu(x)
        outputs, block, sizes = [], 0, self.stage_sizes
        for i, (expansion, kernel, channels, _, stride) in enumerate(self.stage_specs):
            for j in range(sizes[i]):
                x = InvertedBottleneck(
                    features=divisible(channels * self.width),
                    expanded=expansion * x.shape[-1],
                    kernel_size=kernel,
                    stride=stride if j == 0 else 1,
                    # A quarter of the block's input, not of its hidden map.
                    reduced_dim=max(1, x.shape[-1] // 4),
                    activation="silu",
                    padding=self.padding,
                    drop_path_rate=self.drop_path_rate * block / sum(sizes),
                    norm_momentum=self.norm_momentum,
                    norm_epsilon=self.norm_epsilon,
                    dtype=self.dtype,
                    param_dtype=self.param_dtype,
                    name=f"stage_{i}_block_{j}",
                )(x, train=train)
                block += 1
            outputs.append(x)
        return tuple(outputs)

    def features(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """The last convolution's map: [B, h, w, C]."""
        x = self.head_conv(self.stages(image, train=train)[-1])
        return silu(self.head_norm(x, not train))

    def represent(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """One vector per image, what the head sees: [B, C]."""
        return self.features(image, train=train).mean((1, 2))

    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits [B, K] of normalised images, float [B, H, W, C]."""
        x = self.dropout(self.represent(image, train=train), deterministic=not train)
        return self.head(x) if self.num_classes else x


# For images of 224, 240, 260, 300, 380, 456, 528 and 600 pixels.
EfficientNetB0 = partial(EfficientNet, dropout_rate=0.2)
EfficientNetB1 = partial(EfficientNet, width=1.0, depth=1.1, dropout_rate=0.2)
EfficientNetB2 = partial(EfficientNet, width=1.1, depth=1.2, dropout_rate=0.3)
EfficientNetB3 = partial(EfficientNet, width=1.2, depth=1.4, dropout_rate=0.3)
EfficientNetB4 = partial(EfficientNet, width=1.4, depth=1.8, dropout_rate=0.4)
EfficientNetB5 = partial(EfficientNet, width=1.6, depth=2.2, dropout_rate=0.4)
EfficientNetB6 = partial(EfficientNet, width=1.8, depth=2.6, dropout_rate=0.5)
EfficientNetB7 = partial(EfficientNet, width=2.0, depth=3.1, dropout_rate=0.5)
