"""From a sequence of tokens to one vector."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers.activations import Activation
from layers.attention import MultiHeadAttention
from layers.mlp import Mlp
from layers.normalization import LayerNorm


class AttentionPool(nn.Module):
    """A learned query attends to all tokens; an MLP with a shortcut follows ("MAP").

    Papers: J. Lee, Y. Lee, J. Kim et al., "Set Transformer", 2018,
    https://arxiv.org/abs/1810.00825, in the form of X. Zhai, A. Kolesnikov, N. Houlsby,
    L. Beyer, "Scaling Vision Transformers", 2021, https://arxiv.org/abs/2106.04560.
    """

    num_heads: int
    mlp_dim: int
    activation: Activation | str = "gelu"
    norm_epsilon: float = 1e-6
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: jax.Array, *, train: bool = False) -> jax.Array:
        """[B, T, D] -> [B, D]."""
        B, _, D = tokens.shape
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        probe = self.param(
            "probe", nn.initializers.xavier_uniform(), (1, 1, D), self.param_dtype
        )
        probe = jnp.broadcast_to(probe.astype(tokens.dtype), (B, 1, D))
        x = MultiHeadAttention(self.num_heads, name="attention", **dtypes)(
            probe, tokens, train=train
        )
        y = LayerNorm(epsilon=self.norm_epsilon, name="mlp_norm", **dtypes)(x)
        y = Mlp(self.mlp_dim, activation=self.activation, name="mlp", **dtypes)(
            y, train=train
        )
        return (x + y)[:, 0]
