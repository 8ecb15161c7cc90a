"""Residual blocks that normalise and activate before each convolution.

K. He, X. Zhang, S. Ren, J. Sun, "Identity Mappings in Deep Residual Networks", 2016,
https://arxiv.org/abs/1603.05027; dropout inside of a block from S. Zagoruyko, N. Komodakis,
"Wide Residual Networks", 2016, https://arxiv.org/abs/1605.07146.
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax

from layers.activations import relu
from vision.layers.padding import symmetric


class PreactivationBlock(nn.Module):
    """x + branch(relu(norm(x))): nothing stands on the way of x.

    Where the shape changes, the shortcut is a 1x1 convolution of what the branch sees too,
    relu(norm(x)), without a norm of its own.

    Args:
        features: channels of the output.
        width: channels of the 3x3 convolutions.
        stride: of the block, in its (first) 3x3 convolution.
        conv: makes a convolution without bias: `conv(features, kernel_size=, name=)`.
        norm: makes a normalisation: `norm(name=)`.
        dropout_rate: before the last convolution.
    """

    features: int
    width: int
    stride: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    dropout_rate: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """[B, H, W, C] -> [B, H / stride, W / stride, features]."""
        y = relu(self.norm(name="norm_0")(x))
        if self.stride > 1 or x.shape[-1] != self.features:
            x = self.conv(
                self.features,
                kernel_size=(1, 1),
                strides=self.stride,
                name="shortcut_conv",
            )(y)
        return x + self.branch(y, train=train)

    def branch(self, y: jax.Array, *, train: bool) -> jax.Array:
        """The convolutions; `y` is normalised and activated for the first."""
        raise NotImplementedError

    def drop(self, y: jax.Array, *, train: bool) -> jax.Array:
        return nn.Dropout(self.dropout_rate, name="dropout")(y, deterministic=not train)


class PreactivationBasicBlock(PreactivationBlock):
    """3x3 (stride), 3x3; `width` and `features` are one."""

    def branch(self, y: jax.Array, *, train: bool) -> jax.Array:
        conv = partial(self.conv, kernel_size=(3, 3), padding=symmetric(3))
        y = conv(self.width, strides=self.stride, name="conv_0")(y)
        y = self.drop(relu(self.norm(name="norm_1")(y)), train=train)
        return conv(self.features, name="conv_1")(y)


class PreactivationBottleneckBlock(PreactivationBlock):
    """1x1 to the width, 3x3 (stride), 1x1 to the features."""

    def branch(self, y: jax.Array, *, train: bool) -> jax.Array:
        y = self.conv(self.width, kernel_size=(1, 1), name="conv_0")(y)
        y = self.conv(
            self.width,
            kernel_size=(3, 3),
            strides=self.stride,
            padding=symmetric(3),
            name="conv_1",
        )(relu(self.norm(name="norm_1")(y)))
        y = self.drop(relu(self.norm(name="norm_2")(y)), train=train)
        return self.conv(self.features, kernel_size=(1, 1), name="conv_2")(y)


BLOCKS = {
    "basic": PreactivationBasicBlock,
    "bottleneck": PreactivationBottleneckBlock,
}
