"""MLP-Mixer: patches mixed by an MLP across positions, then by one across channels.

Paper: I. Tolstikhin, N. Houlsby, A. Kolesnikov, L. Beyer et al., "MLP-Mixer: An all-MLP
Architecture for Vision", 2021, https://arxiv.org/abs/2105.01601.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers.dense import Dense
from layers.drop_path import DropPath
from layers.mlp import Mlp
from layers.normalization import LayerNorm
from layers.transformer import rematerialize
from vision.layers.patches import PatchEmbedding, PatchSize


class MlpMixer(nn.Module):
    """Patch embedding, mixer blocks, norm, global average, linear head.

    The number of positions is a width of the token MLPs, so the image size is part of the
    parameters. Submodules: `patch_embedding`, `block_<i>`, `norm`, `head`.

    Args:
        num_classes: K; 0 leaves the head out.
        patch_size: P, or (height, width); must divide the image's.
        embed_dim: D; channels of a token.
        num_layers: blocks.
        token_mlp_dim: hidden width across positions, the paper's D_S.
        channel_mlp_dim: hidden width across channels, D_C.
        dropout_rate: inside the MLPs.
        drop_path_rate: of the last block; the first has 0, between them it grows linearly.
        activation: in the MLPs, a name of `layers.activations`: 'gelu' in timm's weights,
            'gelu_tanh' in Google's.
        norm_epsilon: of every LayerNorm.
        scan: one compiled block for all layers; parameters are stacked under `blocks`.
        remat: 'none', 'block' or 'dots'; what the backward pass computes again.
        dtype: of the computation; None takes the input's.
        param_dtype: of the parameters.
    """

    num_classes: int
    patch_size: PatchSize = 16
    embed_dim: int = 768
    num_layers: int = 12
    token_mlp_dim: int = 384
    channel_mlp_dim: int = 3072
    dropout_rate: float = 0.0
    drop_path_rate: float = 0.0
    activation: str = "gelu"
    norm_epsilon: float = 1e-6
    scan: bool = False
    remat: str = "none"
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
        """Normalised tokens: [B, H, W, C] -> [B, (H / P) * (W / P), D]."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = PatchEmbedding(
            self.patch_size, self.embed_dim, name="patch_embedding", **dtypes
        )(image)
        x = x.reshape(len(x), -1, self.embed_dim)
        block = partial(
            MixerBlock,
            token_mlp_dim=self.token_mlp_dim,
            channel_mlp_dim=self.channel_mlp_dim,
            dropout_rate=self.dropout_rate,
            activation=self.activation,
            norm_epsilon=self.norm_epsilon,
            **dtypes,
        )

        def rate_of(layer: Any) -> Any:
            return self.drop_path_rate * layer / max(self.num_layers - 1, 1)

        def apply(block: MixerBlock, x: jax.Array, rate: Any) -> jax.Array:
            return block(x, drop_path_rate=rate, train=train)

        apply = rematerialize(apply, self.remat, scan=self.scan)
        if self.scan:

            def body(block: MixerBlock, x: jax.Array, layer: jax.Array):
                rate = rate_of(layer) if self.drop_path_rate else None
                return apply(block, x, rate), None

            scan = nn.scan(
                body,
                variable_axes={"params": 0},
                split_rngs={"params": True, "dropout": True},
                length=self.num_layers,
            )
            layers = jnp.arange(self.num_layers, dtype=jnp.float32)
            x, _ = scan(block(name="blocks"), x, layers)
        else:
            for i in range(self.num_layers):
                x = apply(block(drop_path_rate=rate_of(i), name=f"block_{i}"), x, None)
        return LayerNorm(epsilon=self.norm_epsilon, name="norm", **dtypes)(x)

    def represent(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """One vector per image, what the head sees: [B, D]."""
        return self.features(image, train=train).mean(1)

    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits [B, K] of normalised images, float [B, H, W, C]."""
        x = self.represent(image, train=train)
        return self.head(x) if self.num_classes else x


class MixerBlock(nn.Module):
    """Norm and MLP across positions, norm and MLP across channels, each with a shortcut."""

    token_mlp_dim: int
    channel_mlp_dim: int
    dropout_rate: float
    activation: str
    norm_epsilon: float
    dtype: Any
    param_dtype: Any
    drop_path_rate: float = 0.0

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        *,
        drop_path_rate: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """Tokens [B, T, D] -> [B, T, D]; a `drop_path_rate`, float [], replaces the field."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm = partial(LayerNorm, epsilon=self.norm_epsilon, **dtypes)
        mlp = partial(
            Mlp,
            activation=self.activation,
            dropout_rate=self.dropout_rate,
            **dtypes,
        )

        def add(x: jax.Array, branch: jax.Array, name: str) -> jax.Array:
            drop_path = DropPath(self.drop_path_rate, name=name)
            return x + drop_path(branch, train=train, rate=drop_path_rate)

        y = norm(name="token_norm")(x).swapaxes(1, 2)
        y = mlp(self.token_mlp_dim, name="token_mixing")(y, train=train)
        x = add(x, y.swapaxes(1, 2), "token_drop_path")
        y = norm(name="channel_norm")(x)
        y = mlp(self.channel_mlp_dim, name="channel_mixing")(y, train=train)
        return add(x, y, "channel_drop_path")


_S = partial(
    MlpMixer, embed_dim=512, num_layers=8, token_mlp_dim=256, channel_mlp_dim=2048
)
_B = partial(
    MlpMixer, embed_dim=768, num_layers=12, token_mlp_dim=384, channel_mlp_dim=3072
)
_L = partial(
    MlpMixer, embed_dim=1024, num_layers=24, token_mlp_dim=512, channel_mlp_dim=4096
)
_H = partial(
    MlpMixer, embed_dim=1280, num_layers=32, token_mlp_dim=640, channel_mlp_dim=5120
)
MlpMixer_S16 = partial(_S, patch_size=16)
MlpMixer_S32 = partial(_S, patch_size=32)
MlpMixer_B16 = partial(_B, patch_size=16)
MlpMixer_B32 = partial(_B, patch_size=32)
MlpMixer_L16 = partial(_L, patch_size=16)
MlpMixer_L32 = partial(_L, patch_size=32)
MlpMixer_H14 = partial(_H, patch_size=14)
