"""How `layers.attention.dot_product_attention` is computed: written out, or by JAX.

Dimensions as there: B batch, T queries, S keys, N heads, K key/value heads, H head dim.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from layers.masks import causal_mask, combine_masks


def causal_part(causal: bool, query: jax.Array, key: jax.Array) -> jax.Array | None:
    """bool [1, 1, T, S], or None where everything is allowed."""
    T, S = query.shape[1], key.shape[1]
    return causal_mask(max(T, S))[:, :, :T, :S] if causal else None


def jax_attention(
    heads: tuple[jax.Array, jax.Array, jax.Array],
    mask: jax.Array | None,
    bias: jax.Array | None,
    num_keys: int | None,
    causal: bool,
    scale: float,
    implementation: str,
) -> jax.Array:
    """That of `jax.nn`, with zeros for queries that may attend nowhere.

    Args:
        heads: query [B, T, N, H], key and value [B, S, K, H].
        implementation: 'xla' or 'cudnn'.
        The others: as in `layers.attention.dot_product_attention`.

    Returns:
        [B, T, N, H].
    """
    attend = functools.partial(
        jax.nn.dot_product_attention,
        scale=scale,
        is_causal=causal,
        implementation=implementation,
    )
    if implementation == "cudnn":
        attend = functools.partial(on_even_lengths, attend, num_keys=num_keys)
    output = attend(*heads, bias=bias, mask=mask)
    if mask is None:
        return output
    allowed = combine_masks(mask, causal_part(causal, *heads[:2])).any(-1)  # [B, N, T]
    return jnp.where(allowed.swapaxes(1, 2)[..., None], output, 0)


def einsum_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array | None,
    bias: jax.Array | None,
    dropout_rate: float,
    dropout_rng: jax.Array | None,
) -> tuple[jax.Array, Callable[[], jax.Array]]:
    """The reference.

    Why transposed first: XLA on CPU computes products batched over the leading dimensions
    faster than over [B, :, N]. Why divided last: the softmax's sums then divide [T, H] and
    not [T, S]. Accelerators compute the same either way.

    Args:
        query: [B, T, N, H], scaled.
        The others: as in `layers.attention.dot_product_attention`.

    Returns:
        [B, T, N, H], and a function that gives the weights [B, N, T, S].

    Raises:
        ValueError: the number of query heads is no multiple of that of key heads.
    """
    B, T, N, H = query.shape
    S, K = key.shape[1:3]
    if N % K:
        raise ValueError(f"{N} query heads are not a multiple of {K} key heads")
    wide = jnp.promote_types(query.dtype, jnp.float32)
    # Query heads that share a key head become rows of one product: [B, K, N / K * T, H].
    query = query.transpose(0, 2, 1, 3).reshape(B, K, -1, H)
    key, value = key.transpose(0, 2, 1, 3), value.transpose(0, 2, 1, 3)
    logits = jnp.einsum("BKTH,BKSH->BKTS", query, key, preferred_element_type=wide)
    logits = logits.reshape(B, N, T, S)
    if bias is not None:
        logits += bias
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(wide).min)
    largest = lax.stop_gradient(logits.max(-1, keepdims=True))
    exponentials = jnp.exp(logits - largest)
    sums = exponentials.sum(-1, keepdims=True)
    if dropout_rate:
        kept = jax.random.bernoulli(dropout_rng, 1.0 - dropout_rate, (B, N, T, S))
        exponentials = jnp.where(kept, exponentials / (1.0 - dropout_rate), 0)

    def divide(x: jax.Array) -> jax.Array:
        """By the softmax's sums; zeros for queries that may attend nowhere."""
        x = x / sums
        return x if mask is None else jnp.where(mask.any(-1, keepdims=True), x, 0)

    rows = exponentials.astype(value.dtype).reshape(B, K, -1, S)
    output = jnp.einsum("BKTS,BKSH->BKTH", rows, value, preferred_element_type=wide)
    output = divide(output.reshape(B, N, T, H)).astype(value.dtype)
    output = output.transpose(0, 2, 1, 3)
    return output, lambda: divide(exponentials).astype(value.dtype)


def on_even_lengths(
    attend: Callable[..., jax.Array],
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    bias: jax.Array | None,
    mask: jax.Array | None,
    num_keys: int | None,
) -> jax.Array:
    """`attend` on one more query or key where there are an odd number of them.

    The key is hidden from all, the query's result thrown away. `MultiHeadAttention` pads
    its input instead, which costs no pass of its own.

    Args:
        attend: such as `jax.nn.dot_product_attention`.
        query: [B, T, N, H].
        key, value: [B, S, K, H].
        bias, mask: [B or 1, N or 1, T or 1, S], or None.
        num_keys: the keys from here on are padding; None for S. Not beside a mask.

    Returns:
        [B, T, N, H].
    """
    T, S = query.shape[1], key.shape[1]
    query, key, value = (to_even(x, 1) for x in (query, key, value))
    mask, bias = even_pairs(mask, bias)
    if S % 2 and mask is None and num_keys is None:
        num_keys = S
    options = {}
    if num_keys is not None:
        lengths = jnp.full((len(query),), num_keys, jnp.int32)
        options["key_value_seq_lengths"] = lengths
    return attend(query, key, value, bias=bias, mask=mask, **options)[:, :T]


def to_even(x: jax.Array, axis: int, **options: Any) -> jax.Array:
    """x with one more place along an axis of odd length, but one that is broadcast."""
    if x.shape[axis] % 2 == 0 or x.shape[axis] == 1:
        return x
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, 1)
    return jnp.pad(x, widths, **options)


def even_pairs(
    mask: jax.Array | None, bias: jax.Array | None
) -> tuple[jax.Array | None, jax.Array | None]:
    """Mask and bias for even numbers of queries and keys: the new key is hidden, the new
    query sees what the last one does, for there must be something."""
    if mask is not None:
        mask = to_even(to_even(mask, 2, mode="edge"), 3)
    if bias is not None:
        bias = to_even(to_even(bias, 2), 3)
    return mask, bias
