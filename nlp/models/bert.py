"""BERT: a Transformer encoder that fills in hidden tokens; RoBERTa and ALBERT are fields of it.

Papers: J. Devlin, M.-W. Chang, K. Lee, K. Toutanova, "BERT: Pre-training of Deep
Bidirectional Transformers for Language Understanding", 2018,
https://arxiv.org/abs/1810.04805; Y. Liu et al., "RoBERTa: A Robustly Optimized BERT
Pretraining Approach", 2019, https://arxiv.org/abs/1907.11692; Z. Lan, M. Chen, S. Goodman,
K. Gimpel, P. Sharma, R. Soricut, "ALBERT: A Lite BERT for Self-supervised Learning of
Language Representations", 2019, https://arxiv.org/abs/1909.11942.

Deviation: ALBERT's head for the order of sentences is BERT's for the next one.
"""

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers.dense import Dense
from layers.masks import padding_mask
from layers.transformer import Encoder
from nlp.layers.embeddings import SummedEmbeddings
from nlp.layers.masked_head import MaskedHead
from nlp.layers.sentence_pooling import mean_token

POOLINGS = ("pooler", "token", "mean")
POSITIONS = ("place", "real")


class BERTOutput(NamedTuple):
    """What BERT says of B rows of tokens.

    Args:
        hidden: [B, T, D], the encoder's result.
        logits: float32 [B, T or P, V], of the token at each place.
        pooled: [B, D], of the pooler; None without.
        next_logits: float32 [B, 2], class 0 for a second part that follows the first; None
            without.
    """

    hidden: jax.Array
    logits: jax.Array
    pooled: jax.Array | None
    next_logits: jax.Array | None


