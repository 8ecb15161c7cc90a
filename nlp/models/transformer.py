"""The Transformer: an encoder reads the source, a decoder writes the target.

Paper: A. Vaswani, N. Shazeer, N. Parmar, J. Uszkoreit, L. Jones, A. N. Gomez, L. Kaiser,
I. Polosukhin, "Attention Is All You Need", 2017, https://arxiv.org/abs/1706.03762;
`pre_norm`: R. Xiong et al., "On Layer Normalization in the Transformer Architecture", 2020,
https://arxiv.org/abs/2002.04745. With other fields it is the model of Marian's and OPUS-MT's
files: M. Junczys-Dowmunt et al., "Marian: Fast Neural Machine Translation in C++", 2018,
https://arxiv.org/abs/1804.00344 (`Transformer_Marian`).

The attention's projections have biases, of which the paper does not speak.
"""

import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from layers.dense import Dense
from layers.masks import combine_masks, padding_mask
from layers.positions import sincos_1d
from layers.transformer import Decoder, Encoder
from nlp.layers.embeddings import TokenEmbedding
from nlp.layers.encoder_decoder import EncoderDecoder, packing

POSITIONS = ("interleaved", "halves")


class Transformer(EncoderDecoder):
    """Embedding, fixed positions, encoder, decoder, head.

    Parameters: `embedding` (or `source_embedding`, `target_embedding`), `encoder`,
    `decoder`, `head` if it is not tied, else perhaps `head_bias`.

    Padding of the source is seen by nothing. Padding of the target is hidden by causality
    alone, if it comes last; so `pad_id` may be the token that the decoder starts from.

    Args:
        vocab_size: V, of both languages.
        embed_dim: D.
        num_layers: blocks of the encoder, and of the decoder.
        num_decoder_layers: of the decoder; None for `num_layers`.
        num_heads: N; must divide D.
        mlp_dim: F.
        max_length: rows of the fixed table of positions: longest source, longest target.
        activation: of the MLPs, a name of `layers.activations`.
        pre_norm: normalise what enters a branch, not the sum.
        final_norm: whether both stacks normalise their result; None: if `pre_norm`.
        positions: the table's columns: 'interleaved' as in the paper, or 'halves', sines
            first, as in its authors' code and in Marian.
        scale_embeddings: multiply them by sqrt(D).
        share_embeddings: one table for source and target.
        tie_head: the head's kernel is the target's table.
        head_bias: whether logits have one; an untied head always has.
        dropout_rate: of embeddings and of every branch's outputs.
        mlp_dropout_rate: inside the MLPs.
        attention_dropout_rate: of attention weights.
        norm_epsilon: of every norm; torch's is 1e-5.
        attention_implementation: of `layers.attention.dot_product_attention`.
        scan: one compiled block for all layers of a stack, parameters under `blocks`.
        remat: 'none', 'block' or 'dots'; what the backward pass computes again.
        pad_id: padding of the source.
        dtype: of the computation; logits are float32 always.
    """

    vocab_size: int
    embed_dim: int = 512
    num_layers: int = 6
    num_decoder_layers: int | None = None
    num_heads: int = 8
    mlp_dim: int = 2048
    max_length: int = 1024
    activation: str = "relu"
    pre_norm: bool = False
    final_norm: bool | None = None
    positions: str = "interleaved"
    scale_embeddings: bool = True
    share_embeddings: bool = True
    tie_head: bool = True
    head_bias: bool = False
    dropout_rate: float = 0.1
    mlp_dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    norm_epsilon: float = 1e-6
    attention_implementation: str | None = None
    scan: bool = False
    remat: str = "none"
    pad_id: int = 0
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self):
        if self.positions not in POSITIONS:
            raise ValueError(
                f"positions is {self.positions!r}; known: {', '.join(POSITIONS)}"
            )
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        init = nn.initializers.normal(self.embed_dim**-0.5)
        table = partial(
            TokenEmbedding, self.vocab_size, self.embed_dim, init=init, **dtypes
        )
        if self.share_embeddings:
            self.embedding = table()
        else:
            self.source_embedding, self.target_embedding = table(), table()
        stack = {
            "num_heads": self.num_heads,
            "mlp_dim": self.mlp_dim,
            "activation": self.activation,
            "pre_norm": self.pre_norm,
            "final_norm": self.pre_norm if self.final_norm is None else self.final_norm,
            "dropout_rate": self.dropout_rate,
            "mlp_dropout_rate": self.mlp_dropout_rate,
            "attention_dropout_rate": self.attention_dropout_rate,
            "norm_epsilon": self.norm_epsilon,
            "implementation": self.attention_implementation,
            "scan": self.scan,
            "remat": self.remat,
            **dtypes,
        }
        self.encoder = Encoder(self.num_layers, **stack)
        self.decoder = Decoder(self.num_decoder_layers or self.num_layers, **stack)
        self.dropout = nn.Dropout(self.dropout_rate)
        if not self.tie_head:
            self.head = Dense(self.vocab_size, **dtypes)
        elif self.head_bias:
            self.logits_bias = self.param(
                "head_bias", nn.initializers.zeros, (self.vocab_size,), self.param_dtype
            )

    def _table(self, side: str) -> TokenEmbedding:
        return getattr(self, "embedding" if self.share_embeddings else side)

    def _embed(
        self, tokens: jax.Array, side: str, positions: jax.Array | None, train: bool
    ) -> jax.Array:
        """Tokens int32 [B, T] at int32 [T] or [B, T], None for 0 to T - 1 -> [B, T, D].

        Raises:
            ValueError: T is greater than `max_length`.
        """
        self.check_length(tokens.shape[1])
        x = self._table(side)(tokens)
        if self.scale_embeddings:
            x = x * math.sqrt(self.embed_dim)
        table = sincos_1d(self.max_length, self.embed_dim)
        if self.positions == "halves":
            table = np.concatenate([table[:, ::2], table[:, 1::2]], axis=1)
        place = table[: tokens.shape[1]]
        if positions is not None:
            place = jnp.asarray(table)[positions]
        return self.dropout(x + place.astype(x.dtype), deterministic=not train)

    def encode(
        self,
        source: jax.Array,
        *,
        segments: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """The memory [B, S, D] of a source int32 [B, S], which may be padding alone."""
        mask, positions = packing(segments)
        mask = combine_masks(mask, padding_mask(source != self.pad_id))
        x = self._embed(source, "source_embedding", positions, train)
        return self.encoder(x, mask=mask, train=train)

    def decode(
        self,
        target: jax.Array,
        memory: jax.Array | None,
        memory_mask: jax.Array,
        *,
        mask: jax.Array | None = None,
        positions: jax.Array | None = None,
        cache_length: int | None = None,
        train: bool = False,
    ) -> jax.Array:
        """The decoder's result [B, T, D], before the head; see `EncoderDecoder`."""
        x = self._embed(target, "target_embedding", positions, train)
        return self.decoder(
            x,
            memory,
            mask=mask,
            memory_mask=memory_mask,
            positions=positions,
            cache_length=cache_length,
            train=train,
        )

    def logits(self, hidden: jax.Array) -> jax.Array:
        """[..., D] -> float32 [..., V]."""
        if not self.tie_head:
            return self.head(hidden).astype(jnp.float32)
        logits = self._table("target_embedding").attend(hidden)
        return logits + self.logits_bias if self.head_bias else logits


Transformer_Base = partial(Transformer)
Transformer_Big = partial(
    Transformer, embed_dim=1024, num_heads=16, mlp_dim=4096, dropout_rate=0.3
)
# Of Marian's and OPUS-MT's files; their vocabulary's last token is padding and start.
Transformer_Marian = partial(
    Transformer,
    max_length=512,
    activation="silu",
    positions="halves",
    head_bias=True,
    norm_epsilon=1e-5,
)
