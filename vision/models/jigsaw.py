"""Context-free network: every tile is seen alone, only their order is judged together.

Paper: M. Noroozi, P. Favaro, "Unsupervised Learning of Visual Representations by Solving
Jigsaw Puzzles", 2016, https://arxiv.org/abs/1603.09246.

Deviations: the shared network is any backbone, not AlexNet; layers of the head have
the widths asked for, 512 and 4096 by default as in the paper.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers.activations import Activation, activation_function
from layers.dense import Dense
from layers.mlp import Mlp


class ContextFreeNetwork(nn.Module):
    """One shared backbone for all tiles, their features side by side, an MLP.

    A tile's features do not depend on the other tiles, so that they have to hold what
    the tile shows and not where its edges continue. Submodules: `backbone`,
    `tile_projection`, `head` (`up`, `down`).

    Args:
        backbone: a module with `represent(image, train=)` -> [B, D], parameters under
            `backbone`.
        num_permutations: K, how many orders there are to choose from.
        tile_dim: width of a layer on each tile's features before they are joined; 0 for
            none.
        hidden_dim: of the MLP's hidden layer, on all tiles together.
        activation: after both.
        dropout_rate: after the hidden layer.
        dtype: of the head's computation; None takes the input's.
        param_dtype: of the head's parameters.
    """

    backbone: nn.Module
    num_permutations: int
    tile_dim: int = 512
    hidden_dim: int = 4096
    activation: Activation | str = "relu"
    dropout_rate: float = 0.0
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self):
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        if self.tile_dim:
            self.tile_projection = Dense(self.tile_dim, **dtypes)
        self.head = Mlp(
            mlp_dim=self.hidden_dim,
            out_dim=self.num_permutations,
            activation=self.activation,
            dropout_rate=self.dropout_rate,
            **dtypes,
        )

    def tile_features(self, tiles: jax.Array, *, train: bool = False) -> jax.Array:
        """Each tile by itself: float [B, N, h, w, C] -> [B, N, D or tile_dim]."""
        B, N = tiles.shape[:2]
        x = self.backbone.represent(tiles.reshape(B * N, *tiles.shape[2:]), train=train)
        if self.tile_dim:
            x = activation_function(self.activation)(self.tile_projection(x))
        return x.reshape(B, N, -1)

    def represent(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """The backbone's vector of a whole image: float [B, H, W, C] -> [B, D].

        The backbone has been trained at the size of a tile. Convolutions with global
        pooling take any size, and so does a ViT with sin-cos positions (any multiple of
        its patch size); learned positions or an MLP-Mixer fit tiles only.
        """
        return self.backbone.represent(image, train=train)

    def __call__(self, tiles: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits [B, K] of the order of normalised tiles, float [B, N, h, w, C]."""
        x = self.tile_features(tiles, train=train)
        return self.head(x.reshape(len(x), -1), train=train)
