"""Tokens to vectors, and vectors back to a score for every token, by the same table.

`TokenEmbedding` is the table; `SummedEmbeddings` adds positions and types, as BERT does.

Sharing the table: O. Press, L. Wolf, "Using the Output Embedding to Improve Language Models",
2016, https://arxiv.org/abs/1608.05859.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from layers.dense import Dense
from layers.normalization import LayerNorm
from layers.positions import LearnedPositions


class TokenEmbedding(nn.Module):
    """A learned vector for each token.

    Parameters: `embedding` [V, D].

    Args:
        vocab_size: V.
        embed_dim: D.
        dtype: of the vectors and of the product in `attend`; None for the parameters'.
    """

    vocab_size: int
    embed_dim: int
    init: nn.initializers.Initializer = nn.initializers.normal(0.02)
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self):
        shape = (self.vocab_size, self.embed_dim)
        self.embedding = self.param("embedding", self.init, shape, self.param_dtype)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """int32 [...] -> [..., D]; NaN for a token that is not in the vocabulary."""
        vectors = jnp.take(self.embedding, tokens, axis=0, mode="fill")
        return vectors.astype(self.dtype or self.param_dtype)

    def attend(self, x: jax.Array) -> jax.Array:
        """Products with every token's vector: [..., D] -> float32 [..., V]."""
        return vocabulary_logits(x, self.embedding)


def vocabulary_logits(x: jax.Array, table: jax.Array) -> jax.Array:
    """x table^T, computed in x's dtype and summed in float32.

    Args:
        x: [..., D].
        table: [V, D], of any dtype.

    Returns:
        float32 [..., V].
    """
    rows = x.reshape(-1, x.shape[-1])  # one flat product, see `layers.dense`
    logits = _row_logits(rows, table.astype(x.dtype))
    return logits.reshape(*x.shape[:-1], len(table))


@jax.custom_vjp
def _row_logits(rows: jax.Array, table: jax.Array) -> jax.Array:
    wide = jnp.promote_types(rows.dtype, jnp.float32)
    contract = (((1,), (1,)), ((), ()))
    return lax.dot_general(rows, table, contract, preferred_element_type=wide)


def _row_logits_forward(rows, table):
    return _row_logits(rows, table), (rows, table)


def _row_logits_backward(residuals, cotangent):
    """In the operands' dtype: by itself JAX would widen both products to float32."""
    rows, table = residuals
    cotangent = cotangent.astype(rows.dtype)
    return cotangent @ table, cotangent.T @ rows


_row_logits.defvjp(_row_logits_forward, _row_logits_backward)


class SummedEmbeddings(nn.Module):
    """Vectors of token, position and type, summed and normalised; perhaps projected.

    Narrower than the model: Z. Lan et al., "ALBERT: A Lite BERT for Self-supervised Learning
    of Language Representations", 2019, https://arxiv.org/abs/1909.11942.

    Parameters: `token`, `position`, `type` (each `embedding`), `norm`, `projection`.

    Args:
        vocab_size: V.
        embed_dim: E, of the tables.
        out_dim: D, of the result; None or E for no projection.
        max_length: longest sequence.
        position_offset: rows of the position table before that of position 0.
        num_types: rows of the type table; 0 for none.
        dropout_rate: of the normalised sum.
        dtype: of the computation; None for the parameters'.
    """

    vocab_size: int
    embed_dim: int
    out_dim: int | None = None
    max_length: int = 512
    position_offset: int = 0
    num_types: int = 2
    dropout_rate: float = 0.0
    norm_epsilon: float = 1e-12
    init: nn.initializers.Initializer = nn.initializers.truncated_normal(0.02)
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self):
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        width = self.embed_dim
        self.token = TokenEmbedding(self.vocab_size, width, init=self.init, **dtypes)
        self.position = LearnedPositions(
            self.max_length,
            offset=self.position_offset,
            init=self.init,
            param_dtype=self.param_dtype,
        )
        if self.num_types:
            self.type = TokenEmbedding(self.num_types, width, init=self.init, **dtypes)
        self.norm = LayerNorm(epsilon=self.norm_epsilon, **dtypes)
        self.dropout = nn.Dropout(self.dropout_rate)
        if self.out_dim not in (None, width):
            self.projection = Dense(self.out_dim, kernel_init=self.init, **dtypes)

    def __call__(
        self,
        tokens: jax.Array,
        types: jax.Array | None = None,
        positions: jax.Array | None = None,
        *,
        train: bool = False,
    ) -> jax.Array:
        """Embeds tokens.

        Args:
            tokens: int32 [B, T].
            types: int32 [B, T]; None for 0 everywhere.
            positions: int32 [T] or [B, T]; None for 0 to T - 1.
            train: whether to drop.

        Returns:
            [B, T, D].

        Raises:
            ValueError: T is greater than `max_length`; types for a model without.
        """
        x = self.token(tokens)
        if self.num_types:
            x = x + self.type(jnp.zeros_like(tokens) if types is None else types)
        elif types is not None:
            raise ValueError("num_types=0 and the batch has types; drop them or set it")
        x = self.norm(self.position(x, positions))
        x = self.dropout(x, deterministic=not train)
        return x if self.out_dim in (None, self.embed_dim) else self.projection(x)

    def attend(self, x: jax.Array) -> jax.Array:
        """Products with every token's vector: [..., E] -> float32 [..., V]."""
        return self.token.attend(x)
