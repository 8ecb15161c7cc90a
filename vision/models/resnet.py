"""ResNet: networks of residual blocks, for large images and for CIFAR.

Papers: K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition",
2015, https://arxiv.org/abs/1512.03385; zero-initialised last scales from P. Goyal et al.,
"Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour", 2017,
https://arxiv.org/abs/1706.02677.

Deviations: a bottleneck strides in its 3x3 convolution, not in its first 1x1 ("v1.5", as
torchvision and timm do; padding is theirs too). The CIFAR family is the paper's section
4.2: a 3x3 stem, 16-32-64 channels, 6n + 2 layers, shortcuts without parameters.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers.activations import relu
from layers.convolution import Conv
from layers.dense import Dense
from layers.normalization import BatchNorm
from layers.pooling import max_pool

he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class ResNet(nn.Module):
    """Stem, stages of residual blocks, global average, linear head.

    Each stage but the first halves height and width. Submodules: `stem_conv`,
    `stem_norm`, `stage_<i>_block_<j>`, `head`.

    Args:
        num_classes: K; 0 leaves the head out.
        stage_sizes: residual blocks of each stage.
        stage_widths: channels of each stage's 3x3 convolutions.
        block: 'basic' (two 3x3) or 'bottleneck' (1x1, 3x3, 1x1 of four times the width).
        stem: 'large' (7x7 stride 2, 3x3 max pool stride 2) or 'small' (3x3 stride 1).
        stem_width: channels of the stem.
        shortcut: where the shape changes, 'projection' (1x1 convolution and norm) or
            'padding' (every second pixel, zeros for new channels: the paper's option A).
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
            ("shortcut", ("projection", "padding")),
        ):
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
        """The output of every stage, [B, H / s, W / s, C] at growing strides s."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = partial(Conv, use_bias=False, kernel_init=he_normal, **dtypes)
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
            padding=same(7 if large else 3),
            name="stem_conv",
        )(image)
        x = relu(norm(name="stem_norm")(x))
        if large:
            x = max_pool(x, (3, 3), strides=(2, 2), padding=same(3))
        outputs = []
        for i, size in enumerate(self.stage_sizes):
            for j in range(size):
                x = BLOCKS[self.block](
                    width=self.stage_widths[i],
                    stride=2 if i > 0 and j == 0 else 1,
                    conv=conv,
                    norm=norm,
                    shortcut=self.shortcut,
                    zero_init=self.zero_init,
                    name=f"stage_{i}_block_{j}",
                )(x)
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
        x = self.represent(image, train=train)
        return self.head(x) if self.num_classes else x


class BasicBlock(nn.Module):
    """3x3 (stride), 3x3, plus the shortcut."""

    width: int
    stride: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    shortcut: str
    zero_init: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, H / stride, W / stride, width]."""
        conv3x3 = partial(self.conv, kernel_size=(3, 3), padding=same(3))
        y = conv3x3(self.width, strides=self.stride, name="conv_0")(x)
        y = relu(self.norm(name="norm_0")(y))
        y = conv3x3(self.width, name="conv_1")(y)
        y = self.norm(scale_init=last_scale(self.zero_init), name="norm_1")(y)
        return relu(y + shortcut(self, x, self.width))


class BottleneckBlock(nn.Module):
    """1x1 to the width, 3x3 (stride), 1x1 to four times the width, plus the shortcut."""

    width: int
    stride: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    shortcut: str
    zero_init: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, H / stride, W / stride, 4 * width]."""
        conv1x1 = partial(self.conv, kernel_size=(1, 1))
        conv3x3 = partial(self.conv, kernel_size=(3, 3), padding=same(3))
        y = conv1x1(self.width, name="conv_0")(x)
        y = relu(self.norm(name="norm_0")(y))
        y = conv3x3(self.width, strides=self.stride, name="conv_1")(y)
        y = relu(self.norm(name="norm_1")(y))
        y = conv1x1(4 * self.width, name="conv_2")(y)
        y = self.norm(scale_init=last_scale(self.zero_init), name="norm_2")(y)
        return relu(y + shortcut(self, x, 4 * self.width))


BLOCKS = {"basic": BasicBlock, "bottleneck": BottleneckBlock}


def shortcut(
    block: BasicBlock | BottleneckBlock, x: jax.Array, features: int
) -> jax.Array:
    """`x` in the shape of the block's output, by parameters of the block if it needs any.

    Args:
        x: [B, H, W, C], the block's input.
        features: channels of the block's output.
    """
    if block.stride == 1 and x.shape[-1] == features:
        return x
    if block.shortcut == "padding":
        x = x[:, :: block.stride, :: block.stride]
        return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, features - x.shape[-1])))
    x = block.conv(
        features, kernel_size=(1, 1), strides=block.stride, name="shortcut_conv"
    )(x)
    return block.norm(name="shortcut_norm")(x)


def same(kernel: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Half the kernel on every side, whatever the stride (unlike TensorFlow's 'SAME')."""
    return ((kernel // 2, kernel // 2),) * 2


def last_scale(zero: bool) -> nn.initializers.Initializer:
    """Initialiser of a block's last scale."""
    return nn.initializers.zeros if zero else nn.initializers.ones


ResNet18 = partial(ResNet, stage_sizes=(2, 2, 2, 2), block="basic")
ResNet34 = partial(ResNet, stage_sizes=(3, 4, 6, 3), block="basic")
ResNet50 = partial(ResNet, stage_sizes=(3, 4, 6, 3))
ResNet101 = partial(ResNet, stage_sizes=(3, 4, 23, 3))
ResNet152 = partial(ResNet, stage_sizes=(3, 8, 36, 3))

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
