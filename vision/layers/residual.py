"""Residual blocks as first published: branch, plus shortcut, then the activation.

K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition", 2015,
https://arxiv.org/abs/1512.03385; parallel paths from S. Xie, R. Girshick, P. Dollar, Z. Tu,
K. He, "Aggregated Residual Transformations for Deep Neural Networks", 2016,
https://arxiv.org/abs/1611.05431.
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers.activations import relu
from layers.memory import relu_in_memory
from vision.layers.padding import padding_named

SHORTCUTS = ("projection", "padding", "none")


class ResidualBlock(nn.Module):
    """What the blocks below share: their fields, and the sum.

    Args:
        features: channels of the output.
        width: channels of the 3x3 convolutions.
        stride: of the block.
        conv: makes a convolution without bias: `conv(features, kernel_size=, name=)`.
        norm: makes a normalisation: `norm(name=, scale_init=)`.
        shortcut: where the shape changes, 'projection' (1x1 convolution and norm) or
            'padding' (every second pixel, zeros for new channels); 'none': there is no
            shortcut in any block.
        zero_init: the last scale starts at 0, so that the block starts as its shortcut.
        cardinality: groups of the 3x3 convolution of a bottleneck.
        stride_in_first: a bottleneck strides in its first convolution, not in its 3x3.
        padding: 'symmetric' or 'SAME' (`vision.layers.padding`).
        gate: makes a module [B, H, W, C] -> [B, H, W, C] applied to the branch, such as
            `SqueezeExcite`; None for none.
    """

    features: int
    width: int
    stride: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    shortcut: str = "projection"
    zero_init: bool = True
    cardinality: int = 1
    stride_in_first: bool = False
    padding: str = "symmetric"
    gate: Callable[..., nn.Module] | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, H / stride, W / stride, features]."""
        y = self.branch(x)
        if self.gate is not None:
            y = self.gate(name="squeeze_excite")(y)
        return relu_in_memory(y if self.shortcut == "none" else y + self.skip(x))

    def branch(self, x: jax.Array) -> jax.Array:
        """What the block learns to add: [B, H / stride, W / stride, features]."""
        raise NotImplementedError

    def skip(self, x: jax.Array) -> jax.Array:
        """`x` in the shape of the branch, by parameters if that needs any."""
        before = x.shape[-1]
        if self.stride == 1 and before == self.features:
            return x
        if self.shortcut == "padding":
            x = x[:, :: self.stride, :: self.stride]
            return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, self.features - before)))
        conv = partial(self.conv, kernel_size=(1, 1), strides=self.stride)
        return self.norm(name="shortcut_norm")(
            conv(self.features, name="shortcut_conv")(x)
        )

    def last_norm(self, name: str) -> nn.Module:
        """The branch's last norm, perhaps of scale 0."""
        ones, zeros = nn.initializers.ones, nn.initializers.zeros
        return self.norm(name=name, scale_init=zeros if self.zero_init else ones)


class BasicBlock(ResidualBlock):
    """3x3 (stride), 3x3; `width` and `features` are one."""

    def branch(self, x: jax.Array) -> jax.Array:
        conv = partial(
            self.conv, kernel_size=(3, 3), padding=padding_named(self.padding, 3)
        )
        y = conv(self.width, strides=self.stride, name="conv_0")(x)
        y = relu(self.norm(name="norm_0")(y))
        return self.last_norm("norm_1")(conv(self.features, name="conv_1")(y))


class BottleneckBlock(ResidualBlock):
    """1x1 to the width, 3x3 (stride), 1x1 to the features."""

    def branch(self, x: jax.Array) -> jax.Array:
        first, second = (self.stride, 1) if self.stride_in_first else (1, self.stride)
        conv1x1 = partial(self.conv, kernel_size=(1, 1))
        y = conv1x1(self.width, strides=first, name="conv_0")(x)
        y = relu(self.norm(name="norm_0")(y))
        y = self.conv(
            self.width,
            kernel_size=(3, 3),
            strides=second,
            padding=padding_named(self.padding, 3),
            feature_group_count=self.cardinality,
            name="conv_1",
        )(y)
        y = relu(self.norm(name="norm_1")(y))
        return self.last_norm("norm_2")(conv1x1(self.features, name="conv_2")(y))


BLOCKS = {"basic": BasicBlock, "bottleneck": BottleneckBlock}
