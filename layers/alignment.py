"""Alignment: how a recurrent decoder reads the states of its encoder.

Papers: D. Bahdanau, K. Cho, Y. Bengio, "Neural Machine Translation by Jointly Learning to
Align and Translate", 2015, https://arxiv.org/abs/1409.0473 (additive); M. Luong, H. Pham,
C. Manning, "Effective Approaches to Attention-based Neural Machine Translation", 2015,
https://arxiv.org/abs/1508.04025 (dot, general, concat); the scale 1 / sqrt(D) is that of
A. Vaswani et al., "Attention Is All You Need", 2017, https://arxiv.org/abs/1706.03762;
M. Daniluk, T. Rocktaeschel, J. Welbl, S. Riedel, "Frustratingly Short Attention Spans in
Neural Language Modeling", 2017, https://arxiv.org/abs/1702.04521 (key-value(-predict)).

Dimensions: B batch, T queries, S memory, D query, M memory width, A hidden width of a score.
"""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from layers.dense import Dense

# Into how many parts a state is split: what is compared, what is read, what predicts.
PARTS = {"key_value": 2, "key_value_predict": 3}
ADDITIVE = ("additive", "concat", *PARTS)
KINDS = ("additive", "concat", "dot", "general", "scaled_dot", *PARTS)


@jax.custom_vjp
def additive_scores(query: jax.Array, key: jax.Array, vector: jax.Array) -> jax.Array:
    """vector . tanh(query[t] + key[s]), for every t and s.

    Why a loop over t, and a gradient of its own: all [B, T, S, A] tanhs at once fill the
    memory, one t at a time stay in the cache: five times faster on a CPU, both ways.

    Args:
        query: [B, T, A].
        key: [B, S, A].
        vector: [A].

    Returns:
        [B, T, S].
    """

    def one(_, query):
        return None, jnp.tanh(query[:, None] + key) @ vector

    # A single query, as in decoding, is written out without a loop.
    unroll = query.shape[1] == 1
    _, scores = lax.scan(one, None, query.swapaxes(0, 1), unroll=unroll)
    return scores.swapaxes(0, 1)


def _additive_forward(query, key, vector):
    return additive_scores(query, key, vector), (query, key, vector)


def _additive_backward(residuals, scores_bar):
    query, key, vector = residuals
    wide = jnp.promote_types(key.dtype, jnp.float32)

    def one(carry, xs):
        key_bar, vector_bar = carry
        query, bar = xs
        hidden = jnp.tanh(query[:, None] + key)
        rows = hidden.reshape(-1, hidden.shape[-1])
        vector_bar += jnp.dot(bar.reshape(-1), rows, preferred_element_type=wide)
        slope = bar[..., None] * (1 - hidden * hidden)
        return (key_bar + slope, vector_bar), slope.sum(1)

    zeros = jnp.zeros(key.shape, wide), jnp.zeros(vector.shape, wide)
    steps = query.swapaxes(0, 1), scores_bar.swapaxes(0, 1)
    (key_bar, vector_bar), query_bar = lax.scan(
        one, zeros, steps, unroll=query.shape[1] == 1
    )
    key_bar = (key_bar * vector).astype(key.dtype)
    query_bar = (query_bar.swapaxes(0, 1) * vector).astype(query.dtype)
    return query_bar, key_bar, vector_bar.astype(vector.dtype)


additive_scores.defvjp(_additive_forward, _additive_backward)


