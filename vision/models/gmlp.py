"""gMLP: patches mixed by a gate whose values come from all other positions.

Paper: H. Liu, Z. Dai, D. So, Q. Le, "Pay Attention to MLPs", 2021,
https://arxiv.org/abs/2105.08050.

Deviations, those of timm: the gate's norm has an epsilon of its own, 1e-5, and the gate's
kernel starts at 1e-6 times a normal draw ("near zero" in the paper).
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers.activations import activation_function
from layers.dense import Dense
from layers.drop_path import DropPath
from layers.normalization import LayerNorm
from vision.layers.patches import PatchEmbedding, PatchSize

GATE_EPSILON = 1e-5


class GMlp(nn.Module):
    """Patch embedding, gated blocks, norm, global average, linear head.

    The number of positions is a width of the gates, so the image size is part of the
    parameters. Submodules: `patch_embedding`, `block_<i>`, `norm`, `head`.

    Args:
        num_classes: K; 0 leaves the head out.
        patch_size: P, or (height, width); must divide the image's.
        embed_dim: D; channels of a token.
        num_layers: blocks.
        mlp_dim: F; width of a block before it is split into two halves; even.
        drop_path_rate: of the last block; the first has 0, between them it grows linearly.
        activation: in the blocks, a name of `layers.activations`.
        norm_epsilon: of every LayerNorm but those of the gates.
        dtype: of the computation; None takes the input's.
        param_dtype: of the parameters.
    """

    num_classes: int
    patch_size: PatchSize = 16
    embed_dim: int = 256
    num_layers: int = 30
    mlp_dim: int = 1536
    drop_path_rate: float = 0.0
    activation: str = "gelu"
    norm_epsilon: float = 1e-6
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self):
        if self.mlp_dim % 2:
            raise ValueError(
                f"mlp_dim is {self.mlp_dim}; it must be even: one half gates the other"
            )
        if self.num_classes:
            self.head = Dense(
                self.num_classes,
                kernel_init=nn.initializers.zeros,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
            )

    @nn.compact
    def features(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """Normalised tokens: [B, H, W, C] -> [B, (H / P) * (W / P), D]."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = PatchEmbedding(
            self.patch_size, self.embed_dim, name="patch_embedding", **dtypes
        )(image)
        x = x.reshape(len(x), -1, self.embed_dim)
        for i in range(self.num_layers):
            x = GMlpBlock(
                mlp_dim=self.mlp_dim,
                activation=self.activation,
                norm_epsilon=self.norm_epsilon,
                drop_path_rate=self.drop_path_rate * i / max(self.num_layers - 1, 1),
                name=f"block_{i}",
                **dtypes,
            )(x, train=train)
        return LayerNorm(epsilon=self.norm_epsilon, name="norm", **dtypes)(x)

    def represent(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """One vector per image, what the head sees: [B, D]."""
        return self.features(image, train=train).mean(1)

    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits [B, K] of normalised images, float [B, H, W, C]."""
        x = self.represent(image, train=train)
        return self.head(x) if self.num_classes else x


class GMlpBlock(nn.Module):
    """Norm, `up`, activation, one half times the `gate` of the other, `down`; a shortcut."""

    mlp_dim: int
    activation: str
    norm_epsilon: float
    drop_path_rate: float
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Tokens [B, T, D] -> [B, T, D]."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        y = LayerNorm(epsilon=self.norm_epsilon, name="norm", **dtypes)(x)
        y = Dense(self.mlp_dim, name="up", **dtypes)(y)
        kept, gate = jnp.split(activation_function(self.activation)(y), 2, axis=-1)
        gate = LayerNorm(epsilon=GATE_EPSILON, name="gate_norm", **dtypes)(gate)
        # Kernel near 0 and bias 1: every position starts open, and by itself.
        gate = Dense(
            x.shape[1],
            kernel_init=nn.initializers.normal(1e-6),
            bias_init=nn.initializers.ones,
            name="gate",
            **dtypes,
        )(gate.swapaxes(1, 2))
        y = Dense(x.shape[-1], name="down", **dtypes)(kept * gate.swapaxes(1, 2))
        return x + DropPath(self.drop_path_rate, name="drop_path")(y, train=train)


# The paper's stochastic depth: none, 0.05 and 0.2.
GMlp_Ti16 = partial(GMlp, embed_dim=128, mlp_dim=768)
GMlp_S16 = partial(GMlp, embed_dim=256, mlp_dim=1536, drop_path_rate=0.05)
GMlp_B16 = partial(GMlp, embed_dim=512, mlp_dim=3072, drop_path_rate=0.2)
