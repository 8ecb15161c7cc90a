"""MobileNet v2: inverted residual blocks with linear bottlenecks.

Paper: M. Sandler, A. Howard, M. Zhu, A. Zhmoginov, L.-C. Chen, "MobileNetV2: Inverted
Residuals and Linear Bottlenecks", 2018, https://arxiv.org/abs/1801.04381.

Deviations: padding is symmetric and BatchNorm's epsilon 1e-5, as in torchvision and timm;
the authors' code has TensorFlow's padding ('SAME') and 1e-3.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers.activations import relu6
from layers.convolution import Conv, he_normal_fan_out
from layers.dense import Dense
from layers.normalization import BatchNorm
from vision.layers.conv_norm import conv_norm
from vision.layers.inverted_bottleneck import InvertedBottleneck, divisible


class MobileNetV2(nn.Module):
    """3x3 stem, stages of inverted bottlenecks, 1x1 to 1280, global average, linear head.

    Submodules: `stem_conv`, `stem_norm`, `stage_<i>_block_<j>`, `head_conv`, `head_norm`,
    `head`.

    Args:
        num_classes: K; 0 leaves the head out.
        width: by which all channels are multiplied, then rounded to multiples of 8; the
            last layer's only if it is above 1.
        stage_specs: for each stage its expansion, channels, blocks, and first stride: the
            paper's table 2.
        stem_width, head_width: channels of the first and of the last convolution.
        dropout_rate: before the head.
        padding: 'symmetric' (torch) or 'SAME' (TensorFlow).
        norm_momentum, norm_epsilon: of BatchNorm; momentum weighs the old statistics.
        dtype: of the computation; None takes the input's.
        param_dtype: of the parameters.
    """

    num_classes: int
    width: float = 1.0
    stage_specs: tuple[tuple[int, int, int, int], ...] = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )
    stem_width: int = 32
    head_width: int = 1280
    dropout_rate: float = 0.0
    padding: str = "symmetric"
    norm_momentum: float = 0.9
    norm_epsilon: float = 1e-5
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self):
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.head_conv = Conv(
            divisible(self.head_width * max(1.0, self.width)),
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
            self.head = Dense(
                self.num_classes, kernel_init=nn.initializers.normal(0.01), **dtypes
            )

    @nn.compact
    def stages(self, image: jax.Array, *, train: bool = False) -> tuple[jax.Array, ...]:
        """The output of every stage, [B, H / s, W / s, C].

        Strides s are 2, 4, 8, 16, 16, 32, 32.
        """
        width = divisible(self.stem_width * self.width)
        x = conv_norm(self, "stem", image, width, kernel_size=3, stride=2, train=train)
        x = relu6(x)
        outputs = []
        for i, (expansion, channels, blocks, stride) in enumerate(self.stage_specs):
            for j in range(blocks):
                x = InvertedBottleneck(
                    features=divisible(channels * self.width),
                    expanded=expansion * x.shape[-1],
                    stride=stride if j == 0 else 1,
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
        """The last convolution's map: [B, h, w, C]."""
        x = self.head_conv(self.stages(image, train=train)[-1])
        return relu6(self.head_norm(x, not train))

    def represent(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """One vector per image, what the head sees: [B, C]."""
        return self.features(image, train=train).mean((1, 2))

    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits [B, K] of normalised images, float [B, H, W, C]."""
        x = self.dropout(self.represent(image, train=train), deterministic=not train)
        return self.head(x) if self.num_classes else x


MobileNetV2_100 = MobileNetV2
MobileNetV2_140 = partial(MobileNetV2, width=1.4)
