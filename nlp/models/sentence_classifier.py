"""A class for a sentence: a linear layer on any encoder's vector of it.

As BERT is fine-tuned: J. Devlin, M.-W. Chang, K. Lee, K. Toutanova, "BERT: Pre-training of
Deep Bidirectional Transformers for Language Understanding", 2018,
https://arxiv.org/abs/1810.04805.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers.dense import Dense


class SentenceClassifier(nn.Module):
    """What `backbone.represent` says, dropout, linear head.

    Parameters: `backbone`, of which only those `represent` uses, and `head`.

    Args:
        backbone: a Linen module with `represent(tokens, types, valid) -> [B, D]`; BERT,
            Electra, BigBird.
        num_classes: K.
        dropout_rate: of the vector.
        dtype: of the head; None for that of input and parameters together.
        param_dtype: of the head's parameters.
    """

    backbone: nn.Module
    num_classes: int
    dropout_rate: float = 0.1
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self):
        self.dropout = nn.Dropout(self.dropout_rate)
        self.head = Dense(
            self.num_classes,
            kernel_init=nn.initializers.truncated_normal(0.02),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )

    def represent(
        self, tokens: jax.Array, types: jax.Array | None = None, *, train: bool = False
    ) -> jax.Array:
        """The backbone's vector per row: [B, D]."""
        return self.backbone.represent(tokens, types, train=train)

    def __call__(
        self, tokens: jax.Array, types: jax.Array | None = None, *, train: bool = False
    ) -> jax.Array:
        """Logits of the classes, float32 [B, K].

        Args:
            tokens: int32 [B, T], padded with the backbone's `pad_id`.
            types: int32 [B, T], the kind of each token; None for 0.
            train: whether to drop.
        """
        x = self.represent(tokens, types, train=train)
        return self.head(self.dropout(x, deterministic=not train)).astype(jnp.float32)
