"""BART: a Transformer that was taught to restore damaged text.

Paper: M. Lewis, Y. Liu, N. Goyal, M. Ghazvininejad, A. Mohamed, O. Levy, V. Stoyanov,
L. Zettlemoyer, "BART: Denoising Sequence-to-Sequence Pre-training for Natural Language
Generation, Translation, and Comprehension", 2019, https://arxiv.org/abs/1910.13461.

Deviation: the logits' bias of Hugging Face's files, a constant there, is a parameter.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers.masks import combine_masks, padding_mask
from layers.normalization import LayerNorm
from layers.positions import LearnedPositions
from layers.transformer import Decoder, Encoder
from nlp.layers.embeddings import TokenEmbedding
from nlp.layers.encoder_decoder import EncoderDecoder, packing


class BART(EncoderDecoder):
    """Embedding, learned positions, norm; post-norm encoder and decoder; tied head.

    Parameters: `embedding`, `encoder_positions`, `encoder_embedding_norm`, `encoder`, the
    same for `decoder`, and `head_bias`.

    Padding of the source is seen by nothing. Padding of the target is hidden by causality
    alone, if it comes last.

    Args:
        vocab_size: V.
        embed_dim: D.
        num_layers: blocks of the encoder, and of the decoder.
        num_decoder_layers: of the decoder; None for `num_layers`.
        num_heads: N; must divide D.
        mlp_dim: F.
        max_length: longest source, longest target.
        position_offset: rows of the tables of positions before that of position 0; 2 in
            published files.
        activation: of the MLPs, a name of `layers.activations`.
        head_bias: whether logits have one.
        dropout_rate: of embeddings and of every branch's outputs.
        mlp_dropout_rate: inside the MLPs.
        attention_dropout_rate: of attention weights.
        norm_epsilon: of every norm.
        attention_implementation: of `layers.attention.dot_product_attention`.
        scan: one compiled block for all layers of a stack, parameters under `blocks`.
        remat: 'none', 'block' or 'dots'; what the backward pass computes again.
        pad_id: padding of the source; 1 in published files.
        dtype: of the computation; logits are float32 always.
    """

    vocab_size: int
    embed_dim: int = 768
    num_layers: int = 6
    num_decoder_layers: int | None = None
    num_heads: int = 12
    mlp_dim: int = 3072
    max_length: int = 1024
    position_offset: int = 0
    activation: str = "gelu"
    head_bias: bool = True
    dropout_rate: float = 0.1
    mlp_dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    norm_epsilon: float = 1e-5
    attention_implementation: str | None = None
    scan: bool = False
    remat: str = "none"
    pad_id: int = 0
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self):
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        init = nn.initializers.normal(0.02)
        self.embedding = TokenEmbedding(
            self.vocab_size, self.embed_dim, init=init, **dtypes
        )
        stack = {
            "num_heads": self.num_heads,
            "mlp_dim": self.mlp_dim,
            "activation": self.activation,
            "pre_norm": False,
            "final_norm": False,
            "dropout_rate": self.dropout_rate,
            "mlp_dropout_rate": self.mlp_dropout_rate,
            "attention_dropout_rate": self.attention_dropout_rate,
            "norm_epsilon": self.norm_epsilon,
            "implementation": self.attention_implementation,
            "kernel_init": init,
            "scan": self.scan,
            "remat": self.remat,
            **dtypes,
        }
        positions = partial(
            LearnedPositions,
            self.max_length,
            offset=self.position_offset,
            init=init,
            param_dtype=self.param_dtype,
        )
        norm = partial(LayerNorm, epsilon=self.norm_epsilon, **dtypes)
        self.encoder_positions, self.decoder_positions = positions(), positions()
        self.encoder_embedding_norm, self.decoder_embedding_norm = norm(), norm()
        self.encoder = Encoder(self.num_layers, **stack)
        self.decoder = Decoder(self.num_decoder_layers or self.num_layers, **stack)
        self.dropout = nn.Dropout(self.dropout_rate)
        if self.head_bias:
            self.logits_bias = self.param(
                "head_bias", nn.initializers.zeros, (self.vocab_size,), self.param_dtype
            )

    def encode(
        self,
        source: jax.Array,
        *,
        segments: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """The memory [B, S, D] of a source int32 [B, S], which may be padding alone."""
        self.check_length(source.shape[1])
        mask, positions = packing(segments)
        mask = combine_masks(mask, padding_mask(source != self.pad_id))
        x = self.encoder_positions(self.embedding(source), positions)
        x = self.dropout(self.encoder_embedding_norm(x), deterministic=not train)
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
        self.check_length(target.shape[1])
        x = self.decoder_positions(self.embedding(target), positions)
        x = self.dropout(self.decoder_embedding_norm(x), deterministic=not train)
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
        logits = self.embedding.attend(hidden)
        return logits + self.logits_bias if self.head_bias else logits


_PUBLISHED = {"vocab_size": 50265, "position_offset": 2, "pad_id": 1}

BART_Base = partial(BART, **_PUBLISHED)
BART_Large = partial(
    BART, embed_dim=1024, num_layers=12, num_heads=16, mlp_dim=4096, **_PUBLISHED
)
