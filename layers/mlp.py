"""The two dense layers of a Transformer block."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers.activations import Activation, activation_function
from layers.dense import Dense


class Mlp(nn.Module):
    """Dense, activation, dropout, dense, at each position by itself.

    Parameters: `up` (kernel [D, F]), `down` (kernel [F, out_dim]), with biases.

    Args:
        mlp_dim: F.
        out_dim: of the result; None for D.
        activation: a function, or the name of one in `layers.activations`.
        dropout_rate: after the activation.
        dtype: of the computation; None for that of input and parameters together.
    """

    mlp_dim: int
    out_dim: int | None = None
    activation: Activation | str = "gelu"
    dropout_rate: float = 0.0
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = nn.initializers.xavier_uniform()
    bias_init: nn.initializers.Initializer = nn.initializers.zeros
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """x: [..., D] -> [..., out_dim]."""
        options = {
            "use_bias": self.use_bias,
            "kernel_init": self.kernel_init,
            "bias_init": self.bias_init,
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
        }
        out_dim = x.shape[-1] if self.out_dim is None else self.out_dim
        x = Dense(self.mlp_dim, name="up", **options)(x)
        x = activation_function(self.activation)(x)
        x = nn.Dropout(self.dropout_rate, name="dropout")(x, deterministic=not train)
        return Dense(out_dim, name="down", **options)(x)
