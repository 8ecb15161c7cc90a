"""Attention masks: bool [B or 1, N or 1, T or 1, S], True where a query may attend.

BigBird: M. Zaheer et al., "Big Bird: Transformers for Longer Sequences", 2020,
https://arxiv.org/abs/2007.14062.
"""

import jax
import jax.numpy as jnp
import numpy as np


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


def segment_positions(segments: jax.Array) -> jax.Array:
    """Positions that start again at 0 in every segment: int32 [B, T] -> int32 [B, T]."""
    place = jnp.arange(segments.shape[1], dtype=jnp.int32)
    starts = jnp.pad(segments[:, 1:] != segments[:, :-1], ((0, 0), (1, 0)))
    return place - jax.lax.cummax(jnp.where(starts, place, 0), axis=1)


def sliding_window_mask(length: int, window: int, *, causal: bool = False) -> jax.Array:
    """Each position sees `window` positions: itself in their middle, or as the last.

    Args:
        length: T.
        window: how many; odd unless `causal`.

    Returns:
        bool [1, 1, T, T].

    Raises:
        ValueError: the window is not positive, or is even and has no middle.
    """
    if window < 1 or not (causal or window % 2):
        raise ValueError(
            f"a window of {window} positions has no middle; take an odd number"
        )
    position = jnp.arange(length)
    distance = position[:, None] - position
    before = window - 1 if causal else window // 2
    after = 0 if causal else window // 2
    return ((distance <= before) & (distance >= -after))[None, None]


def bigbird_mask(
    length: int,
    *,
    num_random: int,
    window: int = 3,
    num_global: int = 2,
    block_size: int = 1,
    seed: int = 0,
) -> jax.Array:
    """Random, window and global attention between blocks, drawn once.

    The first `num_global` blocks see and are seen by all. Every other block sees these, a
    window with itself in the middle, and `num_random` others, as many as there are.

    Args:
        length: T, a multiple of `block_size`.
        num_random: random blocks a row.
        window: blocks in the window, odd.
        num_global: global blocks.
        block_size: positions in a block.
        seed: of the draw.

    Returns:
        bool [1, 1, T, T].

    Raises:
        ValueError: the length is no multiple of the block; the window is even.
    """
    if length % block_size:
        raise ValueError(
            f"a length of {length} is no multiple of block_size={block_size}; pad it"
        )
    blocks = length // block_size
    rng = np.random.default_rng(seed)
    place = np.arange(blocks)
    if window < 1 or window % 2 == 0:
        raise ValueError(f"a window of {window} blocks has no middle; take an odd one")
    seen = abs(place[:, None] - place) <= window // 2
    seen[:, :num_global] = True
    for row in seen[num_global:]:
        others = np.flatnonzero(~row)
        row[rng.permutation(others)[:num_random]] = True
    seen[:num_global] = True
    mask = seen.repeat(block_size, 0).repeat(block_size, 1)
    return jnp.asarray(mask)[None, None]


def combine_masks(*masks: jax.Array | None) -> jax.Array | None:
    """True where every mask is; None stands for a mask that allows everything."""
    combined = None
    for mask in masks:
        if mask is not None:
            combined = mask if combined is None else combined & mask
    return combined
