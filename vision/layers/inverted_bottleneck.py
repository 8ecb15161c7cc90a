"""Residual blocks that are thin outside and wide inside, and their rounding of widths.

Papers: M. Sandler, A. Howard, M. Zhu, A. Zhmoginov, L.-C. Chen, "MobileNetV2: Inverted
Residuals and Linear Bottlenecks", 2018, https://arxiv.org/abs/1801.04381; with
squeeze-and-excitation ("MBConv"): M. Tan, Q. Le, "EfficientNet: Rethinking Model Scaling for
Convolutional Neural Networks", 2019, https://arxiv.org/abs/1905.11946; fused: M. Tan, Q. Le,
"EfficientNetV2: Smaller Models and Faster Training", 2021, https://arxiv.org/abs/2104.00298.

Every hidden channel of a block without squeeze-and-excitation is made from the input and
added to the output by itself. The hidden map, the largest of the network, therefore need
never be whole in memory; that of an ordinary bottleneck, whose wide maps are its input and
its output, must.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers.activations import Activation, activation_function
from layers.drop_path import DropPath
from vision.layers.conv_norm import conv_norm
from vision.layers.squeeze_excite import SqueezeExcite


def divisible(channels: float, divisor: int = 8) -> int:
    """The multiple of `divisor` nearest to `channels`, but at least 90 % of it, and not 0."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


class InvertedBottleneck(nn.Module):
    """1x1 to the hidden width, depthwise, squeeze-and-excitation, 1x1 without activation.

    The shortcut is there where input and output have the same shape. Submodules:
    `expand_conv`, `expand_norm` (absent if the hidden width is the input's),
    `depthwise_conv`, `depthwise_norm`, `squeeze_excite` (if asked for), `project_conv`,
    `project_norm`.

    Args:
        features: channels of the output.
        expanded: channels of the hidden map.
        kernel_size: of the depthwise convolution.
        stride: of the depthwise convolution.
        reduced_dim: of the squeeze-and-excitation; 0 for none.
        activation: a function or a name of `layers.activations`.
        reduced_activation: inside the squeeze-and-excitation; None for `activation`.
        gate: of the squeeze-and-excitation.
        padding: 'symmetric' (torch) or 'SAME' (TensorFlow).
        drop_path_rate: of leaving the branch out, where there is a shortcut.
        norm_momentum, norm_epsilon: of BatchNorm.
        dtype: of the computation; None takes the input's.
        param_dtype: of the parameters.
    """

    features: int
    expanded: int
    kernel_size: int = 3
    stride: int = 1
    reduced_dim: int = 0
    activation: Activation | str = "relu6"
    reduced_activation: Activation | str | None = None
    gate: Activation | str = "sigmoid"
    padding: str = "symmetric"
    drop_path_rate: float = 0.0
    norm_momentum: float = 0.9
    norm_epsilon: float = 1e-5
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """[B, H, W, C] -> [B, H / stride, W / stride, features]."""
        act = activation_function(self.activation)
        y = x
        if self.expanded != x.shape[-1]:
            y = act(conv_norm(self, "expand", y, self.expanded, train=train))
        y = conv_norm(
            self,
            "depthwise",
            y,
            self.expanded,
            kernel_size=self.kernel_size,
            stride=self.stride,
            depthwise=True,
            train=train,
        )
        y = act(y)
        if self.reduced_dim:
            y = SqueezeExcite(
                self.reduced_dim,
                activation=self.reduced_activation or self.activation,
                gate=self.gate,
                name="squeeze_excite",
                dtype=self.dtype,
                param_dtype=self.param_dtype,
            )(y)
        y = conv_norm(self, "project", y, self.features, train=train)
        return add_shortcut(self, x, y, train=train)


class FusedInvertedBottleneck(nn.Module):
    """The expanding 1x1 and the depthwise convolution as one ordinary convolution.

    More work than the two apart, but work that accelerators do at full speed. Submodules:
    `fused_conv`, `fused_norm`, `project_conv`, `project_norm`; if the hidden width is the
    input's, only the first two, straight to `features`, with the activation.

    Args:
        As in `InvertedBottleneck`, without squeeze-and-excitation.
    """

    features: int
    expanded: int
    kernel_size: int = 3
    stride: int = 1
    activation: Activation | str = "silu"
    padding: str = "symmetric"
    drop_path_rate: float = 0.0
    norm_momentum: float = 0.9
    norm_epsilon: float = 1e-5
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """[B, H, W, C] -> [B, H / stride, W / stride, features]."""
        wide = self.expanded != x.shape[-1]
        y = conv_norm(
            self,
            "fused",
            x,
            self.expanded if wide else self.features,
            kernel_size=self.kernel_size,
            stride=self.stride,
            train=train,
        )
        y = activation_function(self.activation)(y)
        if wide:
            y = conv_norm(self, "project", y, self.features, train=train)
        return add_shortcut(self, x, y, train=train)


def add_shortcut(
    block: InvertedBottleneck | FusedInvertedBottleneck,
    x: jax.Array,
    y: jax.Array,
    *,
    train: bool,
) -> jax.Array:
    """x + y where both have one shape, y otherwise, with the block's stochastic depth."""
    if block.stride != 1 or x.shape[-1] != y.shape[-1]:
        return y
    drop_path = DropPath(block.drop_path_rate, name="drop_path")
    return x + drop_path(y, train=train)
