"""Scaled dot-product attention and its multi-head layer: self, cross, and step by step.

A. Vaswani et al., "Attention Is All You Need", 2017, https://arxiv.org/abs/1706.03762;
fewer key than query heads: J. Ainslie et al., "GQA", 2023, https://arxiv.org/abs/2305.13245.

Dimensions: B batch, T queries, S keys, N heads, K key/value heads (divides N), H head dim,
D embedding.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from layers.attention_blocks import block_length, blocks_attention
from layers.attention_implementations import (
    causal_part,
    einsum_attention,
    even_pairs,
    jax_attention,
    to_even,
)
from layers.dense import DenseGeneral
from layers.masks import combine_masks
from layers.positions import rotary

IMPLEMENTATIONS = ("einsum", "blocks", "xla", "cudnn")
MASK_SHAPE = "[B or 1, N or 1, T or 1, S]"


def dot_product_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    mask: jax.Array | None = None,
    bias: jax.Array | None = None,
    causal: bool = False,
    num_keys: int | None = None,
    scale: float | None = None,
    implementation: str | None = None,
    dropout_rate: float = 0.0,
    dropout_rng: jax.Array | None = None,
    return_weights: bool = False,
) -> Any:
    """softmax(scale * query key^T + bias) value, the softmax in float32.

    A query that may attend nowhere gets zeros, and passes on zero gradients.

    Args:
        query: [B, T, N, H].
        key, value: [B, S, K, H]; N / K query heads, one after the other, share a key head.
        mask: bool [B or 1, N or 1, T or 1, S]; True = may attend.
        bias: float, same shapes as the mask, finite; what is forbidden belongs in the mask.
        causal: query t sees keys 0 to t only; cuDNN and blocks skip the others.
        num_keys: the keys from here on are padding, which no query sees; None for S.
        scale: None for 1 / sqrt(H).
        implementation: 'einsum' is the reference, written out; 'blocks' is
            `layers.attention_blocks` for calls that it can do, 'einsum' for others; 'xla'
            and 'cudnn' (flash attention: NVIDIA GPUs, half precision, some shapes) are
            those of `jax.nn.dot_product_attention`. None: 'einsum' for weights and dropout;
            'blocks' for three or more on the one device of a CPU, else 'einsum'; or 'xla'.
        dropout_rate, dropout_rng: of the weights; a PRNG key, or None for no dropout.
        return_weights: also return the weights, which 'einsum' then computes.

    Returns:
        [B, T, N, H], or that and the weights [B, N, T, S], after dropout.

    Raises:
        ValueError: unknown or unusable implementation; a mask of another shape or dtype.
    """
    _check_mask(mask)
    scale = 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale
    drops = dropout_rate > 0.0 and dropout_rng is not None
    blocks = causal and bias is None and num_keys is None and _square(query, key, mask)
    length = query.shape[1] if blocks else None
    implementation = _choose(implementation, drops, return_weights, length)
    if num_keys is not None and (mask is not None or implementation != "cudnn"):
        seen = (jnp.arange(key.shape[1]) < num_keys)[None, None, None]
        mask, num_keys = combine_masks(mask, seen), None
    if implementation == "blocks":
        return blocks_attention(query * scale, key, value, mask)
    if implementation != "einsum":
        heads = query, key, value
        return jax_attention(heads, mask, bias, num_keys, causal, scale, implementation)
    allowed = combine_masks(mask, causal_part(causal, query, key))
    heads, rate = (query * scale, key, value), dropout_rate if drops else 0.0
    output, weights = einsum_attention(*heads, allowed, bias, rate, dropout_rng)
    return (output, weights()) if return_weights else output


def _square(query: jax.Array, key: jax.Array, mask: jax.Array | None) -> bool:
    """As many queries as keys, and one mask for all heads."""
    return query.shape[1] == key.shape[1] and (mask is None or mask.shape[1] == 1)


def _check_mask(mask: jax.Array | None) -> None:
    if mask is not None and (mask.ndim != 4 or mask.dtype != jnp.bool_):
        raise ValueError(
            f"attention mask is {mask.dtype} of shape {mask.shape}; it must be bool "
            f"{MASK_SHAPE}, True where a query may attend"
        )


def _choose(
    implementation: str | None, drops: bool, return_weights: bool, length: int | None
) -> str:
    """The one to take; `length` is that of a call that can be done in blocks."""
    if implementation is None and jax.default_backend() == "cpu":
        # The loop over heads would gather heads that are sharded.
        alone = length is not None and jax.device_count() == 1
        many = alone and length > 2 * block_length(length)
        return "blocks" if many and not (drops or return_weights) else "einsum"
    if implementation is None:
        return "einsum" if drops or return_weights else "xla"
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"unknown attention implementation {implementation!r}; "
            f"known: {', '.join(IMPLEMENTATIONS)}"
        )
    if drops and implementation != "einsum":
        raise ValueError(
            f"attention implementation {implementation!r} has no dropout; set the "
            "attention dropout rate to 0 or choose 'einsum'"
        )
    if implementation == "cudnn" and jax.default_backend() not in ("gpu", "cuda"):
        raise ValueError(
            "attention implementation 'cudnn' needs an NVIDIA GPU, and this is "
            f"{jax.default_backend()}; choose 'xla'"
        )
    if return_weights or (implementation == "blocks" and length is None):
        return "einsum"
    return implementation


class MultiHeadAttention(nn.Module):
    """Projects to heads, attends, projects back.

    Parameters: `query` (kernel [D, N, H]), `key`, `value` (kernel [D, K, H]), `out` (kernel
    [N, H, out_dim]), with biases.

    `apply(..., mutable=["attention_weights"])` also gives the weights of every such layer,
    without a change to the model: 'weights', a tuple of one [B, N, T, S] for each call, at
    the layer's path in that collection; stacked, [L, B, N, T, S], inside a scanned
    encoder.

    Step by step: with a `cache_length` and a mutable collection "cache", self-attention
    keeps `key` and `value` [B, K, cache_length, H] there, and cross-attention keeps those
    of its memory, which later calls need not give again.

    Args:
        num_heads: N.
        head_dim: H; None for D / N.
        out_dim: of the result; None for D.
        num_kv_heads: K; None for N.
        causal: each query sees its own position and those before it.
        cross: attends to a memory, and never to itself.
        scale: of the logits; None for 1 / sqrt(H).
        rotary_base: turns queries and keys by their positions (`layers.positions.rotary`);
            None does not.
        use_key_bias: whether `key` has one too, which adds the same to all the logits of a
            query, and so changes no output.
        dropout_rate: of the attention weights, from the 'dropout' stream.
        implementation: of `dot_product_attention`.
        query_init, out_init: of the kernel of `query`, and of `out`; None for
            `kernel_init`.
        dtype: of the computation; None for that of input and parameters together.
    """

    num_heads: int
    head_dim: int | None = None
    out_dim: int | None = None
    num_kv_heads: int | None = None
    causal: bool = False
    cross: bool = False
    scale: float | None = None
    rotary_base: float | None = None
    use_bias: bool = True
    use_key_bias: bool = True
    dropout_rate: float = 0.0
    implementation: str | None = None
    kernel_init: nn.initializers.Initializer = nn.initializers.xavier_uniform()
    query_init: nn.initializers.Initializer | None = None
    out_init: nn.initializers.Initializer | None = None
    bias_init: nn.initializers.Initializer = nn.initializers.zeros
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        query: jax.Array,
        memory: jax.Array | None = None,
        *,
        mask: jax.Array | None = None,
        bias: jax.Array | None = None,
        positions: jax.Array | None = None,
        cache_length: int | None = None,
        attend: Callable[..., jax.Array] | None = None,
        train: bool = False,
        return_weights: bool = False,
    ) -> Any:
        """Self-attention, or cross-attention to `memory`.

        Args:
            query: [B, T, D].
            memory: [B, S, any dimension]; None for `query`, or for a memory in the cache.
            mask, bias: as in `dot_product_attention`; with a cache of its own, S is
                `cache_length`.
            positions: int32 [T] or [B, T], of the queries; None for 0 to T - 1. With a
                cache: [T], one after the other, and where to write.
            cache_length: how many positions the cache holds; None for no cache.
            attend: (query, key, value) -> [B, T, N, H], in the place of
                `dot_product_attention` and its arguments here: sparse attention, say.
            train: whether to drop weights.
            return_weights: also return the weights [B, N, T, S].

        Returns:
            [B, T, out_dim], or that and the weights.

        Raises:
            ValueError: `num_heads` does not divide D and there is no `head_dim`; there is
                neither a memory nor one in the cache.
        """
        length, num_keys = query.shape[1], None
        alone = memory is None and cache_length is None and attend is None
        alone &= not (return_weights or self._sows())
        if self.implementation == "cudnn" and length % 2 and alone:
            query, num_keys = to_even(query, 1), None if self.causal else length
            mask, bias = even_pairs(mask, bias)
        if positions is None:
            positions = jnp.arange(query.shape[1], dtype=jnp.int32)
        elif positions.shape[-1] != query.shape[1]:
            positions = to_even(positions, -1)
        key, value = self._key_and_value(query, memory, positions, cache_length)
        query_heads = self._query(query, positions)
        out = self._dense(self.out_dim or query.shape[-1], "out", axis=(-2, -1))
        if attend is not None:
            return out(attend(query_heads, key, value))
        causal = self.causal
        if cache_length is not None and not self.cross:
            seen = jnp.arange(cache_length) <= positions[:, None]
            mask, causal = combine_masks(mask, seen[None, None]), False
        options = {"mask": mask, "bias": bias, "causal": causal, "num_keys": num_keys}
        heads = (query_heads, key, value)
        attended, weights = self._attend(heads, train, return_weights, options)
        result = out(attended)[:, :length]
        return (result, weights) if return_weights else result

    def _attend(
        self,
        heads: tuple[jax.Array, jax.Array, jax.Array],
        train: bool,
        return_weights: bool,
        options: dict[str, Any],
    ) -> tuple[jax.Array, jax.Array | None]:
        """[B, T, N, H], and the weights if someone wants them."""
        sows = self._sows()
        drops = train and self.dropout_rate > 0.0
        attended = dot_product_attention(
            *heads,
            scale=self.scale,
            implementation=self.implementation,
            dropout_rate=self.dropout_rate,
            dropout_rng=self.make_rng("dropout") if drops else None,
            return_weights=return_weights or sows,
            **options,
        )
        if not (return_weights or sows):
            return attended, None
        if sows:
            self.sow("attention_weights", "weights", attended[1])
        return attended

    def _sows(self) -> bool:
        """Whether the weights are to be kept in their collection."""
        return not self.is_initializing() and self.is_mutable_collection(
            "attention_weights"
        )

    def _query(self, query: jax.Array, positions: jax.Array) -> jax.Array:
        """[B, T, N, H]."""
        head_dim = self._head_dim(query)
        query = self._dense((self.num_heads, head_dim), "query")(query)
        if self.rotary_base is None:
            return query
        return rotary(query, positions, base=self.rotary_base)

    def _key_and_value(
        self,
        query: jax.Array,
        memory: jax.Array | None,
        positions: jax.Array,
        cache_length: int | None,
    ) -> tuple[jax.Array, jax.Array]:
        """[B, S, K, H] both, by way of the cache if there is one."""
        heads = (self.num_kv_heads or self.num_heads, self._head_dim(query))
        if self.cross and memory is None:
            if not self.has_variable("cache", "key"):
                raise ValueError(
                    f"cross-attention {'/'.join(self.path)!r} has no memory, and none in "
                    "the cache; give one in the first call"
                )
            names = ("key", "value")
            return tuple(self.get_variable("cache", n).swapaxes(1, 2) for n in names)
        memory = query if memory is None else memory
        key = self._dense(heads, "key")(memory)
        value = self._dense(heads, "value")(memory)
        if self.rotary_base is not None:
            key = rotary(key, positions, base=self.rotary_base)
        if cache_length is None:
            return key, value
        return (
            self._cached("key", key, positions, cache_length),
            self._cached("value", value, positions, cache_length),
        )

    def _cached(
        self, name: str, new: jax.Array, positions: jax.Array, cache_length: int
    ) -> jax.Array:
        """`new` [B, T, K, H], or all of the cache with it inside: [B, S, K, H].

        Kept in the order in which attention multiplies, so that a step copies nothing.
        """
        kept = new.swapaxes(1, 2)
        if not self.cross:
            shape = (*kept.shape[:2], cache_length, kept.shape[-1])
            # `self.variable` would refuse the names of the projections.
            cache = self.get_variable("cache", name, jnp.zeros(shape, kept.dtype))
            start = (0, 0, positions[0], 0)
            kept = lax.dynamic_update_slice(cache, kept, start)
        self.put_variable("cache", name, kept)
        return kept.swapaxes(1, 2)

    def _head_dim(self, query: jax.Array) -> int:
        D = query.shape[-1]
        if self.head_dim is None and D % self.num_heads:
            raise ValueError(
                f"num_heads={self.num_heads} does not divide {D}; give a head_dim"
            )
        return self.head_dim or D // self.num_heads

    def _dense(self, features: Any, name: str, axis: Any = -1) -> DenseGeneral:
        own = {"query": self.query_init, "out": self.out_init}
        init = own.get(name) or self.kernel_init
        return DenseGeneral(
            features,
            axis=axis,
            use_bias=self.use_bias and (name != "key" or self.use_key_bias),
            kernel_init=init,
            bias_init=self.bias_init,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name=name,
        )
