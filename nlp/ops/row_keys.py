"""One PRNG key per row of a batch, so that what is drawn for a row is the row's own affair.

A key made from a row's content draws the same in every evaluation, whatever the batch
size, the row's place, its padding, or the number of devices. (Rows of equal content draw
alike.)
"""

import jax
import jax.numpy as jnp


def content_keys(tokens: jax.Array, pad_id: int) -> jax.Array:
    """Keys that depend on a row's tokens and on nothing else.

    Args:
        tokens: int32 [B, T].
        pad_id: marks padding behind a row, which does not matter.

    Returns:
        PRNG keys [B].
    """
    position = jnp.arange(1, tokens.shape[1] + 1, dtype=jnp.uint32)
    hashed = _scramble(tokens.astype(jnp.uint32) + _scramble(position))
    digest = jnp.where(tokens == pad_id, 0, hashed).sum(1, dtype=jnp.uint32)
    base = jax.random.key(0, impl="threefry2x32")  # whatever the default becomes
    return jax.vmap(jax.random.fold_in, (None, 0))(base, digest)


def uniform_table(key: jax.Array, places: int, numbers: int) -> jax.Array:
    """Random numbers for the places of a row; those of a place do not depend on how many
    places there are.

    Returns:
        float32 [places, numbers], uniform in [0, 1).
    """
    # Drawn flat: XLA takes five times as long to compile a draw of two dimensions.
    return jax.random.uniform(key, (places * numbers,)).reshape(places, numbers)


def _scramble(x: jax.Array) -> jax.Array:
    """A bijection of uint32 that spreads every bit over all: multiply, shift, xor."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x9E3779B1)
    x = (x ^ (x >> 15)) * jnp.uint32(0x85EBCA77)
    return x ^ (x >> 16)
