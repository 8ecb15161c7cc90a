"""Vectors of tokens to one vector per sentence."""

import jax
import jax.numpy as jnp


def mean_token(x: jax.Array, valid: jax.Array) -> jax.Array:
    """The mean over real tokens, zeros where there are none.

    Args:
        x: [B, T, D].
        valid: bool [B, T]; False for padding.

    Returns:
        float32 [B, D].
    """
    weight = valid.astype(jnp.float32)
    total = jnp.einsum("BTD,BT->BD", x.astype(jnp.float32), weight)
    return total / jnp.maximum(weight.sum(1, keepdims=True), 1)


def last_token(x: jax.Array, valid: jax.Array) -> jax.Array:
    """The last real token's vector, zeros where there is none; as `mean_token`."""
    place = jnp.arange(1, x.shape[1] + 1) * valid
    return mean_token(x, valid & (place == place.max(1, keepdims=True)))
