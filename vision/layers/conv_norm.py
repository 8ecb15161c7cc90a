"""Convolution, batch normalisation, activation: the unit that most networks repeat."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers.activations import Activation, activation_function
from layers.convolution import Conv
from layers.normalization import BatchNorm


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
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        square = isinstance(self.kernel_size, int)
        x = Conv(
            self.features,
            kernel_size=(self.kernel_size,) * 2 if square else self.kernel_size,
            strides=self.strides,
            padding=self.padding,
            use_bias=False,
            kernel_init=self.kernel_init,
            name="conv",
            **dtypes,
        )(x)
        x = BatchNorm(
            use_running_average=not train,
            momentum=self.norm_momentum,
            epsilon=self.norm_epsilon,
            name="norm",
            **dtypes,
        )(x)
        return activation_function(self.activation)(x)
