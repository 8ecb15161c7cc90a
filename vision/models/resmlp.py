"""ResMLP: a linear layer across patches and an MLP across channels, without any norm.

Paper: H. Touvron, P. Bojanowski, M. Caron, M. Cord, A. El-Nouby et al., "ResMLP:
Feedforward networks for image classification with data-efficient training", 2021,
https://arxiv.org/abs/2105.03404. An affine map per channel stands where other networks
normalise.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from layers.dense import Dense
from layers.drop_path import DropPath
from layers.mlp import Mlp
from vision.layers.patches import PatchEmbedding, PatchSize


class ResMlp(nn.Module):
    """Patch embedding, blocks, affine map, global average, linear head.

    The number of positions is the width of the layer across patches, so the image size is
    part of the parameters. Submodules: `patch_embedding`, `block_<i>`, `affine`, `head`.

    Args:
        num_classes: K; 0 leaves the head out.
        patch_size: P, or (height, width); must divide the image's.
        embed_dim: D; channels of a token.
        num_layers: blocks.
        mlp_dim: hidden width across channels.
        layer_scale: initial factor of every branch, learned per channel; the deeper the
            network, the smaller.
        drop_path_rate: of every block.
        activation: in the MLPs, a name of `layers.activations`.
        dtype: of the computation; None takes the input's.
        param_dtype: of the parameters.
    """

    num_classes: int
    patch_size: PatchSize = 16
    embed_dim: int = 384
    num_layers: int = 12
    mlp_dim: int = 1536
    layer_scale: float = 0.1
    drop_path_rate: float = 0.0
    activation: str = "gelu"
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self):
        if self.num_classes:
            self.head = Dense(
                self.num_classes,
                kernel_init=nn.initializers.zeros,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
            )

    @nn.compact
    def features(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """Tokens after the last affine map: [B, H, W, C] -> [B, (H / P) * (W / P), D]."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = PatchEmbedding(
            self.patch_size, self.embed_dim, name="patch_embedding", **dtypes
        )(image)
        x = x.reshape(len(x), -1, self.embed_dim)
        for i in range(self.num_layers):
            x = ResMlpBlock(
                mlp_dim=self.mlp_dim,
                layer_scale=self.layer_scale,
                activation=self.activation,
                drop_path_rate=self.drop_path_rate,
                name=f"block_{i}",
                **dtypes,
            )(x, train=train)
        return Affine(name="affine", **dtypes)(x)

    def represent(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """One vector per image, what the head sees: [B, D]."""
        return self.features(image, train=train).mean(1)

    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits [B, K] of normalised images, float [B, H, W, C]."""
        x = self.represent(image, train=train)
        return self.head(x) if self.num_classes else x


class ResMlpBlock(nn.Module):
    """A linear layer across patches, then an MLP across channels, each between an affine
    map and a scale, and with a shortcut."""

    mlp_dim: int
    layer_scale: float
    activation: str
    drop_path_rate: float
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Tokens [B, T, D] -> [B, T, D]."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}

        def add(x: jax.Array, branch: jax.Array, name: str) -> jax.Array:
            init = nn.initializers.constant(self.layer_scale)
            scale = self.param(f"{name}_scale", init, x.shape[-1:], self.param_dtype)
            branch = branch * scale.astype(branch.dtype)
            drop_path = DropPath(self.drop_path_rate, name=f"{name}_drop_path")
            return x + drop_path(branch, train=train)

        y = Affine(name="token_affine", **dtypes)(x).swapaxes(1, 2)
        y = Dense(x.shape[1], name="token_mixing", **dtypes)(y)
        x = add(x, y.swapaxes(1, 2), "token")
        y = Affine(name="channel_affine", **dtypes)(x)
        mlp = Mlp(
            self.mlp_dim, activation=self.activation, name="channel_mixing", **dtypes
        )
        return add(x, mlp(y, train=train), "channel")


class Affine(nn.Module):
    """x * scale + bias, per channel: a norm's parameters without its statistics.

    Parameters: `scale`, `bias` [1, 1, D], as published files have them.
    """

    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Tokens [B, T, D] -> [B, T, D]."""
        shape = (1, 1, x.shape[-1])
        scale = self.param("scale", nn.initializers.ones, shape, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, shape, self.param_dtype)
        x, scale, bias = promote_dtype(x, scale, bias, dtype=self.dtype)
        return x * scale + bias


_S = partial(ResMlp, embed_dim=384, mlp_dim=1536, patch_size=16)
ResMlp_S12 = partial(_S, num_layers=12, layer_scale=0.1)
ResMlp_S24 = partial(_S, num_layers=24, layer_scale=1e-5)
ResMlp_S36 = partial(_S, num_layers=36, layer_scale=1e-6)
ResMlp_B24 = partial(
    ResMlp,
    embed_dim=768,
    mlp_dim=3072,
    patch_size=8,
    num_layers=24,
    layer_scale=1e-6,
)
