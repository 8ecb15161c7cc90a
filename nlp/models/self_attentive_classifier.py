"""Sentence classifier with structured self-attention: several weighted sums of LSTM states.

Paper: Z. Lin, M. Feng, C. Nogueira dos Santos, M. Yu, B. Xiang, B. Zhou, Y. Bengio, "A
Structured Self-attentive Sentence Embedding", 2017, https://arxiv.org/abs/1703.03130.

Dimensions: B batch, T time, U LSTM states of one direction, A hidden width of the
attention, R hops, K classes.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers.alignment import masked_softmax
from layers.dense import Dense
from layers.recurrent import Recurrent


class SelfAttentiveOutput(NamedTuple):
    """What the classifier says of B sentences.

    Args:
        logits: float32 [B, K].
        weights: float32 [B, R, T]; of each hop they sum to one over real tokens.
        penalty: float32 [B]; ||A A^T - I||^2 (Frobenius) of the weights A, which a task adds
            to its loss so that hops look at different words.
    """

    logits: jax.Array
    weights: jax.Array
    penalty: jax.Array


class SelfAttentiveClassifier(nn.Module):
    """Embedding, bidirectional LSTM, A = softmax(W2 tanh(W1 H^T)), M = A H, two dense layers.

    Parameters: `embedding`, `encoder`, `attention_hidden` (W1), `attention_hops` (W2),
    `hidden`, `head`. Neither W1 nor W2 has a bias, as in the paper.

    Args:
        num_classes: K.
        vocab_size: V.
        embed_dim: E.
        hidden_dim: U, of one direction.
        num_layers: of the LSTM.
        cell: 'lstm', as in the paper, or 'gru' or 'tanh'.
        attention_dim: A.
        num_hops: R.
        mlp_dim: width of the ReLU layer before the head; 0 leaves it out.
        dropout_rate: of embeddings, between layers, of the sentence and of the ReLU layer.
        pad_id: padding, which changes nothing. A sentence of padding alone reads zeros.
        dtype: of the products; softmax, penalty and logits are float32 always.
    """

    num_classes: int
    vocab_size: int
    embed_dim: int = 100
    hidden_dim: int = 300
    num_layers: int = 1
    cell: str = "lstm"
    attention_dim: int = 350
    num_hops: int = 30
    mlp_dim: int = 2000
    dropout_rate: float = 0.0
    pad_id: int = 0
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self):
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.embedding = nn.Embed(
            self.vocab_size,
            self.embed_dim,
            embedding_init=nn.initializers.normal(self.embed_dim**-0.5),
            **dtypes,
        )
        self.encoder = Recurrent(
            self.cell,
            self.hidden_dim,
            num_layers=self.num_layers,
            bidirectional=True,
            dropout_rate=self.dropout_rate,
            **dtypes,
        )
        self.attention_hidden = Dense(self.attention_dim, use_bias=False, **dtypes)
        self.attention_hops = Dense(self.num_hops, use_bias=False, **dtypes)
        if self.mlp_dim:
            self.hidden = Dense(self.mlp_dim, **dtypes)
        self.head = Dense(self.num_classes, **dtypes)
        self.dropout = nn.Dropout(self.dropout_rate)

    def attend(
        self, tokens: jax.Array, *, train: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """The sentence matrix M [B, R, 2 * U] and the weights A, float32 [B, R, T]."""
        real = tokens != self.pad_id
        embedded = self.dropout(self.embedding(tokens), deterministic=not train)
        states, _ = self.encoder(embedded, mask=real, train=train)
        scores = self.attention_hops(jnp.tanh(self.attention_hidden(states)))
        weights = masked_softmax(scores.swapaxes(1, 2), real[:, None])
        matrix = jnp.einsum("BRT,BTU->BRU", weights.astype(states.dtype), states)
        return matrix, weights

    def represent(self, tokens: jax.Array, *, train: bool = False) -> jax.Array:
        """One vector per sentence, M flattened: int32 [B, T] -> [B, R * 2 * U]."""
        matrix, _ = self.attend(tokens, train=train)
        return matrix.reshape(len(tokens), -1)

    def __call__(
        self, tokens: jax.Array, *, train: bool = False
    ) -> SelfAttentiveOutput:
        """Classifies sentences.

        Args:
            tokens: int32 [B, T], padded with `pad_id`.
            train: whether to drop.
        """
        matrix, weights = self.attend(tokens, train=train)
        x = self.dropout(matrix.reshape(len(tokens), -1), deterministic=not train)
        if self.mlp_dim:
            x = self.dropout(jax.nn.relu(self.hidden(x)), deterministic=not train)
        overlap = jnp.einsum("BRT,BQT->BRQ", weights, weights)
        penalty = jnp.square(overlap - jnp.eye(self.num_hops)).sum((1, 2))
        return SelfAttentiveOutput(self.head(x).astype(jnp.float32), weights, penalty)
