"""Recurrent encoder-decoder, with or without attention to the encoder's states.

Papers: I. Sutskever, O. Vinyals, Q. Le, "Sequence to Sequence Learning with Neural
Networks", 2014, https://arxiv.org/abs/1409.3215; D. Bahdanau, K. Cho, Y. Bengio, "Neural
Machine Translation by Jointly Learning to Align and Translate", 2015,
https://arxiv.org/abs/1409.0473; M. Luong, H. Pham, C. Manning, "Effective Approaches to
Attention-based Neural Machine Translation", 2015, https://arxiv.org/abs/1508.04025.

Every kind of attention is used in Luong's way: the decoder steps, its new state reads the
encoder's, and both together make the readout. Bahdanau's decoder reads with the state before
the step and feeds what it read into the step, which leaves nothing to compute for all steps
at once; `input_feeding` is the nearest to it here.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers.activations import activation_function
from layers.alignment import Alignment, Memory
from layers.dense import Dense
from layers.recurrent import Recurrent, State

# State of the decoder: of its layers, and the last readout if that is fed.
Carry = tuple[tuple[State, ...], jax.Array | None]


class RNNSeq2Seq(nn.Module):
    """Embedding, recurrent encoder, recurrent decoder, attention, readout, head.

    The decoder starts from the encoder's final state. Without attention that is all it
    knows of the source. Parameters: `source_embedding`, `target_embedding` (or one
    `embedding`), `encoder`, `decoder`, `cross_attention`, `readout`, `head`
    (or `head_bias`).

    Args:
        vocab_size: V, of both languages.
        embed_dim: E.
        hidden_dim: H; of a bidirectional encoder half of it for each direction.
        num_layers: of the encoder and of the decoder.
        cell: 'gru', 'lstm' or 'tanh'.
        bidirectional: whether the encoder reads in both directions.
        attention: 'none' or a kind of `layers.alignment.Alignment`: 'additive', 'concat',
            'dot', 'general', 'scaled_dot', 'key_value', 'key_value_predict'.
        attention_dim: hidden width of the additive kinds; 0 for H.
        input_feeding: each step also reads the readout before it; costs a loop over all of
            the decoder's products in training.
        readout_dim: R, width of readout = activation(W [context; state]); 0 for H. Without
            attention the state is the readout.
        readout_activation: a name of `layers.activations`.
        readout_bias: whether that layer has one.
        share_embeddings: one table for source and target.
        tie_head: the head's kernel is the target's table; R must be E.
        dropout_rate: of embeddings, between layers, and of readouts.
        pad_id: padding of the source. Every target token counts as real: padding after the
            end changes nothing before it.
        dtype: of the products; states, softmaxes and logits are float32 always.
    """

    vocab_size: int
    embed_dim: int = 256
    hidden_dim: int = 512
    num_layers: int = 1
    cell: str = "gru"
    bidirectional: bool = True
    attention: str = "additive"
    attention_dim: int = 0
    input_feeding: bool = False
    readout_dim: int = 0
    readout_activation: str = "tanh"
    readout_bias: bool = False
    share_embeddings: bool = False
    tie_head: bool = False
    dropout_rate: float = 0.0
    pad_id: int = 0
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self):
        self._check()
        H, dtypes = (
            self.hidden_dim,
            {"dtype": self.dtype, "param_dtype": self.param_dtype},
        )

        def table() -> nn.Embed:
            init = nn.initializers.normal(self.embed_dim**-0.5)
            return nn.Embed(
                self.vocab_size, self.embed_dim, embedding_init=init, **dtypes
            )

        if self.share_embeddings:
            self.embedding = table()
        else:
            self.source_embedding, self.target_embedding = table(), table()
        layers = {
            "cell": self.cell,
            "num_layers": self.num_layers,
            "dropout_rate": self.dropout_rate,
            **dtypes,
        }
        width = H // 2 if self.bidirectional else H
        self.encoder = Recurrent(
            hidden_dim=width, bidirectional=self.bidirectional, **layers
        )
        self.decoder = Recurrent(hidden_dim=H, **layers)
        if self.attention != "none":
            self.cross_attention = Alignment(
                self.attention,
                attention_dim=self.attention_dim or H,
                memory_dim=H,
                **dtypes,
            )
            self.readout = Dense(self._readout, use_bias=self.readout_bias, **dtypes)
        if self.tie_head:
            self.head_bias = self.param(
                "head_bias", nn.initializers.zeros, (self.vocab_size,), self.param_dtype
            )
        else:
            self.head = Dense(self.vocab_size, **dtypes)
        self.dropout = nn.Dropout(self.dropout_rate)

    @property
    def _readout(self) -> int:
        return self.readout_dim or self.hidden_dim

    def _check(self) -> None:
        """Raises ValueError for fields that do not go together."""
        if self.bidirectional and self.hidden_dim % 2:
            raise ValueError(
                f"hidden_dim={self.hidden_dim} cannot be halved for two directions; make it "
                "even"
            )
        if self.attention == "none" and self._readout != self.hidden_dim:
            raise ValueError(
                f"readout_dim={self.readout_dim} without attention; leave it 0, or choose "
                "an attention"
            )
        if self.tie_head and self._readout != self.embed_dim:
            raise ValueError(
                f"tie_head with a readout of {self._readout} and embed_dim={self.embed_dim}; "
                f"set readout_dim={self.embed_dim}"
            )

    def encode(
        self, source: jax.Array, *, train: bool = False
    ) -> tuple[jax.Array, tuple[State, ...]]:
        """Hidden states [B, S, H], zeros on padding, and the final state of every layer.

        Args:
            source: int32 [B, S]; may be padding alone.
        """
        table = self.embedding if self.share_embeddings else self.source_embedding
        embedded = self.dropout(table(source), deterministic=not train)
        return self.encoder(embedded, mask=source != self.pad_id, train=train)

    def decode(
        self,
        target: jax.Array,
        carry: Carry,
        memory: Memory | None,
        *,
        train: bool = False,
    ) -> tuple[jax.Array, Carry]:
        """Readouts [B, T, R] of the target's tokens [B, T], and the carry after them.

        Args:
            target: int32 [B, T], all real.
            carry: from `_start`, or of the tokens before.
            memory: of the source; None without attention.
        """
        table = self.embedding if self.share_embeddings else self.target_embedding
        embedded = self.dropout(table(target), deterministic=not train)
        if not self.input_feeding:
            readout, weights, carry = self._read(embedded, carry, memory, train)
        else:

            def step(model, carry, x):
                readout, weights, carry = model._read(x[:, None], carry, memory, train)
                return carry, (
                    readout[:, 0],
                    None if weights is None else weights[:, 0],
                )

            scan = nn.scan(
                step,
                variable_broadcast="params",
                split_rngs={"params": False, "dropout": True},
                in_axes=1,
                out_axes=1,
            )
            carry, (readout, weights) = scan(self, carry, embedded)
        if weights is not None:
            self.cross_attention.record(weights)
        return readout, carry

    def _read(
        self, embedded: jax.Array, carry: Carry, memory: Memory | None, train: bool
    ) -> tuple[jax.Array, jax.Array | None, Carry]:
        """Readouts, weights [B, T, S] or None, and carry; fed readouts need T = 1."""
        state, feed = carry
        if feed is not None:
            embedded = jnp.concatenate([embedded, feed[:, None]], axis=-1)
        hidden, state = self.decoder(embedded, state=state, train=train)
        readout, weights = hidden, None
        if memory is not None:
            context, weights = self.cross_attention(hidden, memory)
            joined = jnp.concatenate(
                [context, self.cross_attention.predicting(hidden)], axis=-1
            )
            readout = activation_function(self.readout_activation)(self.readout(joined))
        readout = self.dropout(readout, deterministic=not train)
        return readout, weights, (state, None if feed is None else readout[:, -1])

    def _logits(self, readout: jax.Array) -> jax.Array:
        """float32 [..., V] of readouts [..., R]."""
        if not self.tie_head:
            return self.head(readout).astype(jnp.float32)
        table = self.embedding if self.share_embeddings else self.target_embedding
        return (table.attend(readout) + self.head_bias).astype(jnp.float32)

    def _start(self, source: jax.Array, train: bool) -> tuple[Carry, Memory | None]:
        """What the decoder starts from."""
        states, final = self.encode(source, train=train)
        memory, feed = None, None
        if self.attention != "none":
            memory = self.cross_attention.prepare(states, source != self.pad_id)
        if self.input_feeding:
            feed = jnp.zeros((len(source), self._readout), states.dtype)
        return (final, feed), memory

    def __call__(
        self, source: jax.Array, target: jax.Array, *, train: bool = False
    ) -> jax.Array:
        """Logits of the token after each of the target's (teacher forcing).

        Args:
            source: int32 [B, S], padded with `pad_id`.
            target: int32 [B, T], the decoder's input: begins with bos.
            train: whether to drop.

        Returns:
            float32 [B, T, V].
        """
        carry, memory = self._start(source, train)
        return self._logits(self.decode(target, carry, memory, train=train)[0])

    def begin(
        self, source: jax.Array, prompt: jax.Array, *, cache_length: int | None = None
    ) -> jax.Array:
        """Starts decoding: logits float32 [B, V] of the token after the prompt.

        The state goes to the collection 'cache' (make it mutable), batch first.

        Args:
            source: int32 [B, S].
            prompt: int32 [B, P], all real: bos, and perhaps more.
            cache_length: not needed; a recurrence remembers any length in its state.
        """
        del cache_length
        carry, memory = self._start(source, train=False)
        readout, carry = self.decode(prompt, carry, memory)
        self.put_variable("cache", "memory", memory)
        self.put_variable("cache", "carry", carry)
        return self._logits(readout[:, -1])

    def step(self, tokens: jax.Array) -> jax.Array:
        """Logits float32 [B, V] of the token after `tokens`, int32 [B]; `begin` first."""
        memory = self.get_variable("cache", "memory")
        carry = self.get_variable("cache", "carry")
        readout, carry = self.decode(tokens[:, None], carry, memory)
        self.put_variable("cache", "carry", carry)
        return self._logits(readout[:, 0])
