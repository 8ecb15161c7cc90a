"""Ranks, and values moved together, of one row."""

import jax
import jax.numpy as jnp


def ranks(score: jax.Array) -> jax.Array:
    """How many scores come before each: float [N] -> int32 [N]; of equals, the earlier."""
    order = jnp.argsort(score, stable=True)
    place = jnp.arange(len(score), dtype=jnp.int32)
    return jnp.zeros_like(place).at[order].set(place, unique_indices=True)


def compact(values: jax.Array, keep: jax.Array, length: int, fill: int) -> jax.Array:
    """The kept values, moved together to the front.

    Args:
        values: int32 [N].
        keep: bool [N].
        length: of the result; kept values beyond it are dropped.
        fill: what stands behind them.

    Returns:
        int32 [length].
    """
    place = jnp.where(keep, jnp.cumsum(keep) - 1, length)
    empty = jnp.full(length, fill, values.dtype)
    return empty.at[place].set(values, mode="drop")
