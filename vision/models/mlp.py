"""Perceptron and multilayer perceptron: an image as one long vector.

Papers: F. Rosenblatt, "The Perceptron: A Probabilistic Model for Information Storage and
Organization in the Brain", 1958, https://doi.org/10.1037/h0042519; D. Rumelhart,
G. Hinton, R. Williams, "Learning Representations by Back-Propagating Errors", 1986,
https://doi.org/10.1038/323533a0.

Deviations: the perceptron is trained through a smooth output, softmax over K classes or,
with K = 1, a sigmoid, both of which belong to the loss; Rosenblatt's has a step there and
a learning rule of its own.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers.activations import activation_function
from layers.dense import Dense


class MLP(nn.Module):
    """Dense layers, each followed by the activation, and a linear head.

    Every pixel has weights of its own, so the image's size is part of the parameters.
    Submodules: `dense_<i>`, `head`.

    Args:
        num_classes: K; 0 leaves the head out.
        hidden_dims: widths of the layers in front of the head; () is the perceptron.
        activation: a name of `layers.activations`. With 'identity' all layers together
            are one linear layer, however many there are.
        dropout_rate: after every layer but the head.
        dtype: of the computation; None takes the input's.
        param_dtype: of the parameters.
    """

    num_classes: int
    hidden_dims: tuple[int, ...] = (256, 128)
    activation: str = "relu"
    dropout_rate: float = 0.0
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self):
        if any(dim < 1 for dim in self.hidden_dims):
            raise ValueError(
                f"hidden_dims are {tuple(self.hidden_dims)}; every layer needs a unit"
            )
        if self.num_classes:
            self.head = Dense(
                self.num_classes, dtype=self.dtype, param_dtype=self.param_dtype
            )

    def features(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """`represent` as a sequence of one token: [B, 1, D]."""
        return self.represent(image, train=train)[:, None]

    @nn.compact
    def represent(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """The last hidden layer, or the pixels if there is none: [B, D]."""
        activation = activation_function(self.activation)
        x = image.reshape(len(image), -1)
        for i, dim in enumerate(self.hidden_dims):
            dense = Dense(
                dim,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                name=f"dense_{i}",
            )
            x = activation(dense(x))
            x = nn.Dropout(self.dropout_rate, name=f"dropout_{i}")(
                x, deterministic=not train
            )
        return x

    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits [B, K] of normalised images, float [B, H, W, C]."""
        x = self.represent(image, train=train)
        return self.head(x) if self.num_classes else x


Perceptron = partial(MLP, hidden_dims=())
