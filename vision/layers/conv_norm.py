"""Convolution, batch normalisation, activation: the unit that most networks repeat.

`ConvNorm` is the unit as a module; `conv_norm` its linear part as submodules of the caller.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers.activations import Activation, activation_function
from layers.convolution import Conv, he_normal_fan_out
from layers.normalization import BatchNorm
from vision.layers.padding import padding_named

# A channel of a depthwise convolution feeds one channel, whatever their number.
depthwise_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class ConvNorm(nn.Module):
    """A convolution without bias, BatchNorm, an activation. Submodules `conv`, `norm`.

    Args:
        features: channels of the output.
        kernel_size: one number for a square.
        strides: one number for both dimensions.
        padding: as in `layers.convolution.Conv`.
        activation: a function, or the name of one in `layers.activations`.
        norm_momentum, norm_epsilon: of BatchNorm; momentum weighs the old statistics.
        kernel_init: of the convolution.
        dtype: of the computation; None takes the input's.
        param_dtype: of the parameters.
    """

    features: int
    kernel_size: int | tuple[int, int] = 1
    strides: int = 1
    padding: Any = "SAME"
    activation: Activation | str = "relu"
    norm_momentum: float = 0.9
    norm_epsilon: float = 1e-3
    kernel_init: nn.initializers.Initializer = nn.initializers.he_normal()
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """[B, H, W, C] -> [B, H', W', features]."""
        x = conv_norm(
            self,
            "",
            x,
            self.features,
            kernel_size=self.kernel_size,
            stride=self.strides,
            padding=self.padding,
            kernel_init=self.kernel_init,
            train=train,
        )
        return activation_function(self.activation)(x)


def conv_norm(
    module: nn.Module,
    name: str,
    x: jax.Array,
    features: int,
    *,
    kernel_size: int | tuple[int, int] = 1,
    stride: int = 1,
    padding: Any = None,
    depthwise: bool = False,
    kernel_init: nn.initializers.Initializer | None = None,
    train: bool,
) -> jax.Array:
    """A convolution without bias and its BatchNorm, as `<name>_conv` and `<name>_norm`.

    Args:
        module: gives norm_momentum, norm_epsilon and dtypes; the two become its submodules.
        name: of the two; '' calls them `conv` and `norm`.
        x: [B, H, W, C].
        features: channels of the result.
        kernel_size, stride: of the convolution, in pixels.
        padding: as in `layers.convolution.Conv`; None for what the module's `padding` names,
            'symmetric' or 'SAME'.
        depthwise: each channel by itself.
        kernel_init: None for He's, by the fan that the kind of convolution keeps constant.
        train: whether the batch's statistics normalise, and are stored.

    Returns:
        [B, H', W', features]; under either named padding H' is H / stride, rounded up.
    """
    dtypes = {"dtype": module.dtype, "param_dtype": module.param_dtype}
    prefix = f"{name}_" if name else ""
    square = isinstance(kernel_size, int)
    x = Conv(
        features,
        kernel_size=(kernel_size, kernel_size) if square else kernel_size,
        strides=stride,
        padding=padding_named(module.padding, kernel_size)
        if padding is None
        else padding,
        feature_group_count=features if depthwise else 1,
        use_bias=False,
        kernel_init=kernel_init
        or (depthwise_normal if depthwise else he_normal_fan_out),
        name=f"{prefix}conv",
        **dtypes,
    )(x)
    return BatchNorm(
        use_running_average=not train,
        momentum=module.norm_momentum,
        epsilon=module.norm_epsilon,
        name=f"{prefix}norm",
        **dtypes,
    )(x)