def masked_softmax(scores: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Weights that sum to one over what is real, in float32; zeros where nothing is.

    Args:
        scores: [..., S].
        mask: bool, broadcasts to the scores; False weighs zero, whatever its score.

    Returns:
        float32 [..., S].
    """
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    if not scores.size:
        return scores
    if mask is None:
        return jax.nn.softmax(scores)
    weights = jax.nn.softmax(jnp.where(mask, scores, jnp.finfo(scores.dtype).min))
    return jnp.where(mask, weights, 0)


def preceding_mask(length: int, window: int) -> jax.Array:
    """True for the `window` positions before each, not itself: bool [1, length, length]."""
    t, s = jnp.arange(length)[:, None], jnp.arange(length)
    return ((s < t) & (s >= t - window))[None]


class Memory(NamedTuple):
    """What the queries read, prepared once for all of them.

    Args:
        keys: [B, S, A], what queries are compared with.
        values: [B, S, M], what is read.
        mask: bool [B, S], False for padding; or None.
    """

    keys: jax.Array
    values: jax.Array
    mask: jax.Array | None = None


class Alignment(nn.Module):
    """Scores, weights and context; `prepare` the memory, then call as often as needed.

    Weights sum to one over the real positions of the memory and are zero on padding; an
    empty memory gives zeros. Kinds, for a query s and a memory position h:

    - 'additive': v . tanh(W1 s + b + W2 h); parameters `query`, `key`, `score`.
    - 'concat': v . tanh(W [s; h] + b), the same function as Luong and the decks write it,
      with the product of every pair computed: `joint`, `score`. Prefer 'additive'.
    - 'dot': s . h; 'scaled_dot': s . h / sqrt(D). No parameters.
    - 'general': s . W h: `query`, which is W transposed.
    - 'key_value': states are split in halves [key; value], keys are compared as in
      'additive', values are read; 'key_value_predict' splits in three, and the last part
      (`predicting`) is kept for what follows.

    `apply(..., mutable=["attention_weights"])` gives the weights that `record` was called
    with: 'weights', a tuple of [B, 1, T, S], as `layers.attention` does.

    Args:
        kind: one of the above.
        attention_dim: A of the additive kinds.
        memory_dim: M; needed by 'general' alone.
        window: each query sees only so many positions before its own, for a memory that is
            the queries' own sequence, as in Daniluk's language models; None for all.
    """

    kind: str
    attention_dim: int = 0
    memory_dim: int = 0
    window: int | None = None
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self):
        if self.kind not in KINDS:
            raise ValueError(
                f"unknown attention {self.kind!r}; known: {', '.join(KINDS)}"
            )
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        if self.kind == "general":
            self.query = Dense(self.memory_dim, use_bias=False, **dtypes)
        elif self.kind == "concat":
            self.joint = Dense(self.attention_dim, **dtypes)
        elif self.kind in ADDITIVE:
            self.query = Dense(self.attention_dim, **dtypes)
            self.key = Dense(self.attention_dim, use_bias=False, **dtypes)
        if self.kind in ADDITIVE:
            self.score = Dense(1, use_bias=False, **dtypes)

    def prepare(self, memory: jax.Array, mask: jax.Array | None = None) -> Memory:
        """The memory's part of the work: float [B, S, M], bool [B, S].

        Raises:
            ValueError: M cannot be split into the parts of this kind.
        """
        if self.kind not in PARTS:
            keys = self.key(memory) if self.kind == "additive" else memory
            return Memory(keys, memory, mask)
        key, value, *_ = self._split(memory)
        return Memory(self.key(key), value, mask)

    def predicting(self, query: jax.Array) -> jax.Array:
        """The part of queries [B, T, D] that is used beside the context."""
        return self._split(query)[-1] if self.kind in PARTS else query

    def __call__(self, query: jax.Array, memory: Memory) -> tuple[jax.Array, jax.Array]:
        """Reads the memory once for each query.

        Args:
            query: [B, T, D].
            memory: from `prepare`.

        Returns:
            The context [B, T, M] (of split states: M / parts) and the weights, float32
            [B, T, S].

        Raises:
            ValueError: D is not M and the kind is a plain product, or D cannot be split.
        """
        mask = None if memory.mask is None else memory.mask[:, None]
        if self.window is not None:
            recent = preceding_mask(query.shape[1], self.window)
            mask = recent if mask is None else mask & recent
        weights = masked_softmax(self._scores(query, memory.keys), mask)
        context = jnp.einsum(
            "BTS,BSM->BTM", weights.astype(memory.values.dtype), memory.values
        )
        return context, weights

    def record(self, weights: jax.Array) -> None:
        """Sows weights [B, T, S] for who asks for them."""
        if not self.is_initializing():
            self.sow("attention_weights", "weights", weights[:, None])

    def _scores(self, query: jax.Array, keys: jax.Array) -> jax.Array:
        """[B, T, S]"""
        if self.kind == "concat":
            (B, T, D), S = query.shape, keys.shape[1]
            queries = jnp.broadcast_to(query[:, :, None], (B, T, S, D))
            others = jnp.broadcast_to(keys[:, None], (B, T, *keys.shape[1:]))
            pairs = jnp.concatenate([queries, others], axis=-1)
            hidden = jnp.tanh(self.joint(pairs))
            return self.score(hidden)[..., 0]
        if self.kind in ADDITIVE:
            compared = self._split(query)[0] if self.kind in PARTS else query
            return self._additive(self.query(compared), keys)
        if self.kind == "general":
            query = self.query(query)
        if query.shape[-1] != keys.shape[-1]:
            raise ValueError(
                f"attention {self.kind!r} of queries of width {query.shape[-1]} to a memory "
                f"of width {keys.shape[-1]}; use 'general'"
            )
        if self.kind == "scaled_dot":
            query = query / math.sqrt(query.shape[-1])
        return jnp.einsum("BTD,BSD->BTS", query, keys)

    def _additive(self, query: jax.Array, keys: jax.Array) -> jax.Array:
        if self.is_initializing():
            self.score(query)
        vector = self.score.variables["params"]["kernel"][:, 0]
        return additive_scores(query, keys, vector.astype(query.dtype))

    def _split(self, state: jax.Array) -> list[jax.Array]:
        parts, width = PARTS[self.kind], state.shape[-1]
        if width % parts:
            raise ValueError(
                f"attention {self.kind!r} splits a state into {parts} parts, and {width} "
                "is not a multiple of that; change hidden_dim"
            )
        return jnp.split(state, parts, axis=-1)
