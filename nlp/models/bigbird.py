"""BigBird: BERT for long texts, whose blocks of tokens see a few other blocks each.

Paper: M. Zaheer, G. Guruganesh, A. Dubey, J. Ainslie, C. Alberti, S. Ontanon, P. Pham,
A. Ravula, Q. Wang, L. Yang, A. Ahmed, "Big Bird: Transformers for Longer Sequences", 2020,
https://arxiv.org/abs/2007.14062.

Deviations: random blocks are the same in training and evaluation, and one draw for each layer
and head; published code evaluates with the first block in the place of all random ones, which
`random_blocks` of zeros does here. Sparse attention does not drop weights, as published.
"""

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers.dense import Dense
from layers.masks import padding_mask
from layers.transformer import EncoderBlock, rematerialize
from nlp.layers.block_sparse_attention import (
    block_sparse_attention,
    draw_random_blocks,
)
from nlp.layers.embeddings import SummedEmbeddings
from nlp.layers.masked_head import MaskedHead
from nlp.layers.sentence_pooling import mean_token

ATTENTION = ("sparse", "full")
POOLINGS = ("pooler", "token", "mean")


class BigBirdOutput(NamedTuple):
    """What BigBird says of B rows of tokens.

    Args:
        hidden: [B, T, D], the encoder's result.
        logits: float32 [B, T or P, V], of the token at each place.
        pooled: [B, D], of the pooler; None without.
    """

    hidden: jax.Array
    logits: jax.Array
    pooled: jax.Array | None


class BlockSparseEncoder(nn.Module):
    """Post-norm blocks `block_0`, `block_1`, ..., each with random blocks of its own.

    Args:
        num_layers: L.
        block: makes a block, given its name.
        block_size: positions in a block of attention.
        remat: 'none', 'block' or 'dots'.
    """

    num_layers: int
    block: Any
    block_size: int
    remat: str = "none"

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        valid: jax.Array,
        random_blocks: jax.Array | None,
        *,
        train: bool = False,
    ) -> jax.Array:
        """[B, T, D], bool [B, T], int32 [L, N, M - 2, R] or None for full attention ->
        [B, T, D]."""

        def apply_block(block, x, valid, random_blocks):
            if random_blocks is None:
                return block(x, mask=padding_mask(valid), train=train)
            attend = partial(
                block_sparse_attention,
                valid=valid,
                random_blocks=random_blocks,
                block_size=self.block_size,
            )
            return block(x, attend=attend, train=train)

        apply_block = rematerialize(apply_block, self.remat, scan=False)
        for i in range(self.num_layers):
            own = None if random_blocks is None else jnp.asarray(random_blocks[i])
            x = apply_block(self.block(name=f"block_{i}"), x, valid, own)
        return x


