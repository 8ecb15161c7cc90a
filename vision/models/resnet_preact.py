"""Pre-activation ResNet and, as wide ones of its kind, Wide ResNet.

Papers: K. He, X. Zhang, S. Ren, J. Sun, "Identity Mappings in Deep Residual Networks", 2016,
https://arxiv.org/abs/1603.05027; S. Zagoruyko, N. Komodakis, "Wide Residual Networks", 2016,
https://arxiv.org/abs/1605.07146.

Deviations: a bottleneck strides in its 3x3 convolution, not in its first 1x1, and on large
images the stem's first norm comes after the max pool, in the first block, not before it
(both as in timm's resnetv2).
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers.activations import relu
from layers.convolution import Conv, he_normal_fan_out
from layers.dense import Dense
from layers.normalization import BatchNorm
from layers.pooling import max_pool
from vision.layers.padding import symmetric
from vision.layers.preactivation import BLOCKS


class PreactResNet(nn.Module):
    """Stem, stages of pre-activation blocks, norm and activation, average, linear head.

    Each stage but the first halves height and width. Submodules: `stem_conv`,
    `stage_<i>_block_<j>`, `norm`, `head`.

    Args:
        num_classes: K; 0 leaves the head out.
        stage_sizes: residual blocks of each stage.
        stage_widths: channels of each stage's 3x3 convolutions, before widening.
        block: 'basic' (two 3x3) or 'bottleneck' (1x1, 3x3, 1x1 of four times the width).
        widening: factor of all widths but the stem's.
        stem: 'large' (7x7 stride 2, 3x3 max pool stride 2) or 'small' (3x3 stride 1).
        stem_width: channels of the stem.
        dropout_rate: inside of each block, before its last convolution.
        norm_momentum, norm_epsilon: of BatchNorm; momentum weighs the old statistics.
        dtype: of the computation; None takes the input's.
        param_dtype: of the parameters.
    """

    num_classes: int
    stage_sizes: tuple[int, ...]
    stage_widths: tuple[int, ...] = (64, 128, 256, 512)
    block: str = "bottleneck"
    widening: int = 1
    stem: str = "large"
    stem_width: int = 64
    dropout_rate: float = 0.0
    norm_momentum: float = 0.9
    norm_epsilon: float = 1e-5
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self):
        if len(self.stage_sizes) != len(self.stage_widths):
            raise ValueError(
                f"{len(self.stage_sizes)} stage_sizes for {len(self.stage_widths)} "
                "stage_widths; give one of each per stage"
            )
        for name, known in (("block", BLOCKS), ("stem", ("large", "small"))):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; known: {', '.join(known)}"
                )
        if self.num_classes:
            self.head = Dense(
                self.num_classes,
                kernel_init=nn.initializers.normal(0.01),
                dtype=self.dtype,
                param_dtype=self.param_dtype,
            )

    @nn.compact
    def stages(self, image: jax.Array, *, train: bool = False) -> tuple[jax.Array, ...]:
        """The output of every stage, [B, H / s, W / s, C] at growing strides s; the last
        one normalised and activated, the others bare sums."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = partial(Conv, use_bias=False, kernel_init=he_normal_fan_out, **dtypes)
        norm = partial(
            BatchNorm,
            use_running_average=not train,
            momentum=self.norm_momentum,
            epsilon=self.norm_epsilon,
            **dtypes,
        )
        large = self.stem == "large"
        x = conv(
            self.stem_width,
            kernel_size=(7, 7) if large else (3, 3),
            strides=2 if large else 1,
            padding=symmetric(7 if large else 3),
            name="stem_conv",
        )(image)
        if large:
            x = max_pool(x, (3, 3), strides=(2, 2), padding=symmetric(3))
        outputs = []
        for i, size in enumerate(self.stage_sizes):
            width = self.stage_widths[i] * self.widening
            for j in range(size):
                x = BLOCKS[self.block](
                    features=width if self.block == "basic" else 4 * width,
                    width=width,
                    stride=2 if i > 0 and j == 0 else 1,
                    conv=conv,
                    norm=norm,
                    dropout_rate=self.dropout_rate,
                    name=f"stage_{i}_block_{j}",
                )(x, train=train)
            outputs.append(x)
        outputs[-1] = relu(norm(name="norm")(x))
        return tuple(outputs)

    def features(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """The last stage's map, normalised and activated: [B, h, w, C]."""
        return self.stages(image, train=train)[-1]

    def represent(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """One vector per image, what the head sees: [B, C]."""
        return self.features(image, train=train).mean((1, 2))

    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits [B, K] of normalised images, float [B, H, W, C]."""
        x = self.represent(image, train=train)
        return self.head(x) if self.num_classes else x


PreactResNet50 = partial(PreactResNet, stage_sizes=(3, 4, 6, 3))
PreactResNet101 = partial(PreactResNet, stage_sizes=(3, 4, 23, 3))
PreactResNet152 = partial(PreactResNet, stage_sizes=(3, 8, 36, 3))
PreactResNet200 = partial(PreactResNet, stage_sizes=(3, 24, 36, 3))

# For 32x32 images: of 9n + 2 layers, and wide ones of 6n + 4.
_cifar = partial(PreactResNet, stage_widths=(16, 32, 64), stem="small", stem_width=16)
CifarPreactResNet164 = partial(_cifar, stage_sizes=(18, 18, 18))
CifarPreactResNet1001 = partial(_cifar, stage_sizes=(111, 111, 111))
_wide = partial(_cifar, block="basic")
WideResNet16_4 = partial(_wide, stage_sizes=(2, 2, 2), widening=4)
WideResNet40_4 = partial(_wide, stage_sizes=(6, 6, 6), widening=4)
WideResNet16_8 = partial(_wide, stage_sizes=(2, 2, 2), widening=8)
WideResNet28_10 = partial(_wide, stage_sizes=(4, 4, 4), widening=10)
