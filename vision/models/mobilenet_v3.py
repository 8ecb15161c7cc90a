"""MobileNet v3: a searched network of inverted bottlenecks with hard activations.

Paper: A. Howard, M. Sandler, G. Chu, L.-C. Chen, B. Chen, M. Tan, W. Wang, Y. Zhu, R. Pang,
V. Vasudevan, Q. Le, H. Adam, "Searching for MobileNetV3", 2019,
https://arxiv.org/abs/1905.02244.

Deviations: padding is symmetric by default, as in torchvision and timm (the authors' code:
'SAME'); widths of the squeeze-and-excitation are rounded to multiples of 8, as in all three.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers.activations import hard_swish
from layers.convolution import Conv, he_normal_fan_out
from layers.dense import Dense
from layers.normalization import BatchNorm
from vision.layers.conv_norm import conv_norm
from vision.layers.inverted_bottleneck import InvertedBottleneck, divisible

# A stage: (stride, activation, squeeze-and-excitation, kernel, channels, (hidden, ...)),
# with a block for each hidden width: the paper's tables 1 and 2.
Stage = tuple[int, str, bool, int, int, tuple[int, ...]]
LARGE: tuple[Stage, ...] = (
    (1, "relu", False, 3, 16, (16,)),
    (2, "relu", False, 3, 24, (64, 72)),
    (2, "relu", True, 5, 40, (72, 120, 120)),
    (2, "hard_swish", False, 3, 80, (240, 200, 184, 184)),
    (1, "hard_swish", True, 3, 112, (480, 672)),
    (2, "hard_swish", True, 5, 160, (672, 960, 960)),
)
SMALL: tuple[Stage, ...] = (
    (2, "relu", True, 3, 16, (16,)),
    (2, "relu", False, 3, 24, (72, 88)),
    (2, "hard_swish", True, 5, 40, (96, 240, 240)),
    (1, "hard_swish", True, 5, 48, (120, 144)),
    (2, "hard_swish", True, 5, 96, (288, 576, 576)),
)


class MobileNetV3(nn.Module):
    """3x3 stem, inverted bottlenecks, 1x1, global average, a wide layer, linear head.

    The wide layer comes after the average, where it costs one pixel's work. Submodules:
    `stem_conv`, `stem_norm`, `stage_<i>_block_<j>`, `head_conv`, `head_norm`,
    `representation`, `head`.

    Args:
        num_classes: K; 0 leaves the head out.
        stage_specs: the stages, as in `LARGE` and `SMALL` of this module.
        representation_dim: of the layer in front of the head.
        width: by which all channels are multiplied, then rounded to multiples of 8.
        stem_width: channels of the stem, before `width`.
        dropout_rate: before the head.
        padding: 'symmetric' (torch) or 'SAME' (TensorFlow).
        norm_momentum, norm_epsilon: of BatchNorm; momentum weighs the old statistics.
        dtype: of the computation; None takes the input's.
        param_dtype: of the parameters.
    """

    num_classes: int
    stage_specs: tuple[Stage, ...] = LARGE
    representation_dim: int = 1280
    width: float = 1.0
    stem_width: int = 16
    dropout_rate: float = 0.0
    padding: str = "symmetric"
    norm_momentum: float = 0.99
    norm_epsilon: float = 1e-3
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self):
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        *_, channels, _ = self.stage_specs[-1]
        self.head_conv = Conv(
            6 * divisible(channels * self.width),
            kernel_size=(1, 1),
            use_bias=False,
            kernel_init=he_normal_fan_out,
            **dtypes,
        )
        self.head_norm = BatchNorm(
            momentum=self.norm_momentum, epsilon=self.norm_epsilon, **dtypes
        )
        self.representation = Dense(
            divisible(self.representation_dim * self.width), **dtypes
        )
        self.dropout = nn.Dropout(self.dropout_rate)
        if self.num_classes:
            self.head = Dense(
                self.num_classes, kernel_init=nn.initializers.normal(0.01), **dtypes
            )

    @nn.compact
    def stages(self, image: jax.Array, *, train: bool = False) -> tuple[jax.Array, ...]:
        """The output of every stage, [B, H / s, W / s, C].

        Strides s are 2, 4, 8, 16, 16, 32 (large) or 4, 8, 16, 16, 32 (small).
        """
        width = divisible(self.stem_width * self.width)
        x = conv_norm(self, "stem", image, width, kernel_size=3, stride=2, train=train)
        x = hard_swish(x)
        outputs = []
        for i, spec in enumerate(self.stage_specs):
            stride, activation, excite, kernel, channels, hidden = spec
            for j, expanded in enumerate(hidden):
                expanded = divisible(expanded * self.width)
                x = InvertedBottleneck(
                    features=divisible(channels * self.width),
                    expanded=expanded,
                    kernel_size=kernel,
                    stride=stride if j == 0 else 1,
                    reduced_dim=divisible(expanded // 4) if excite else 0,
                    activation=activation,
                    reduced_activation="relu",
                    gate="hard_sigmoid",
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
        return hard_swish(self.head_norm(x, not train))

    def represent(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """One vector per image, what the head sees: [B, representation_dim]."""
        x = self.features(image, train=train).mean((1, 2))
        return hard_swish(self.representation(x))

    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits [B, K] of normalised images, float [B, H, W, C]."""
        x = self.dropout(self.represent(image, train=train), deterministic=not train)
        return self.head(x) if self.num_classes else x


MobileNetV3Large = MobileNetV3
MobileNetV3Small = partial(MobileNetV3, stage_specs=SMALL, representation_dim=1024)
