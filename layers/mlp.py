"""The dense layers of a Transformer block.

Gated: N. Shazeer, "GLU Variants Improve Transformer", 2020, https://arxiv.org/abs/2002.05202.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers.activations import Activation, activation_function
from layers.dense import Dense


class Mlp(nn.Module):
    """Dense, activation, dropout, dense, at each position by itself.

    Parameters: `up` (kernel [D, F]), `down` (kernel [F, out_dim]), with biases; if gated,
    also `gate` like `up`.

    Args:
        mlp_dim: F.
        out_dim: of the result; None for D.
        activation: a function, or the name of one in `layers.activations`.
        gated: activation(gate(x)) * up(x) takes the place of activation(up(x)).
        dropout_rate: after the activation.
        out_init: of the kernel of `down`; None for `kernel_init`.
        dtype: of the computation; None for that of input and parameters together.
    """

    mlp_dim: int
    out_dim: int | None = None
    activation: Activation | str = "gelu"
    gated: bool = False
    dropout_rate: float = 0.0
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = nn.initializers.xavier_uniform()
    out_init: nn.initializers.Initializer | None = None
    bias_init: nn.initializers.Initializer = nn.initializers.zeros
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """x: [..., D] -> [..., out_dim]."""
        options = {
            "use_bias": self.use_bias,
            "bias_init": self.bias_init,
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
        }
        out_dim = x.shape[-1] if self.out_dim is None else self.out_dim
        activation = activation_function(self.activation)
        inner = {**options, "kernel_init": self.kernel_init}
        up = Dense(self.mlp_dim, name="up", **inner)(x)
        if self.gated:
            x = activation(Dense(self.mlp_dim, name="gate", **inner)(x)) * up
        else:
            x = activation(up)
        x = nn.Dropout(self.dropout_rate, name="dropout")(x, deterministic=not train)
        out_init = self.out_init or self.kernel_init
        return Dense(out_dim, name="down", kernel_init=out_init, **options)(x)
