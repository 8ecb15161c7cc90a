"""ResNet and its kin: networks of residual blocks, for large images and for CIFAR.

Papers: K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition",
2015, https://arxiv.org/abs/1512.03385 (ResNet, and PlainNet, the same without shortcuts);
S. Xie, R. Girshick, P. Dollar, Z. Tu, K. He, "Aggregated Residual Transformations for Deep
Neural Networks", 2016, https://arxiv.org/abs/1611.05431 (ResNeXt); S. Zagoruyko,
N. Komodakis, "Wide Residual Networks", 2016, https://arxiv.org/abs/1605.07146 (its ImageNet
form; that for CIFAR normalises first: `vision.models.resnet_preact`); J. Hu, L. Shen,
S. Albanie, G. Sun, E. Wu, "Squeeze-and-Excitation Networks", 2017,
https://arxiv.org/abs/1709.01507 (SE-ResNet); zero-initialised last scales from P. Goyal et
al., "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour", 2017,
https://arxiv.org/abs/1706.02677.

Deviations: a bottleneck strides in its 3x3 convolution ("v1.5", as torchvision and timm do;
padding is theirs too), in its first 1x1 with `stride_in_first=True`. The CIFAR family is
section 4.2 of the first paper: a 3x3 stem, 16-32-64 channels, 6n + 2 layers, shortcuts
without parameters. Squeeze-and-excitation's inner width is rounded to a multiple of 8, as
in timm, which changes only blocks of less than 128 channels.
"""

from collections.abc import Callable
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
from vision.layers.residual import BLOCKS, SHORTCUTS
from vision.layers.squeeze_excite import SqueezeExcite


