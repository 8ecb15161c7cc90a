"""GPT: a causal Transformer that predicts each token from those before it.

Papers: A. Radford, J. Wu, R. Child, D. Luan, D. Amodei, I. Sutskever, "Language Models are
Unsupervised Multitask Learners" (GPT-2), 2019,
https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf;
its later options, rotary positions, RMS norms, gated MLPs and fewer key heads, are those of
H. Touvron et al., "LLaMA: Open and Efficient Foundation Language Models", 2023,
https://arxiv.org/abs/2302.13971.
"""

import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers.dense import Dense
from layers.masks import segment_mask, segment_positions
from layers.positions import LearnedPositions, alibi_bias, sincos_1d
from layers.transformer import Encoder
from nlp.layers.embeddings import TokenEmbedding
from nlp.layers.encoder_decoder import cache_length_of, check_prompt
from nlp.layers.sentence_pooling import last_token, mean_token

POSITIONS = ("learned", "rotary", "alibi", "sincos")
POOLINGS = {"mean": mean_token, "last": last_token}


class GPT(nn.Module):
    """Embeddings, pre-norm causal Transformer, logits by the embedding table itself.

    Parameters: `token_embedding`, `position_embedding` (learned positions), `encoder`, and
    `head` if it is not tied.

    Decoding: `begin` reads a prompt, `step` one more token each; the state lies in the
    collection "cache".

    Args:
        vocab_size: V.
        max_length: longest sequence.
        embed_dim: D.
        num_layers: L.
        num_heads: N.
        mlp_dim: F; None for 4 D.
        head_dim: H; None for D / N.
        num_kv_heads: heads of keys and values; None for N.
        positions: 'learned', 'rotary', 'alibi' or 'sincos'.
        rotary_base: the longest wavelength of 'rotary', over 2 pi, would be this.
        activation: in the MLPs, a name of `layers.activations`.
        gated: whether the MLPs are (`layers.mlp.Mlp`).
        norm: 'layer' or 'rms'.
        norm_epsilon: of every norm.
        use_bias: in projections and MLPs.
        tie_embeddings: the head is the embedding table; else a matrix of its own.
        pooling: of `represent`, 'mean' over the real tokens, or the 'last' of them, which
            alone has seen all.
        dropout_rate: of embeddings and of every branch's output.
        attention_dropout_rate: of attention weights; None for `dropout_rate`.
        attention_implementation: of `layers.attention.dot_product_attention`.
        scan: one compiled block for all layers; parameters are stacked under `blocks`.
        remat: 'none', 'block' or 'dots'; what the backward pass computes again.
        dtype: of the computation; None for the parameters'. Logits are float32 always.
        param_dtype: of the parameters.
    """

    vocab_size: int
    max_length: int = 1024
    embed_dim: int = 768
    num_layers: int = 12
    num_heads: int = 12
    mlp_dim: int | None = None
    head_dim: int | None = None
    num_kv_heads: int | None = None
    positions: str = "learned"
    rotary_base: float = 1e4
    activation: str = "gelu_tanh"
    gated: bool = False
    norm: str = "layer"
    norm_epsilon: float = 1e-5
    use_bias: bool = True
    tie_embeddings: bool = True
    pooling: str = "mean"
    dropout_rate: float = 0.0
    attention_dropout_rate: float | None = None
    attention_implementation: str | None = None
    scan: bool = False
    remat: str = "none"
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self):
        for name, known in (("positions", POSITIONS), ("pooling", POOLINGS)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; known: {', '.join(known)}"
                )
        init = nn.initializers.normal(0.02)
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.token_embedding = TokenEmbedding(
            self.vocab_size, self.embed_dim, init=init, **dtypes
        )
        if self.positions == "learned":
            self.position_embedding = LearnedPositions(
                self.max_length, init=init, param_dtype=self.param_dtype
            )
        attention_rate = self.attention_dropout_rate
        if attention_rate is None:
            attention_rate = self.dropout_rate
        self.encoder = Encoder(
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            mlp_dim=4 * self.embed_dim if self.mlp_dim is None else self.mlp_dim,
            head_dim=self.head_dim,
            num_kv_heads=self.num_kv_heads,
            activation=self.activation,
            gated=self.gated,
            norm=self.norm,
            causal=True,
            rotary_base=self.rotary_base if self.positions == "rotary" else None,
            use_bias=self.use_bias,
            dropout_rate=self.dropout_rate,
            mlp_dropout_rate=0.0,
            attention_dropout_rate=attention_rate,
            norm_epsilon=self.norm_epsilon,
            implementation=self.attention_implementation,
            kernel_init=init,
            # So that the sum of 2 L branches does not grow with L.
            out_init=nn.initializers.normal(0.02 / math.sqrt(2 * self.num_layers)),
            scan=self.scan,
            remat=self.remat,
            **dtypes,
        )
        if not self.tie_embeddings:
            self.head = Dense(
                self.vocab_size, use_bias=False, kernel_init=init, **dtypes
            )
        self.dropout = nn.Dropout(self.dropout_rate)

    def embed(
        self,
        tokens: jax.Array,
        positions: jax.Array | None = None,
        *,
        train: bool = False,
    ) -> jax.Array:
        """Vectors of tokens, with their positions if these are added.

        Args:
            tokens: int32 [B, T].
            positions: int32 [T] or [B, T]; None for 0 to T - 1.
            train: whether to drop.

        Returns:
            [B, T, D].
        """
        x = self.token_embedding(tokens)
        if self.positions == "learned":
            x = self.position_embedding(x, positions)
        elif self.positions == "sincos":
            table = jnp.asarray(sincos_1d(self.max_length, self.embed_dim), x.dtype)
            x = x + (table[: x.shape[1]] if positions is None else table[positions])
        return self.dropout(x, deterministic=not train)

    def hidden(
        self,
        tokens: jax.Array,
        segments: jax.Array | None = None,
        *,
        train: bool = False,
        return_intermediates: bool = False,
    ) -> Any:
        """What the head sees: [B, T, D]; arguments as for `__call__`.

        With `return_intermediates` also a tuple of every block's output, not normalised.
        """
        self._check_length(tokens.shape[1])
        positions = mask = None
        if segments is not None:
            positions, mask = segment_positions(segments), segment_mask(segments)
        return self.encoder(
            self.embed(tokens, positions, train=train),
            mask=mask,
            bias=self._bias(jnp.arange(tokens.shape[1]), tokens.shape[1]),
            positions=positions,
            train=train,
            return_intermediates=return_intermediates,
        )

    def __call__(
        self,
        tokens: jax.Array,
        segments: jax.Array | None = None,
        *,
        train: bool = False,
    ) -> jax.Array:
        """Logits of each next token, float32 [B, T, V].

        Args:
            tokens: int32 [B, T].
            segments: int32 [B, T], which documents packed into a row the tokens belong to,
                0 for padding: none sees another's, and positions start again in each. None
                for one document a row.
            train: whether to drop.

        Raises:
            ValueError: T is greater than `max_length`.
        """
        return self._logits(self.hidden(tokens, segments, train=train))

    def represent(
        self,
        tokens: jax.Array,
        segments: jax.Array | None = None,
        *,
        train: bool = False,
    ) -> jax.Array:
        """One vector per row, of its tokens outside segment 0 (zeros if there are none):
        float32 [B, D], pooled as `pooling` says."""
        x = self.hidden(tokens, segments, train=train)
        real = jnp.ones(tokens.shape, bool) if segments is None else segments != 0
        return POOLINGS[self.pooling](x, real)

    def begin(self, prompt: jax.Array, *, cache_length: int) -> jax.Array:
        """Starts decoding: logits of the token after the prompt.

        The state goes to the collection 'cache' (make it mutable).

        Args:
            prompt: int32 [B, P], all real, of P tokens in every row.
            cache_length: tokens there is room for, the prompt included. A step beyond it
                is not noticed.

        Returns:
            float32 [B, V].

        Raises:
            ValueError: the prompt is empty or longer than `cache_length`, or that is
                greater than `max_length`.
        """
        length = prompt.shape[1]
        self._check_length(cache_length)
        check_prompt(length, cache_length)
        return self._read(prompt, jnp.zeros((), jnp.int32), cache_length)

    def step(self, tokens: jax.Array) -> jax.Array:
        """Logits float32 [B, V] of the token after `tokens`, int32 [B]; `begin` first."""
        index = self.get_variable("cache", "index")
        return self._read(tokens[:, None], index, cache_length_of(self.encoder))

    def _read(
        self, tokens: jax.Array, index: jax.Array, cache_length: int
    ) -> jax.Array:
        """Logits after tokens [B, T] that stand at `index` and behind."""
        positions = index + jnp.arange(tokens.shape[1], dtype=jnp.int32)
        x = self.encoder(
            self.embed(tokens, positions),
            bias=self._bias(positions, cache_length),
            positions=positions,
            cache_length=cache_length,
        )
        self.put_variable("cache", "index", index + tokens.shape[1])
        return self._logits(x[:, -1])

    def _bias(self, positions: jax.Array, num_keys: int) -> jax.Array | None:
        """Of attention, float32 [1, N, T, S], for keys at 0 to S - 1."""
        if self.positions != "alibi":
            return None
        return alibi_bias(self.num_heads, positions, jnp.arange(num_keys))

    def _logits(self, x: jax.Array) -> jax.Array:
        """[..., D] -> float32 [..., V]."""
        if self.tie_embeddings:
            return self.token_embedding.attend(x)
        return self.head(x).astype(jnp.float32)

    def _check_length(self, length: int) -> None:
        if length > self.max_length:
            raise ValueError(
                f"sequence of {length} is longer than max_length={self.max_length}"
            )


GPT2_S = partial(GPT, vocab_size=50257, embed_dim=768, num_layers=12, num_heads=12)
GPT2_M = partial(GPT, vocab_size=50257, embed_dim=1024, num_layers=24, num_heads=16)
GPT2_L = partial(GPT, vocab_size=50257, embed_dim=1280, num_layers=36, num_heads=20)
GPT2_XL = partial(GPT, vocab_size=50257, embed_dim=1600, num_layers=48, num_heads=25)