class BigBird(nn.Module):
    """Summed embeddings, post-norm Transformer encoder with sparse attention, heads.

    Parameters: `embeddings`, `encoder`, `masked_head`, `pooler`.

    Args:
        vocab_size: V.
        max_length: longest sequence.
        embed_dim: D.
        num_layers: L.
        num_heads: N.
        mlp_dim: F; None for 4 D.
        attention: 'sparse' or 'full'. Rows of at most (5 + 2 R) blocks, which sparse
            attention would hardly make cheaper, are read with full attention always.
        block_size: positions in a block; rows are padded to a multiple of it inside.
        num_random: R, random blocks that each block sees.
        seed: of the random blocks.
        num_types: kinds of token; 0 for none.
        pooling: of `represent`: 'pooler' (a tanh layer of the first token's vector), 'token'
            (that vector) or 'mean' (of the real tokens').
        pad_id: the token that marks padding, where the batch does not say.
        activation: in the MLPs and the head, a name of `layers.activations`.
        norm_epsilon: of every norm.
        dropout_rate: of embeddings and of every branch's output.
        remat: 'none', 'block' or 'dots'; what the backward pass computes again.
        dtype: of the computation; None for the parameters'. Logits are float32 always.
        param_dtype: of the parameters.
    """

    vocab_size: int = 50358
    max_length: int = 4096
    embed_dim: int = 768
    num_layers: int = 12
    num_heads: int = 12
    mlp_dim: int | None = None
    attention: str = "sparse"
    block_size: int = 64
    num_random: int = 3
    seed: int = 0
    num_types: int = 2
    pooling: str = "pooler"
    pad_id: int = 0
    activation: str = "gelu_tanh"
    norm_epsilon: float = 1e-12
    dropout_rate: float = 0.0
    remat: str = "none"
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self):
        for name, known in (("attention", ATTENTION), ("pooling", POOLINGS)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; known: {', '.join(known)}"
                )
        init = nn.initializers.truncated_normal(0.02)
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        options = {"init": init, "norm_epsilon": self.norm_epsilon, **dtypes}
        self.embeddings = SummedEmbeddings(
            self.vocab_size,
            self.embed_dim,
            max_length=self.max_length,
            num_types=self.num_types,
            dropout_rate=self.dropout_rate,
            **options,
        )
        block = partial(
            EncoderBlock,
            num_heads=self.num_heads,
            mlp_dim=4 * self.embed_dim if self.mlp_dim is None else self.mlp_dim,
            activation=self.activation,
            pre_norm=False,
            norm_epsilon=self.norm_epsilon,
            dropout_rate=self.dropout_rate,
            mlp_dropout_rate=0.0,
            kernel_init=init,
            **dtypes,
        )
        self.encoder = BlockSparseEncoder(
            self.num_layers, block, self.block_size, self.remat
        )
        self.masked_head = MaskedHead(
            self.vocab_size, self.embed_dim, activation=self.activation, **options
        )
        if self.pooling == "pooler":
            self.pooler = Dense(self.embed_dim, kernel_init=init, **dtypes)

    def hidden(
        self,
        tokens: jax.Array,
        types: jax.Array | None = None,
        valid: jax.Array | None = None,
        *,
        random_blocks: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """The encoder's result: [B, T, D]; arguments as for `__call__`."""
        x = self.embeddings(tokens, types, train=train)
        valid = self._valid(tokens, valid)
        length = tokens.shape[1]
        if self.attention == "full" or length <= self._full_length():
            return self.encoder(x, valid, None, train=train)
        more = -length % self.block_size
        x = jnp.pad(x, ((0, 0), (0, more), (0, 0)))
        valid = jnp.pad(valid, ((0, 0), (0, more)))
        if random_blocks is None:
            num_blocks = x.shape[1] // self.block_size
            random_blocks = [
                draw_random_blocks(
                    num_blocks,
                    self.num_heads,
                    self.num_random,
                    seed=(self.seed, layer),
                )
                for layer in range(self.num_layers)
            ]
        return self.encoder(x, valid, random_blocks, train=train)[:, :length]

    def represent(
        self,
        tokens: jax.Array,
        types: jax.Array | None = None,
        valid: jax.Array | None = None,
        *,
        train: bool = False,
    ) -> jax.Array:
        """One vector per row, as `pooling` says: [B, D]; arguments as for `__call__`."""
        hidden = self.hidden(tokens, types, valid, train=train)
        if self.pooling == "mean":
            return mean_token(hidden, self._valid(tokens, valid))
        return self._pooled(hidden) if self.pooling == "pooler" else hidden[:, 0]

    def __call__(
        self,
        tokens: jax.Array,
        types: jax.Array | None = None,
        valid: jax.Array | None = None,
        positions: jax.Array | None = None,
        *,
        random_blocks: jax.Array | None = None,
        train: bool = False,
    ) -> BigBirdOutput:
        """Reads rows of tokens.

        Args:
            tokens: int32 [B, T].
            types: int32 [B, T], the kind of each token; None for 0.
            valid: bool [B, T], False for padding; None for tokens other than `pad_id`.
            positions: int32 [B, P], where to predict tokens; None for everywhere.
            random_blocks: int32 [L, N, M - 2, R], of each layer, head and block but the
                first and the last; None for those of the `seed`.
            train: whether to drop.

        Raises:
            ValueError: T is greater than `max_length`.
        """
        x = self.hidden(tokens, types, valid, random_blocks=random_blocks, train=train)
        logits = self.masked_head(x, self.embeddings.attend, positions)
        pooled = self._pooled(x) if self.pooling == "pooler" else None
        return BigBirdOutput(x, logits, pooled)

    def _pooled(self, hidden: jax.Array) -> jax.Array:
        return jnp.tanh(self.pooler(hidden[:, 0]))

    def _full_length(self) -> int:
        return (5 + 2 * self.num_random) * self.block_size

    def _valid(self, tokens: jax.Array, valid: jax.Array | None) -> jax.Array:
        return tokens != self.pad_id if valid is None else valid.astype(bool)


BigBird_B = BigBird
BigBird_L = partial(BigBird, embed_dim=1024, num_layers=24, num_heads=16)
