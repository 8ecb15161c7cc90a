"""BigBird's attention between blocks of positions, at a cost that grows with their number.

Paper: M. Zaheer et al., "Big Bird: Transformers for Longer Sequences", 2020,
https://arxiv.org/abs/2007.14062. The first and the last block see, and are seen by, all; every
other block also sees itself, its two neighbours and some random ones. A block that is drawn
twice, or is one of the others, counts as often as it is there: so do the published weights.

Dimensions: B batch, T positions, N heads, H head dim, M blocks, R random blocks of a row.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from layers.attention import dot_product_attention
from layers.masks import padding_mask


def draw_random_blocks(
    num_blocks: int, num_heads: int, num_random: int, *, seed: tuple[int, ...]
) -> np.ndarray:
    """Random blocks of every block but the first and the last, which see all anyway.

    Args:
        num_blocks: M, at least R + 5, so that there are R others.
        num_heads: N.
        num_random: R.
        seed: of the draw.

    Returns:
        int32 [N, M - 2, R], of each row different and none that the row sees already.

    Raises:
        ValueError: too few blocks.
    """
    if num_blocks < num_random + 5:
        raise ValueError(
            f"{num_blocks} blocks are too few for num_random={num_random} different "
            f"ones; take at least {num_random + 5}"
        )
    rng = np.random.default_rng(seed)
    drawn = np.empty((num_heads, num_blocks - 2, num_random), np.int32)
    for row in range(1, num_blocks - 1):
        seen = (0, row - 1, row, row + 1, num_blocks - 1)
        others = np.setdiff1d(np.arange(num_blocks), seen)
        for head in range(num_heads):
            drawn[head, row - 1] = rng.permutation(others)[:num_random]
    return drawn


def seen_blocks(random_blocks: jax.Array, num_blocks: int) -> jax.Array:
    """All that the blocks between the first and the last see.

    Args:
        random_blocks: int32 [N, M - 2, R].
        num_blocks: M.

    Returns:
        int32 [N, M - 2, 5 + R]; -1 where there is none: the second block's window holds
        the first block already.
    """
    row = np.arange(1, num_blocks - 1)
    first = np.where(row == 1, -1, 0)
    last = np.where(row == num_blocks - 2, -1, num_blocks - 1)
    fixed = np.stack([first, row - 1, row, row + 1, last], axis=1)
    fixed = np.broadcast_to(fixed, (len(random_blocks), *fixed.shape))
    return jnp.concatenate([jnp.asarray(fixed, jnp.int32), random_blocks], axis=-1)


def block_sparse_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    valid: jax.Array,
    random_blocks: jax.Array,
    block_size: int,
) -> jax.Array:
    """softmax(query key^T / sqrt(H)) value over the blocks that a query's block sees.

    Time and memory O(T); scores in float32. Padding sees nothing and gets zeros.

    Args:
        query, key, value: [B, T, N, H], T = M * block_size.
        valid: bool [B, T]; False for padding.
        random_blocks: int32 [N, M - 2, R].
        block_size: positions in a block.

    Returns:
        [B, T, N, H].
    """
    B, T, N, H = query.shape
    edge = np.r_[:block_size, T - block_size : T]
    edges = dot_product_attention(query[:, edge], key, value, mask=padding_mask(valid))
    blocks = seen_blocks(random_blocks, T // block_size)
    inner = slice(block_size, T - block_size)
    rows = _blocks(query[:, inner], block_size)  # [B, N, M - 2, block, H]
    keys = _gather(_blocks(key, block_size), blocks)  # [B, N, M - 2, seen, H]
    values = _gather(_blocks(value, block_size), blocks)
    real = valid.reshape(B, -1, block_size)[:, blocks] & (blocks >= 0)[..., None]
    real = real.reshape(*keys.shape[:-2], 1, -1)
    wide = jnp.promote_types(query.dtype, jnp.float32)
    scores = jnp.einsum("BNMTH,BNMSH->BNMTS", rows, keys, preferred_element_type=wide)
    scores = jnp.where(real, scores / math.sqrt(H), jnp.finfo(wide).min)
    weights = jax.nn.softmax(scores).astype(value.dtype)
    middle = jnp.einsum("BNMTS,BNMSH->BMTNH", weights, values)
    middle = middle.reshape(B, -1, N, H)
    first, last = jnp.split(edges, 2, axis=1)
    whole = jnp.concatenate([first, middle, last], axis=1)
    return jnp.where(valid[..., None, None], whole, 0)


def dense_mask_and_bias(
    random_blocks: jax.Array, num_blocks: int, block_size: int
) -> tuple[jax.Array, jax.Array]:
    """The same pattern for attention of all to all, at O(T^2): what the sparse form is
    tested against, and a way to look at it.

    Returns:
        bool [1, N, T, T], True where a query sees a key, and float32 [1, N, T, T], the
        logarithm of how often.
    """
    blocks = seen_blocks(random_blocks, num_blocks)
    counts = jax.nn.one_hot(blocks, num_blocks).sum(2)  # -1 is none of them
    counts = jnp.pad(counts, ((0, 0), (1, 1), (0, 0)), constant_values=1)
    counts = counts.repeat(block_size, 1).repeat(block_size, 2)[None]
    return counts > 0, jnp.log(jnp.maximum(counts, 1))


def _blocks(x: jax.Array, block_size: int) -> jax.Array:
    """[B, T, N, H] -> [B, N, M, block_size, H]."""
    B, T, N, H = x.shape
    return x.swapaxes(1, 2).reshape(B, N, T // block_size, block_size, H)


def _gather(x: jax.Array, blocks: jax.Array) -> jax.Array:
    """[B, N, M, block, H], int32 [N, rows, seen] -> [B, N, rows, seen * block, H]."""
    chosen = jax.vmap(lambda x, blocks: x[:, blocks], (1, 0), 1)(x, blocks)
    return chosen.reshape(*chosen.shape[:3], -1, x.shape[-1])
