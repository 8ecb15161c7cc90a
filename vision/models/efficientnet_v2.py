"""EfficientNetV2: fused inverted bottlenecks where maps are large, MBConv where small.

Paper: M. Tan, Q. Le, "EfficientNetV2: Smaller Models and Faster Training", 2021,
https://arxiv.org/abs/2104.00298. Sizes are those of the authors' code, whose M and L have a
seventh stage.

Padding is that of the authors' code ('SAME'), and of timm's `tf_efficientnetv2` files;
torchvision's need padding="symmetric".
"""

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
from vision.layers.inverted_bottleneck import (
    FusedInvertedBottleneck,
    InvertedBottleneck,
)
from vision.layers.padding import tensorflow_same

# A stage: (block, expansion, channels, blocks, first stride).
Stage = tuple[str, int, int, int, int]
SMALL: tuple[Stage, ...] = (
    ("fused", 1, 24, 2, 1),
    ("fused", 4, 48, 4, 2),
    ("fused", 4, 64, 4, 2),
    ("mbconv", 4, 128, 6, 2),
    ("mbconv", 6, 160, 9, 1),
    ("mbconv", 6, 256, 15, 2),
)
MEDIUM: tuple[Stage, ...] = (
    ("fused", 1, 24, 3, 1),
    ("fused", 4, 48, 5, 2),
    ("fused", 4, 80, 5, 2),
    ("mbconv", 4, 160, 7, 2),
    ("mbconv", 6, 176, 14, 1),
    ("mbconv", 6, 304, 18, 2),
    ("mbconv", 6, 512, 5, 1),
)
LARGE: tuple[Stage, ...] = (
    ("fused", 1, 32, 4, 1),
    ("fused", 4, 64, 7, 2),
    ("fused", 4, 96, 7, 2),
    ("mbconv", 4, 192, 10, 2),
    ("mbconv", 6, 224, 19, 1),
    ("mbconv", 6, 384, 25, 2),
    ("mbconv", 6, 640, 7, 1),
)


class EfficientNetV2(nn.Module):
    """3x3 stem, stages of 3x3 blocks, 1x1 to 1280, global average, linear head.

    Submodules: `stem_conv`, `stem_norm`, `stage_<i>_block_<j>`, `head_conv`, `head_norm`,
    `head`.

    Args:
        num_classes: K; 0 leaves the head out.
        stage_specs: the stages, as in `SMALL`, `MEDIUM` and `LARGE` of this module; blocks
            are 'fused' or 'mbconv' (with squeeze-and-excitation).
        stem_width: channels of the stem; None for those of the first stage.
        head_width: channels of the last convolution.
        dropout_rate: before the head.
        drop_path_rate: a block's grows linearly from 0 to nearly this.
        padding: 'SAME' (TensorFlow) or 'symmetric' (torch).
        norm_momentum, norm_epsilon: of BatchNorm; momentum weighs the old statistics.
        dtype: of the computation; None takes the input's.
        param_dtype: of the parameters.
    """

    num_classes: int
    stage_specs: tuple[Stage, ...] = SMALL
    stem_width: int | None = None
    head_width: int = 1280
    dropout_rate: float = 0.0
    drop_path_rate: float = 0.0
    padding: str = tensorflow_same
    norm_momentum: float = 0.99
    norm_epsilon: float = 1e-3
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self):
        for kind, *_ in self.stage_specs:
            if kind not in ("fused", "mbconv"):
                raise ValueError(f"block is {kind!r}; known: fused, mbconv")
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.head_conv = Conv(
            self.head_width,
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

        Strides s are 2, 4, 8, 16, 16, 32 and, in M and L, 32.
        """
        width = self.stem_width or self.stage_specs[0][2]
        x = conv_norm(self, "stem", image, width, kernel_size=3, stride=2, train=train)
        x = silu(x)
        outputs, block = [], 0
        for i, (kind, expansion, channels, blocks, stride) in enumerate(
            self.stage_specs
        ):
            for j in range(blocks):
                make = FusedInvertedBottleneck
                if kind == "mbconv":
                    reduced_dim = max(1, x.shape[-1] // 4)
                    make = partial(InvertedBottleneck, reduced_dim=reduced_dim)
                x = make(
                    features=channels,
                    expanded=expansion * x.shape[-1],
                    stride=stride if j == 0 else 1,
                    activation="silu",
                    padding=self.padding,
                    drop_path_rate=self.drop_path_rate * block / self.num_blocks,
                    norm_momentum=self.norm_momentum,
                    norm_epsilon=self.norm_epsilon,
                    dtype=self.dtype,
                    param_dtype=self.param_dtype,
                    name=f"stage_{i}_block_{j}",
                )(x, train=train)
                block += 1
            outputs.append(x)
        return tuple(outputs)

    @property
    def num_blocks(self) -> int:
        """Of all stages together."""
        return sum(spec[3] for spec in self.stage_specs)

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


EfficientNetV2S = partial(EfficientNetV2, stage_specs=SMALL, dropout_rate=0.2)
EfficientNetV2M = partial(EfficientNetV2, stage_specs=MEDIUM, dropout_rate=0.3)
EfficientNetV2L = partial(EfficientNetV2, stage_specs=LARGE, dropout_rate=0.4)
