"""Causal attention on a CPU: one head at a time, some queries at a time.

After T. Dao et al., "FlashAttention: Fast and Memory-Efficient Exact Attention with
IO-Awareness", 2022, https://arxiv.org/abs/2205.14135: the scores of a block are used while
they lie in the processor's cache, never kept, and computed again for the gradients. A block
of queries multiplies the keys up to its last one only, which leaves out up to half of the
work.
The blocks are unrolled, so that each has the shapes it needs.

Dimensions: B batch, T queries and keys, N heads, K key/value heads (divides N), H head dim.
"""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax import lax

# Fewer queries do not keep a core busy; more blocks take long to compile.
_SMALLEST, _MOST = 64, 8


def block_length(length: int) -> int:
    """Queries per block: a multiple of 64, for at most 8 blocks."""
    return _SMALLEST * -(-length // (_SMALLEST * _MOST))


def blocks_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None
) -> jax.Array:
    """Each query sees keys up to its own place, and those that the mask allows.

    Has a gradient, but no derivative in forward mode.

    Args:
        query: [B, T, N, H], scaled.
        key, value: [B, T, K, H].
        mask: bool [B or 1, 1, T or 1, T], or None.

    Returns:
        [B, T, N, H]; zeros for queries that may attend nowhere.

    Raises:
        ValueError: as many queries as keys are needed, and a mask that is one for all
            heads.
    """
    (T, N), (S, K) = query.shape[1:3], key.shape[1:3]
    if N % K:
        raise ValueError(f"{N} query heads are not a multiple of {K} key heads")
    if T != S or (mask is not None and mask.shape[1] != 1):
        shape = None if mask is None else mask.shape
        raise ValueError(
            f"attention in blocks is of {T} queries to {S} keys, mask {shape}; it needs as "
            "many keys as queries and one mask for all heads: choose 'einsum'"
        )
    key, value = (jnp.repeat(x, N // K, axis=2) for x in (key, value))
    return _attention(query, key, value, mask)


@jax.custom_vjp
def _attention(query, key, value, mask):
    return dot_product_attention_blocks(query, key, value, mask)[0]


def _forward(query, key, value, mask):
    output, logsumexp = dot_product_attention_blocks(query, key, value, mask)
    return output, (query, key, value, mask, output, logsumexp)


def _backward(residuals, gradient):
    return (*dot_product_attention_blocks_bwd(*residuals, gradient), None)


_attention.defvjp(_forward, _backward)


# `training.flops` counts these two by their names and shapes, as it does cuDNN's.
@jax.jit
def dot_product_attention_blocks(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """[B, T, N, H], and the scores' log-sum-exp, float32 [N, B, T, 1]."""
    heads = tuple(map(_by_head, (query, key, value)))
    output, logsumexp = lax.map(functools.partial(_head, mask=mask), heads)
    return _by_token(output), logsumexp


@jax.jit
def dot_product_attention_blocks_bwd(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array | None,
    output: jax.Array,
    logsumexp: jax.Array,
    gradient: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The gradients of query, key and value, [B, T, N, H]."""
    heads = tuple(map(_by_head, (query, key, value, output, gradient)))
    gradients = lax.map(
        functools.partial(_head_gradients, mask=mask), (*heads, logsumexp)
    )
    return tuple(map(_by_token, gradients))


def _by_head(x: jax.Array) -> jax.Array:
    """[B, T, N, H] -> [N, B, T, H]."""
    return x.transpose(2, 0, 1, 3)


def _by_token(x: jax.Array) -> jax.Array:
    """Undoes `_by_head`."""
    return x.transpose(1, 2, 0, 3)


def _blocks(length: int) -> Iterator[tuple[int, int]]:
    """(first, end) of each block of queries; it sees the keys before `end`."""
    step = block_length(length)
    for first in range(0, length, step):
        yield first, min(first + step, length)


def _scores(
    query: jax.Array, key: jax.Array, mask: jax.Array | None, first: int, end: int
) -> tuple[jax.Array, jax.Array | None]:
    """A block's logits, [B, end - first, end], and who sees any of them, if a mask asks."""
    logits = _product("BTH,BSH->BTS", query[:, first:end], key[:, :end])
    seen = jnp.arange(first, end)[:, None] >= jnp.arange(end)
    somewhere = None
    if mask is not None:
        rows = slice(None) if mask.shape[2] == 1 else slice(first, end)
        seen = seen & mask[:, 0, rows, :end]
        somewhere = seen.any(-1, keepdims=True)
    return jnp.where(seen, logits, jnp.finfo(logits.dtype).min), somewhere


def _head(
    heads: tuple[jax.Array, jax.Array, jax.Array], mask: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """One head: [B, T, H], and its scores' log-sum-exp, [B, T, 1]."""
    query, key, value = heads
    outputs, logsumexps = [], []
    for first, end in _blocks(query.shape[1]):
        logits, somewhere = _scores(query, key, mask, first, end)
        largest = logits.max(-1, keepdims=True)
        exponentials = jnp.exp(logits - largest)
        sums = exponentials.sum(-1, keepdims=True)
        rows = exponentials.astype(value.dtype)
        output = _product("BTS,BSH->BTH", rows, value[:, :end]) / sums
        logsumexp = largest + jnp.log(sums)
        if somewhere is not None:
            # Infinite, so that the backward pass finds weights of zero.
            output = jnp.where(somewhere, output, 0)
            logsumexp = jnp.where(somewhere, logsumexp, jnp.inf)
        outputs.append(output.astype(value.dtype))
        logsumexps.append(logsumexp)
    return jnp.concatenate(outputs, 1), jnp.concatenate(logsumexps, 1)


def _head_gradients(
    head: tuple[jax.Array, ...], mask: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Of query, key and value of one head, [B, T, H]; the weights are computed again."""
    query, key, value, output, gradient, logsumexp = head
    # What the softmax's gradient subtracts: sum over keys of weight times its gradient.
    shared = (gradient.astype(logsumexp.dtype) * output).sum(-1, keepdims=True)
    queries, keys, values = [], [], []
    for first, end in _blocks(query.shape[1]):
        block = slice(first, end)
        logits, _ = _scores(query, key, mask, first, end)
        weights = jnp.exp(logits - logsumexp[:, block])
        of_weights = _product("BTH,BSH->BTS", gradient[:, block], value[:, :end])
        of_logits = (weights * (of_weights - shared[:, block])).astype(key.dtype)
        queries.append(_product("BTS,BSH->BTH", of_logits, key[:, :end]))
        keys.append(_product("BTS,BTH->BSH", of_logits, query[:, block]))
        weights = weights.astype(value.dtype)
        values.append(_product("BTS,BTH->BSH", weights, gradient[:, block]))
    return (
        jnp.concatenate(queries, 1).astype(query.dtype),
        _total(keys).astype(key.dtype),
        _total(values).astype(value.dtype),
    )


def _total(parts: list[jax.Array]) -> jax.Array:
    """The sum of [B, S, H] of different S, each of keys from the first on."""
    length = parts[-1].shape[1]
    widths = [((0, 0), (0, length - part.shape[1]), (0, 0)) for part in parts]
    return sum(map(jnp.pad, parts, widths))


def _product(axes: str, *operands: jax.Array) -> jax.Array:
    """An einsum that is summed in float32 (or wider)."""
    wide = jnp.promote_types(operands[0].dtype, jnp.float32)
    return jnp.einsum(axes, *operands, preferred_element_type=wide)
