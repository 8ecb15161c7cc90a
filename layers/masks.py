"""Attention masks: bool [B or 1, N or 1, T or 1, S], True where a query may attend."""

import jax
import jax.numpy as jnp


def causal_mask(length: int) -> jax.Array:
    """Each position sees itself and those before it: bool [1, 1, T, T]."""
    position = jnp.arange(length)
    return (position[:, None] >= position)[None, None]


def padding_mask(valid: jax.Array) -> jax.Array:
    """No query sees padding.

    Args:
        valid: bool [B, S]; False for padding (`tokens != 0`, say).

    Returns:
        bool [B, 1, 1, S].
    """
    return valid.astype(bool)[:, None, None, :]


def segment_mask(
    query_segments: jax.Array, key_segments: jax.Array | None = None
) -> jax.Array:
    """Queries see keys of their own segment only, for sequences packed into one row.

    Args:
        query_segments: int [B, T].
        key_segments: int [B, S]; None for the queries' own.

    Returns:
        bool [B, 1, T, S].
    """
    if key_segments is None:
        key_segments = query_segments
    return (query_segments[:, :, None] == key_segments[:, None, :])[:, None]


def combine_masks(*masks: jax.Array | None) -> jax.Array | None:
    """True where every mask is; None stands for a mask that allows everything."""
    combined = None
    for mask in masks:
        if mask is not None:
            combined = mask if combined is None else combined & mask
    return combined