class BERT(nn.Module):
    """Summed embeddings, post-norm Transformer encoder, heads.

    Parameters: `embeddings`, `encoder`, `masked_head`, `pooler`, `next_head`.

    Args:
        vocab_size: V.
        max_length: longest sequence.
        embed_dim: D.
        num_layers: L.
        num_heads: N.
        mlp_dim: F; None for 4 D.
        token_dim: E, of the embeddings; None for D. ALBERT's are narrower.
        shared: all layers are one (ALBERT).
        positions: 'place', or 'real': of a token, how many real ones stand before it
            (RoBERTa, whose table also has `pad_id` + 1 rows for none of them).
        num_types: kinds of token; 0 for none.
        pooling: of `represent`: 'pooler' (a tanh layer of the first token's vector), 'token'
            (that vector) or 'mean' (of the real tokens').
        next_sentence: whether to ask if the second part follows; needs the pooler.
        pad_id: the token that marks padding, where the batch does not say.
        activation: in the MLPs and the head, a name of `layers.activations`.
        norm_epsilon: of every norm.
        dropout_rate: of embeddings and of every branch's output.
        attention_dropout_rate: of attention weights; None for `dropout_rate`.
        attention_implementation: of `layers.attention.dot_product_attention`.
        scan: one compiled block for all layers; parameters are stacked under `blocks`.
        remat: 'none', 'block' or 'dots'; what the backward pass computes again.
        dtype: of the computation; None for the parameters'. Logits are float32 always.
        param_dtype: of the parameters.
    """

    vocab_size: int = 30522
    max_length: int = 512
    embed_dim: int = 768
    num_layers: int = 12
    num_heads: int = 12
    mlp_dim: int | None = None
    token_dim: int | None = None
    shared: bool = False
    positions: str = "place"
    num_types: int = 2
    pooling: str = "pooler"
    next_sentence: bool = True
    pad_id: int = 0
    activation: str = "gelu"
    norm_epsilon: float = 1e-12
    dropout_rate: float = 0.0
    attention_dropout_rate: float | None = None
    attention_implementation: str | None = None
    scan: bool = False
    remat: str = "none"
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self):
        for name, known in (("pooling", POOLINGS), ("positions", POSITIONS)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; known: {', '.join(known)}"
                )
        if self.next_sentence and self.pooling != "pooler":
            raise ValueError(
                f"next_sentence reads the pooler and pooling is {self.pooling!r}; set "
                "pooling='pooler' or next_sentence=False"
            )
        init = nn.initializers.truncated_normal(0.02)
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        options = {"init": init, "norm_epsilon": self.norm_epsilon, **dtypes}
        token_dim = self.token_dim or self.embed_dim
        self.embeddings = SummedEmbeddings(
            self.vocab_size,
            token_dim,
            out_dim=self.embed_dim,
            max_length=self.max_length,
            position_offset=self.pad_id + 1 if self.positions == "real" else 0,
            num_types=self.num_types,
            dropout_rate=self.dropout_rate,
            **options,
        )
        attention_rate = self.attention_dropout_rate
        self.encoder = Encoder(
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            mlp_dim=4 * self.embed_dim if self.mlp_dim is None else self.mlp_dim,
            activation=self.activation,
            pre_norm=False,
            final_norm=False,
            shared=self.shared,
            norm_epsilon=self.norm_epsilon,
            dropout_rate=self.dropout_rate,
            mlp_dropout_rate=0.0,
            attention_dropout_rate=(
                self.dropout_rate if attention_rate is None else attention_rate
            ),
            implementation=self.attention_implementation,
            kernel_init=init,
            scan=self.scan,
            remat=self.remat,
            **dtypes,
        )
        self.masked_head = MaskedHead(
            self.vocab_size, token_dim, activation=self.activation, **options
        )
        if self.pooling == "pooler":
            self.pooler = Dense(self.embed_dim, kernel_init=init, **dtypes)
        if self.next_sentence:
            self.next_head = Dense(2, kernel_init=init, **dtypes)

    def embed(
        self,
        tokens: jax.Array,
        types: jax.Array | None = None,
        valid: jax.Array | None = None,
        *,
        train: bool = False,
    ) -> jax.Array:
        """What the encoder reads: [B, T, D]; arguments as for `__call__`."""
        positions = None
        if self.positions == "real":
            valid = self._valid(tokens, valid)
            positions = jnp.where(valid, jnp.cumsum(valid, axis=1), 0) - 1
        return self.embeddings(tokens, types, positions, train=train)

    def hidden(
        self,
        tokens: jax.Array,
        types: jax.Array | None = None,
        valid: jax.Array | None = None,
        *,
        train: bool = False,
        return_intermediates: bool = False,
    ) -> Any:
        """The encoder's result: [B, T, D]; arguments as for `__call__`.

        With `return_intermediates` also a tuple of every block's output.
        """
        return self.encoder(
            self.embed(tokens, types, valid, train=train),
            mask=padding_mask(self._valid(tokens, valid)),
            train=train,
            return_intermediates=return_intermediates,
        )

    def pool(self, hidden: jax.Array, valid: jax.Array) -> jax.Array:
        """[B, T, D] and bool [B, T] to one vector per row: [B, D]."""
        if self.pooling == "mean":
            return mean_token(hidden, valid)
        first = hidden[:, 0]
        return jnp.tanh(self.pooler(first)) if self.pooling == "pooler" else first

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
        return self.pool(hidden, self._valid(tokens, valid))

    def __call__(
        self,
        tokens: jax.Array,
        types: jax.Array | None = None,
        valid: jax.Array | None = None,
        positions: jax.Array | None = None,
        *,
        train: bool = False,
    ) -> BERTOutput:
        """Reads rows of tokens.

        Args:
            tokens: int32 [B, T].
            types: int32 [B, T], the kind of each token; None for 0.
            valid: bool [B, T], False for padding; None for tokens other than `pad_id`.
            positions: int32 [B, P], where to predict tokens; None for everywhere.
            train: whether to drop.

        Raises:
            ValueError: T is greater than `max_length`.
        """
        x = self.hidden(tokens, types, valid, train=train)
        logits = self.masked_head(x, self.embeddings.attend, positions)
        pooled = next_logits = None
        if self.pooling == "pooler":
            pooled = self.pool(x, self._valid(tokens, valid))
        if self.next_sentence:
            next_logits = self.next_head(pooled).astype(jnp.float32)
        return BERTOutput(x, logits, pooled, next_logits)

    def _valid(self, tokens: jax.Array, valid: jax.Array | None) -> jax.Array:
        return tokens != self.pad_id if valid is None else valid.astype(bool)


_large = {"embed_dim": 1024, "num_layers": 24, "num_heads": 16}
BERT_B = BERT
BERT_L = partial(BERT, **_large)

_RoBERTa = partial(
    BERT,
    vocab_size=50265,
    positions="real",
    num_types=1,
    pooling="token",
    next_sentence=False,
    pad_id=1,
    norm_epsilon=1e-5,
)
RoBERTa_B = _RoBERTa
RoBERTa_L = partial(_RoBERTa, **_large)

_ALBERT = partial(
    BERT, vocab_size=30000, token_dim=128, shared=True, activation="gelu_tanh"
)
ALBERT_B = _ALBERT
ALBERT_L = partial(_ALBERT, **_large)
ALBERT_XL = partial(_ALBERT, embed_dim=2048, num_layers=24, num_heads=16)
ALBERT_XXL = partial(_ALBERT, embed_dim=4096, num_layers=12, num_heads=64)
