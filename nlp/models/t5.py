"""T5: an encoder-decoder that knows positions by learned biases of its attention.

Paper: C. Raffel, N. Shazeer, A. Roberts, K. Lee, S. Narang, M. Matena, Y. Zhou, W. Li,
P. J. Liu, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
Transformer", 2019, https://arxiv.org/abs/1910.10683. Version 1.1, with gated MLPs and a head
of its own, is that of N. Shazeer, "GLU Variants Improve Transformer", 2020,
https://arxiv.org/abs/2002.05202.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers.dense import Dense
from layers.masks import combine_masks, padding_mask
from layers.positions import RelativePositionBias
from layers.transformer import Decoder, Encoder
from nlp.layers.embeddings import TokenEmbedding
from nlp.layers.encoder_decoder import EncoderDecoder, packing


class T5(EncoderDecoder):
    """Embedding, pre-norm encoder and decoder without biases, head.

    All layers of a stack share its relative position bias. Parameters: `embedding`,
    `encoder_position_bias`, `encoder`, `decoder_position_bias`, `decoder`, and `head` if it
    is not tied.

    Padding of the source is seen by nothing. Padding of the target is hidden by causality
    alone, if it comes last; so `pad_id` may be the token that the decoder starts from, as
    it is in T5's files.

    Args:
        vocab_size: V.
        embed_dim: D.
        num_layers: blocks of the encoder, and of the decoder.
        num_decoder_layers: of the decoder; None for `num_layers`.
        num_heads: N.
        head_dim: H; N * H need not be D.
        mlp_dim: F.
        activation: of the MLPs, a name of `layers.activations`.
        gated: whether the MLPs are (`layers.mlp.Mlp`).
        tie_head: the head is the embedding's table, its input scaled by 1 / sqrt(D).
        num_buckets: of distances, each with its own bias for each head.
        max_distance: from which all distances share the last bucket.
        dropout_rate: of embeddings, both stacks' results, every branch's output, and
            inside the MLPs.
        attention_dropout_rate: of attention weights; None for `dropout_rate`.
        norm_epsilon: of every norm.
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
    head_dim: int = 64
    mlp_dim: int = 2048
    activation: str = "relu"
    gated: bool = False
    tie_head: bool = True
    num_buckets: int = 32
    max_distance: int = 128
    dropout_rate: float = 0.1
    attention_dropout_rate: float | None = None
    norm_epsilon: float = 1e-6
    attention_implementation: str | None = None
    scan: bool = False
    remat: str = "none"
    pad_id: int = 0
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self):
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        normal, D = nn.initializers.normal, self.embed_dim
        self.embedding = TokenEmbedding(self.vocab_size, D, init=normal(1.0), **dtypes)
        rate = self.attention_dropout_rate
        stack = {
            "num_heads": self.num_heads,
            "mlp_dim": self.mlp_dim,
            "head_dim": self.head_dim,
            "activation": self.activation,
            "gated": self.gated,
            "norm": "rms",
            "norm_epsilon": self.norm_epsilon,
            "attention_scale": 1.0,
            "use_bias": False,
            "dropout_rate": self.dropout_rate,
            "attention_dropout_rate": self.dropout_rate if rate is None else rate,
            "implementation": self.attention_implementation,
            "kernel_init": normal(D**-0.5),
            # In place of the attention's scale.
            "query_init": normal((D * self.head_dim) ** -0.5),
            "out_init": nn.initializers.variance_scaling(1.0, "fan_in", "normal"),
            "scan": self.scan,
            "remat": self.remat,
            **dtypes,
        }
        bias = partial(
            RelativePositionBias,
            self.num_heads,
            num_buckets=self.num_buckets,
            max_distance=self.max_distance,
            init=normal(D**-0.5),
            param_dtype=self.param_dtype,
        )
        self.encoder_position_bias = bias(bidirectional=True)
        self.encoder = Encoder(self.num_layers, **stack)
        self.decoder_position_bias = bias(bidirectional=False)
        self.decoder = Decoder(self.num_decoder_layers or self.num_layers, **stack)
        self.dropout = nn.Dropout(self.dropout_rate)
        if not self.tie_head:
            self.head = Dense(
                self.vocab_size, use_bias=False, kernel_init=normal(D**-0.5), **dtypes
            )

    def encode(
        self,
        source: jax.Array,
        *,
        segments: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """The memory [B, S, D] of a source int32 [B, S], which may be padding alone."""
        x = self.dropout(self.embedding(source), deterministic=not train)
        place, valid = jnp.arange(source.shape[1]), padding_mask(source != self.pad_id)
        x = self.encoder(
            x,
            mask=combine_masks(packing(segments)[0], valid),
            bias=self.encoder_position_bias(place, place),
            train=train,
        )
        return self.dropout(x, deterministic=not train)

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
        x = self.dropout(self.embedding(target), deterministic=not train)
        if cache_length is None or positions is None:
            # Those of a packed row too: distances within a pair are the same.
            positions = jnp.arange(target.shape[1])
        keys = jnp.arange(target.shape[1] if cache_length is None else cache_length)
        x = self.decoder(
            x,
            memory,
            bias=self.decoder_position_bias(positions, keys),
            mask=mask,
            memory_mask=memory_mask,
            positions=positions,
            cache_length=cache_length,
            train=train,
        )
        return self.dropout(x, deterministic=not train)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """[..., D] -> float32 [..., V]."""
        if self.tie_head:
            return self.embedding.attend(hidden * self.embed_dim**-0.5)
        return self.head(hidden).astype(jnp.float32)


def _size(D: int, layers: int, heads: int, F: int, head_dim: int = 64, **fields: Any):
    return partial(
        T5,
        vocab_size=32128,
        embed_dim=D,
        num_layers=layers,
        num_heads=heads,
        head_dim=head_dim,
        mlp_dim=F,
        **fields,
    )


_V1_1 = {"activation": "gelu_tanh", "gated": True, "tie_head": False}

T5_Small = _size(512, 6, 8, 2048)
T5_Base = _size(768, 12, 12, 3072)
T5_Large = _size(1024, 24, 16, 4096)
T5_3B = _size(1024, 24, 32, 16384, 128)
T5_11B = _size(1024, 24, 128, 65536, 128)
T5v1_1_Small = _size(512, 8, 6, 1024, **_V1_1)
T5v1_1_Base = _size(768, 12, 12, 2048, **_V1_1)
T5v1_1_Large = _size(1024, 24, 16, 2816, **_V1_1)
T5v1_1_XL = _size(2048, 24, 32, 5120, **_V1_1)
T5v1_1_XXL = _size(4096, 24, 64, 10240, **_V1_1)