class ResNet(nn.Module):
    """Stem, stages of residual blocks, global average, linear head.

    Each stage but the first halves height and width. Submodules: `stem_conv`,
    `stem_norm`, `stage_<i>_block_<j>`, `head`.

    Args:
        num_classes: K; 0 leaves the head out.
        stage_sizes: residual blocks of each stage.
        stage_widths: channels of each stage's 3x3 convolutions, as far as cardinality and
            base_width do not change them; a bottleneck's output has four times as many.
        block: 'basic' (two 3x3) or 'bottleneck' (1x1, 3x3, 1x1 of four times the width).
        stem: 'large' (7x7 stride 2, 3x3 max pool stride 2) or 'small' (3x3 stride 1).
        stem_width: channels of the stem.
        cardinality: groups of a bottleneck's 3x3 convolution.
        base_width: channels of each of these groups, in a stage of stage width 64.
        squeeze_reduction: each branch ends in a squeeze-and-excitation whose inner width is
            the branch's over this; 0 for none.
        stride_in_first: a bottleneck strides in its first 1x1 convolution.
        shortcut: where the shape changes, 'projection' (1x1 convolution and norm) or
            'padding' (every second pixel, zeros for new channels: the paper's option A);
            'none' for a PlainNet, which has no shortcuts at all.
        zero_init: each block's last scale starts at 0, so that blocks start as identity.
        norm_momentum, norm_epsilon: of BatchNorm; momentum weighs the old statistics.
        dtype: of the computation; None takes the input's.
        param_dtype: of the parameters.
    """

    num_classes: int
    stage_sizes: tuple[int, ...]
    stage_widths: tuple[int, ...] = (64, 128, 256, 512)
    block: str = "bottleneck"
    stem: str = "large"
    stem_width: int = 64
    cardinality: int = 1
    base_width: int = 64
    squeeze_reduction: int = 0
    stride_in_first: bool = False
    shortcut: str = "projection"
    zero_init: bool = True
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
        for name, known in (
            ("block", BLOCKS),
            ("stem", ("large", "small")),
            ("shortcut", SHORTCUTS),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; known: {', '.join(known)}"
                )
        if self.block == "basic" and (self.cardinality, self.base_width) != (1, 64):
            raise ValueError(
                f"cardinality={self.cardinality} and base_width={self.base_width} are of "
                "bottlenecks; set block='bottleneck'"
            )
        if self.shortcut == "none" and self.zero_init:
            raise ValueError(
                "without shortcuts, blocks whose last scale is 0 compute nothing; set "
                "zero_init=False"
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
        """The output of every stage, [B, H / s, W / s, C] at growing strides s."""
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
        x = relu(norm(name="stem_norm")(x))
        if large:
            x = max_pool(x, (3, 3), strides=(2, 2), padding=symmetric(3))
        outputs = []
        for i, size in enumerate(self.stage_sizes):
            make = self._blocks(self.stage_widths[i], conv, norm)
            for j in range(size):
                stride = 2 if i > 0 and j == 0 else 1
                x = make(stride=stride, name=f"stage_{i}_block_{j}")(x)
            outputs.append(x)
        return tuple(outputs)

    def _blocks(
        self, width: int, conv: Callable[..., nn.Module], norm: Callable[..., nn.Module]
    ) -> Callable[..., nn.Module]:
        """Makes the blocks of a stage, by stride and name."""
        features = width if self.block == "basic" else 4 * width
        gate = None
        if self.squeeze_reduction:
            gate = partial(
                SqueezeExcite,
                squeezed_width(features, self.squeeze_reduction),
                dtype=self.dtype,
                param_dtype=self.param_dtype,
            )
        return partial(
            BLOCKS[self.block],
            features=features,
            width=width * self.base_width // 64 * self.cardinality,
            conv=conv,
            norm=norm,
            shortcut=self.shortcut,
            zero_init=self.zero_init,
            cardinality=self.cardinality,
            stride_in_first=self.stride_in_first,
            gate=gate,
        )

    def features(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """The last stage's map: [B, h, w, C]."""
        return self.stages(image, train=train)[-1]

    def represent(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """One vector per image, what the head sees: [B, C]."""
        return self.features(image, train=train).mean((1, 2))

    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits [B, K] of normalised images, float [B, H, W, C]."""
        x = self.represent(image, train=train)
        return self.head(x) if self.num_classes else x


def squeezed_width(features: int, reduction: int) -> int:
    """features / reduction, rounded to a multiple of 8, at least 8."""
    return max(8, (features + 4 * reduction) // (8 * reduction) * 8)


ResNet18 = partial(ResNet, stage_sizes=(2, 2, 2, 2), block="basic")
ResNet34 = partial(ResNet, stage_sizes=(3, 4, 6, 3), block="basic")
ResNet50 = partial(ResNet, stage_sizes=(3, 4, 6, 3))
ResNet101 = partial(ResNet, stage_sizes=(3, 4, 23, 3))
ResNet152 = partial(ResNet, stage_sizes=(3, 8, 36, 3))
PlainNet18 = partial(ResNet18, shortcut="none", zero_init=False)
PlainNet34 = partial(ResNet34, shortcut="none", zero_init=False)
ResNeXt50_32x4d = partial(ResNet50, cardinality=32, base_width=4)
ResNeXt101_32x4d = partial(ResNet101, cardinality=32, base_width=4)
ResNeXt101_32x8d = partial(ResNet101, cardinality=32, base_width=8)
ResNeXt101_64x4d = partial(ResNet101, cardinality=64, base_width=4)
WideResNet50_2 = partial(ResNet50, base_width=128)
WideResNet101_2 = partial(ResNet101, base_width=128)
SEResNet50 = partial(ResNet50, squeeze_reduction=16)
SEResNet101 = partial(ResNet101, squeeze_reduction=16)
SEResNet152 = partial(ResNet152, squeeze_reduction=16)
SEResNeXt50_32x4d = partial(ResNeXt50_32x4d, squeeze_reduction=16)

# He's networks for 32x32 images, of 6n + 2 layers.
_cifar = partial(
    ResNet,
    stage_widths=(16, 32, 64),
    block="basic",
    stem="small",
    stem_width=16,
    shortcut="padding",
    zero_init=False,
)
CifarResNet20 = partial(_cifar, stage_sizes=(3, 3, 3))
CifarResNet32 = partial(_cifar, stage_sizes=(5, 5, 5))
CifarResNet44 = partial(_cifar, stage_sizes=(7, 7, 7))
CifarResNet56 = partial(_cifar, stage_sizes=(9, 9, 9))
CifarResNet110 = partial(_cifar, stage_sizes=(18, 18, 18))
CifarPlainNet20 = partial(CifarResNet20, shortcut="none")
CifarPlainNet32 = partial(CifarResNet32, shortcut="none")
CifarPlainNet44 = partial(CifarResNet44, shortcut="none")
CifarPlainNet56 = partial(CifarResNet56, shortcut="none")
