"""SimCLR: a backbone and a projection, in whose space two views of an image should meet.

Paper: T. Chen, S. Kornblith, M. Norouzi, G. Hinton, "A Simple Framework for Contrastive
Learning of Visual Representations", 2020, https://arxiv.org/abs/2002.05709.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers.activations import Activation, activation_function
from layers.dense import Dense
from layers.normalization import BatchNorm


class SimCLR(nn.Module):
    """Every view through the backbone and an MLP; the MLP is thrown away afterwards.

    Submodules: `backbone`, `projection_<i>`, `projection_norm_<i>`.

    Args:
        backbone: a module with `represent(image, train=)` -> [B, D], parameters under
            `backbone`.
        projection_dim: P, of the space of the loss.
        hidden_dim: of the projection's other layers; None takes D.
        num_layers: of the projection: 2 in the paper, 1 for a linear one.
        norm: 'batch' puts BatchNorm behind every layer, the last one's without a bias, as
            the authors' code does; over the views of the whole global batch, under jit
            over a mesh. 'none' leaves it out.
        activation: between the layers.
        dtype: of the projection's computation; None takes the input's.
        param_dtype: of the projection's parameters.
    """

    backbone: nn.Module
    projection_dim: int = 128
    hidden_dim: int | None = None
    num_layers: int = 2
    norm: str = "batch"
    activation: Activation | str = "relu"
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self):
        if self.norm not in ("batch", "none"):
            raise ValueError(f"norm is {self.norm!r}; known: batch, none")
        if self.num_layers < 1:
            raise ValueError(f"num_layers is {self.num_layers}; it must be at least 1")

    def represent(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """The backbone's vector, what is kept: float [B, H, W, C] -> [B, D]."""
        return self.backbone.represent(image, train=train)

    @nn.compact
    def project(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Representations into the space of the loss: [B, D] -> [B, P], not of length 1."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        batch_norm = self.norm == "batch"
        hidden_dim = self.hidden_dim or x.shape[-1]
        for i in range(self.num_layers):
            last = i == self.num_layers - 1
            width = self.projection_dim if last else hidden_dim
            # A bias in front of a BatchNorm would be subtracted again.
            x = Dense(width, use_bias=not batch_norm, name=f"projection_{i}", **dtypes)(
                x
            )
            if batch_norm:
                x = BatchNorm(
                    use_running_average=not train,
                    use_bias=not last,
                    name=f"projection_norm_{i}",
                    **dtypes,
                )(x)
            if not last:
                x = activation_function(self.activation)(x)
        return x

    def __call__(self, views: jax.Array, *, train: bool = False) -> jax.Array:
        """Projections [B, V, P] of normalised views, float [B, V, H, W, C]."""
        B, V = views.shape[:2]
        x = self.represent(views.reshape(B * V, *views.shape[2:]), train=train)
        return self.project(x, train=train).reshape(B, V, self.projection_dim)
