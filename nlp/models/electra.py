"""ELECTRA: a small generator puts tokens in, and a discriminator finds them.

Paper: K. Clark, M.-T. Luong, Q. V. Le, C. D. Manning, "ELECTRA: Pre-training Text Encoders
as Discriminators Rather Than Generators", 2020, https://arxiv.org/abs/2003.10555.

Deviation: the number that decides each draw comes with the batch, see `Electra.__call__`.
"""

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from layers.activations import activation_function
from layers.dense import Dense
from layers.masks import padding_mask
from layers.transformer import Encoder
from nlp.layers.embeddings import SummedEmbeddings
from nlp.layers.masked_head import MaskedHead
from nlp.layers.sentence_pooling import mean_token

POOLINGS = ("token", "mean")


class ElectraOutput(NamedTuple):
    """What both halves say of B rows of tokens.

    Args:
        generator_logits: float32 [B, T, V], of the token at each place.
        corrupted: int32 [B, T], what the discriminator read.
        logits: float32 [B, T], positive where it takes a token for a replaced one.
        hidden: [B, T, D], of the discriminator's encoder.
    """

    generator_logits: jax.Array
    corrupted: jax.Array
    logits: jax.Array
    hidden: jax.Array


class Electra(nn.Module):
    """Two post-norm encoders on the same embeddings.

    Each half works by itself: `generate` and `discriminate` use, and `init` with such a
    `method` makes, its own parameters and the embeddings only. Published files hold one
    half each.

    Parameters: `embeddings`; `generator_projection`, `generator`, `generator_head`;
    `discriminator_projection`, `discriminator`, `discriminator_dense`,
    `discriminator_head`. There are no projections where widths agree.

    Args:
        vocab_size: V.
        max_length: longest sequence.
        token_dim: E, of the embeddings.
        embed_dim: D, of the discriminator.
        num_layers: L, of both.
        num_heads: N, of the discriminator.
        mlp_dim: F, of the discriminator; None for 4 D.
        generator_dim: D of the generator.
        generator_heads: N of the generator.
        generator_mlp_dim: F of the generator; None for 4 of its D.
        num_types: kinds of token; 0 for none.
        pooling: of `represent`: 'token' (the first one's vector) or 'mean' (of the real
            tokens').
        pad_id: the token that marks padding, where the batch does not say.
        activation: in MLPs and heads, a name of `layers.activations`.
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
    token_dim: int = 128
    embed_dim: int = 256
    num_layers: int = 12
    num_heads: int = 4
    mlp_dim: int | None = None
    generator_dim: int = 256
    generator_heads: int = 4
    generator_mlp_dim: int | None = None
    num_types: int = 2
    pooling: str = "token"
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
        if self.pooling not in POOLINGS:
            raise ValueError(
                f"pooling is {self.pooling!r}; known: {', '.join(POOLINGS)}"
            )
        init = nn.initializers.truncated_normal(0.02)
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        options = {"init": init, "norm_epsilon": self.norm_epsilon, **dtypes}
        dense = partial(Dense, kernel_init=init, **dtypes)
        self.embeddings = SummedEmbeddings(
            self.vocab_size,
            self.token_dim,
            max_length=self.max_length,
            num_types=self.num_types,
            dropout_rate=self.dropout_rate,
            **options,
        )
        if self.generator_dim != self.token_dim:
            self.generator_projection = dense(self.generator_dim)
        self.generator = self._encoder(
            self.generator_dim, self.generator_heads, self.generator_mlp_dim
        )
        self.generator_head = MaskedHead(
            self.vocab_size, self.token_dim, activation=self.activation, **options
        )
        if self.embed_dim != self.token_dim:
            self.discriminator_projection = dense(self.embed_dim)
        self.discriminator = self._encoder(self.embed_dim, self.num_heads, self.mlp_dim)
        self.discriminator_dense = dense(self.embed_dim)
        self.discriminator_head = dense(1)

    def _encoder(self, embed_dim: int, num_heads: int, mlp_dim: int | None) -> Encoder:
        attention_rate = self.attention_dropout_rate
        return Encoder(
            num_layers=self.num_layers,
            num_heads=num_heads,
            mlp_dim=4 * embed_dim if mlp_dim is None else mlp_dim,
            activation=self.activation,
            pre_norm=False,
            final_norm=False,
            norm_epsilon=self.norm_epsilon,
            dropout_rate=self.dropout_rate,
            mlp_dropout_rate=0.0,
            attention_dropout_rate=(
                self.dropout_rate if attention_rate is None else attention_rate
            ),
            implementation=self.attention_implementation,
            kernel_init=nn.initializers.truncated_normal(0.02),
            scan=self.scan,
            remat=self.remat,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )

    def generate(
        self,
        tokens: jax.Array,
        types: jax.Array | None = None,
        valid: jax.Array | None = None,
        *,
        train: bool = False,
    ) -> jax.Array:
        """The generator's logits of the token at each place, float32 [B, T, V].

        Args:
            tokens: int32 [B, T], some of them masks.
            types: int32 [B, T], the kind of each token; None for 0.
            valid: bool [B, T], False for padding; None for tokens other than `pad_id`.
            train: whether to drop.
        """
        x = self.embeddings(tokens, types, train=train)
        if self.generator_dim != self.token_dim:
            x = self.generator_projection(x)
        mask = padding_mask(self._valid(tokens, valid))
        x = self.generator(x, mask=mask, train=train)
        return self.generator_head(x, self.embeddings.attend)

    def hidden(
        self,
        tokens: jax.Array,
        types: jax.Array | None = None,
        valid: jax.Array | None = None,
        *,
        train: bool = False,
    ) -> jax.Array:
        """The discriminator's vectors: [B, T, D]; arguments as for `generate`."""
        x = self.embeddings(tokens, types, train=train)
        if self.embed_dim != self.token_dim:
            x = self.discriminator_projection(x)
        mask = padding_mask(self._valid(tokens, valid))
        return self.discriminator(x, mask=mask, train=train)

    def discriminate(
        self,
        tokens: jax.Array,
        types: jax.Array | None = None,
        valid: jax.Array | None = None,
        *,
        train: bool = False,
    ) -> tuple[jax.Array, jax.Array]:
        """(logits float32 [B, T], hidden [B, T, D]); arguments as for `generate`."""
        hidden = self.hidden(tokens, types, valid, train=train)
        x = activation_function(self.activation)(self.discriminator_dense(hidden))
        return self.discriminator_head(x)[..., 0].astype(jnp.float32), hidden

    def represent(
        self,
        tokens: jax.Array,
        types: jax.Array | None = None,
        valid: jax.Array | None = None,
        *,
        train: bool = False,
    ) -> jax.Array:
        """One vector per row, of the discriminator: [B, D]."""
        hidden = self.hidden(tokens, types, valid, train=train)
        if self.pooling == "mean":
            return mean_token(hidden, self._valid(tokens, valid))
        return hidden[:, 0]

    def __call__(
        self,
        tokens: jax.Array,
        masked: jax.Array,
        selected: jax.Array,
        uniform: jax.Array,
        types: jax.Array | None = None,
        valid: jax.Array | None = None,
        *,
        train: bool = False,
    ) -> ElectraOutput:
        """Both halves, the second on what the first put in.

        Args:
            tokens: int32 [B, T], the truth.
            masked: int32 [B, T], the same with masks.
            selected: bool [B, T], where the generator's draws take the tokens' place.
            uniform: float32 [B, T] in [0, 1): the draw is the first token at which the
                generator's cumulative probability exceeds it. No gradient passes.
            types: int32 [B, T], the kind of each token; None for 0.
            valid: bool [B, T], False for padding; None for tokens other than `pad_id`.
            train: whether to drop.
        """
        valid = self._valid(tokens, valid)
        logits = self.generate(masked, types, valid, train=train)
        drawn = draw(lax.stop_gradient(logits), uniform)
        corrupted = jnp.where(selected, drawn, tokens)
        found, hidden = self.discriminate(corrupted, types, valid, train=train)
        return ElectraOutput(logits, corrupted, found, hidden)

    def _valid(self, tokens: jax.Array, valid: jax.Array | None) -> jax.Array:
        return tokens != self.pad_id if valid is None else valid.astype(bool)


def draw(logits: jax.Array, uniform: jax.Array) -> jax.Array:
    """The first token at which the cumulative probability exceeds a number.

    Args:
        logits: float32 [..., V].
        uniform: float32 [...] in [0, 1).

    Returns:
        int32 [...].
    """
    cumulative = jnp.cumsum(jax.nn.softmax(logits), axis=-1)
    # The sum may round to less than 1, and then to less than the number.
    reached = cumulative > uniform[..., None] * cumulative[..., -1:]
    return jnp.argmax(reached, axis=-1).astype(jnp.int32)


ELECTRA_S = partial(Electra, generator_dim=64, generator_heads=1)
ELECTRA_B = partial(
    Electra,
    token_dim=768,
    embed_dim=768,
    num_heads=12,
    generator_dim=256,
    generator_heads=4,
)
ELECTRA_L = partial(
    Electra,
    token_dim=1024,
    embed_dim=1024,
    num_layers=24,
    num_heads=16,
    generator_dim=256,
    generator_heads=4,
)
