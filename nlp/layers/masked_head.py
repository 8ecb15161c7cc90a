"""What BERT and its kin put on top of an encoder: which token belongs here?"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers.activations import Activation, activation_function
from layers.dense import Dense
from layers.normalization import LayerNorm


class MaskedHead(nn.Module):
    """Dense, activation, norm, then products with the tokens' own vectors, plus a bias.

    Parameters: `dense` (kernel [D, E]), `norm`, `bias` [V].

    Args:
        vocab_size: V.
        embed_dim: E, of the tokens' vectors.
        activation: a function, or a name of `layers.activations`.
        dtype: of the computation; None for that of input and parameters together.
    """

    vocab_size: int
    embed_dim: int
    activation: Activation | str = "gelu"
    norm_epsilon: float = 1e-12
    init: nn.initializers.Initializer = nn.initializers.truncated_normal(0.02)
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        attend: Callable[[jax.Array], jax.Array],
        positions: jax.Array | None = None,
    ) -> jax.Array:
        """Logits of every token.

        Args:
            x: [B, T, D].
            attend: [..., E] -> float32 [..., V], the products.
            positions: int32 [B, P], the places to predict at; None for all.

        Returns:
            float32 [B, P or T, V].
        """
        if positions is not None:
            x = jnp.take_along_axis(x, positions[..., None], axis=1)
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = Dense(self.embed_dim, kernel_init=self.init, name="dense", **dtypes)(x)
        x = activation_function(self.activation)(x)
        x = LayerNorm(epsilon=self.norm_epsilon, name="norm", **dtypes)(x)
        bias = self.param(
            "bias", nn.initializers.zeros, (self.vocab_size,), self.param_dtype
        )
        return attend(x) + bias.astype(jnp.float32)
