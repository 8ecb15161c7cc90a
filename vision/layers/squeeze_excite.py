"""Squeeze-and-excitation: every channel is weighed by what all channels see on average.

J. Hu, L. Shen, S. Albanie, G. Sun, E. Wu, "Squeeze-and-Excitation Networks", 2017,
https://arxiv.org/abs/1709.01507. The weights are independent gates, without a softmax.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers.activations import Activation, activation_function
from layers.convolution import Conv


class SqueezeExcite(nn.Module):
    """Mean over the image, two 1x1 layers with biases, and a gate on every channel.

    Parameters are those of 1x1 convolutions, as in the published files: `reduce` (kernel
    [1, 1, C, reduced_dim]) and `expand` (kernel [1, 1, reduced_dim, C]).

    Args:
        reduced_dim: width between the two layers.
        activation: between the two layers; a function or a name of `layers.activations`.
        gate: after them, to [0, 1]: 'sigmoid' or MobileNet v3's 'hard_sigmoid'.
        reduce_name, expand_name: of the two layers.
        dtype: of the computation; None takes the input's.
        param_dtype: of the parameters.
    """

    reduced_dim: int
    activation: Activation | str = "relu"
    gate: Activation | str = "sigmoid"
    reduce_name: str = "reduce"
    expand_name: str = "expand"
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [B, H, W, C] -> [B, H, W, C]."""
        options = {
            "kernel_size": (1, 1),
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
        }
        y = x.mean((1, 2), keepdims=True)
        y = Conv(self.reduced_dim, name=self.reduce_name, **options)(y)
        y = activation_function(self.activation)(y)
        y = Conv(x.shape[-1], name=self.expand_name, **options)(y)
        return x * activation_function(self.gate)(y)
