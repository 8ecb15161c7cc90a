"""Vision Transformer: an image is a sequence of patches, read by a Transformer encoder.

In a hybrid, the patches are of a convolutional network's map, the field `stem`: one pixel
each, as a rule.

Papers: A. Dosovitskiy, L. Beyer, A. Kolesnikov, D. Weissenborn, X. Zhai et al., "An Image is
Worth 16x16 Words: Transformers for Image Recognition at Scale", 2020,
https://arxiv.org/abs/2010.11929; average pooling and sin-cos positions from L. Beyer,
X. Zhai, A. Kolesnikov, "Better plain ViT baselines for ImageNet-1k", 2022,
https://arxiv.org/abs/2205.01580; sizes g and G and attention pooling from X. Zhai,
A. Kolesnikov, N. Houlsby, L. Beyer, "Scaling Vision Transformers", 2021,
https://arxiv.org/abs/2106.04560; sizes Ti and S from H. Touvron et al., "Training
data-efficient image transformers & distillation through attention", 2020,
https://arxiv.org/abs/2012.12877.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers.dense import Dense
from layers.positions import sincos_2d
from layers.transformer import Encoder
from vision.layers.patches import PatchEmbedding, PatchSize
from vision.layers.pooling import AttentionPool


class ViT(nn.Module):
    """Patch embedding, positions, Transformer encoder, pooling, linear head.

    `represent(image)` is `pool(encode(embed(image)))`; a model that works on part of the
    patches calls `embed`, keeps some tokens, and calls `encode`. Parameters: `stem`,
    `patch_embedding`, `class_token`, `position_embedding`, `encoder`, `attention_pool`,
    `representation`, `head`.

    Args:
        num_classes: K; 0 leaves the head out.
        patch_size: P, or (height, width); must divide the image's, or that of the stem's map.
        embed_dim: D.
        num_layers: blocks of the encoder.
        num_heads: N; must divide D.
        mlp_dim: F; hidden width of a block's MLP.
        pooling: 'token' (a class token, before the patches), 'average', 'attention', or
            'patch_average': of the patches alone, though there is a class token.
        positions: 'learned', 'none', or fixed and zero for the class token: 'sincos2d' as
            in "Better plain ViT baselines", 'sincos2d_mae' with MAE's frequencies.
        representation_dim: width of a tanh layer in front of the head; 0 for none.
        dropout_rate: of embeddings and of every block's outputs.
        attention_dropout_rate: of attention weights.
        drop_path_rate: of the last block; the first has 0, between them it grows linearly.
        stem: a network with `features(image, train=)`, whose map [B, h, w, C] is cut into
            patches instead of the image; None for none.
        layer_scale: initial factor of every branch, learned per channel; None for none.
        activation: in the MLPs, a name of `layers.activations`: 'gelu' in timm's and
            Hugging Face's weights, 'gelu_tanh' in Google's.
        norm_epsilon: of every LayerNorm; Hugging Face's ViTs have 1e-12.
        attention_implementation: of `layers.attention.dot_product_attention`.
        scan: one compiled block for all layers; parameters are stacked under `blocks`.
        remat: 'none', 'block' or 'dots'; what the backward pass computes again.
        dtype: of the computation; None takes the input's.
        param_dtype: of the parameters.
    """

    num_classes: int
    patch_size: PatchSize = 16
    embed_dim: int = 768
    num_layers: int = 12
    num_heads: int = 12
    mlp_dim: int = 3072
    pooling: str = "token"
    positions: str = "learned"
    representation_dim: int = 0
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    drop_path_rate: float = 0.0
    stem: nn.Module | None = None
    layer_scale: float | None = None
    activation: str = "gelu"
    norm_epsilon: float = 1e-6
    attention_implementation: str | None = None
    scan: bool = False
    remat: str = "none"
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self):
        for name, known in (
            ("pooling", ("token", "average", "attention", "patch_average")),
            ("positions", ("learned", "sincos2d", "sincos2d_mae", "none")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; known: {', '.join(known)}"
                )
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.encoder = Encoder(
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            mlp_dim=self.mlp_dim,
            activation=self.activation,
            dropout_rate=self.dropout_rate,
            attention_dropout_rate=self.attention_dropout_rate,
            drop_path_rate=self.drop_path_rate,
            layer_scale=self.layer_scale,
            norm_epsilon=self.norm_epsilon,
            implementation=self.attention_implementation,
            scan=self.scan,
            remat=self.remat,
            **dtypes,
        )
        if self.pooling == "attention":
            self.attention_pool = AttentionPool(
                num_heads=self.num_heads,
                mlp_dim=self.mlp_dim,
                activation=self.activation,
                norm_epsilon=self.norm_epsilon,
                **dtypes,
            )
        if self.representation_dim:
            self.representation = Dense(self.representation_dim, **dtypes)
        if self.num_classes:
            self.head = Dense(
                self.num_classes, kernel_init=nn.initializers.zeros, **dtypes
            )

    @property
    def num_prefix(self) -> int:
        """Tokens in front of the patches: 1 with a class token, else 0."""
        return int(self.pooling in ("token", "patch_average"))

    @nn.compact
    def embed(
        self,
        image: jax.Array,
        *,
        train: bool = False,
        patch_fn: Callable[[jax.Array], jax.Array] | None = None,
    ) -> jax.Array:
        """Tokens with positions: [B, H, W, C] -> [B, T, D], T = (H / P) * (W / P) patches
        row by row, after the class token if there is one.

        Args:
            image: float [B, H, W, C].
            train: whether to drop.
            patch_fn: changes the patches' vectors, [B, H / P * W / P, D], before they get
                their positions.

        Raises:
            ValueError: P does not divide H and W.
        """
        B, D = len(image), self.embed_dim
        if self.stem is not None:
            image = self.stem.features(image, train=train)
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = PatchEmbedding(self.patch_size, D, name="patch_embedding", **dtypes)(image)
        grid = x.shape[1:3]
        x = x.reshape(B, -1, D)
        if patch_fn is not None:
            x = patch_fn(x)
        if self.num_prefix:
            token = self.param(
                "class_token", nn.initializers.zeros, (1, 1, D), self.param_dtype
            )
            token = jnp.broadcast_to(token.astype(x.dtype), (B, 1, D))
            x = jnp.concatenate([token, x], axis=1)
        if self.positions == "learned":
            table = self.param(
                "position_embedding",
                nn.initializers.normal(0.02),
                (1, x.shape[1], D),
                self.param_dtype,
            )
            x = x + table.astype(x.dtype)
        elif self.positions != "none":
            reach_last = self.positions == "sincos2d"
            table = jnp.asarray(sincos_2d(*grid, D, reach_last=reach_last), x.dtype)
            x = x + jnp.pad(table, ((self.num_prefix, 0), (0, 0)))
        return nn.Dropout(self.dropout_rate, name="dropout")(x, deterministic=not train)

    def encode(
        self,
        tokens: jax.Array,
        *,
        train: bool = False,
        return_intermediates: bool = False,
    ) -> Any:
        """Normalised outputs of the encoder for any number of tokens: [B, T, D].

        With `return_intermediates` also a tuple of every block's output, not normalised.
        """
        return self.encoder(
            tokens, train=train, return_intermediates=return_intermediates
        )

    def pool(self, tokens: jax.Array, *, train: bool = False) -> jax.Array:
        """Encoded tokens [B, T, D] to one vector per image: [B, D]."""
        if self.pooling == "token":
            return tokens[:, 0]
        if self.pooling != "attention":
            first = self.num_prefix if self.pooling == "patch_average" else 0
            return tokens[:, first:].mean(1)
        return self.attention_pool(tokens, train=train)

    def features(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """Encoded tokens, the class token (if any) first: [B, H, W, C] -> [B, T, D]."""
        return self.encode(self.embed(image, train=train), train=train)

    def represent(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """One vector per image, what the head sees: [B, D] or [B, representation_dim]."""
        x = self.pool(self.features(image, train=train), train=train)
        return jnp.tanh(self.representation(x)) if self.representation_dim else x

    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits [B, K] of normalised images, float [B, H, W, C]."""
        x = self.represent(image, train=train)
        return self.head(x) if self.num_classes else x


_Ti = partial(ViT, embed_dim=192, num_layers=12, num_heads=3, mlp_dim=768)
_S = partial(ViT, embed_dim=384, num_layers=12, num_heads=6, mlp_dim=1536)
_B = partial(ViT, embed_dim=768, num_layers=12, num_heads=12, mlp_dim=3072)
_L = partial(ViT, embed_dim=1024, num_layers=24, num_heads=16, mlp_dim=4096)
_H = partial(ViT, embed_dim=1280, num_layers=32, num_heads=16, mlp_dim=5120)
_g = partial(ViT, embed_dim=1408, num_layers=40, num_heads=16, mlp_dim=6144)
_G = partial(ViT, embed_dim=1664, num_layers=48, num_heads=16, mlp_dim=8192)

# A hybrid's: R50+ViT-B/16 is ViT_B1 with `vision.models.bit.HybridStem50` as its stem.
ViT_S1 = partial(_S, patch_size=1)
ViT_B1 = partial(_B, patch_size=1)
ViT_L1 = partial(_L, patch_size=1)
ViT_Ti16 = partial(_Ti, patch_size=16)
ViT_S16 = partial(_S, patch_size=16)
ViT_S32 = partial(_S, patch_size=32)
ViT_B8 = partial(_B, patch_size=8)
ViT_B16 = partial(_B, patch_size=16)
ViT_B32 = partial(_B, patch_size=32)
ViT_L14 = partial(_L, patch_size=14)
ViT_L16 = partial(_L, patch_size=16)
ViT_L32 = partial(_L, patch_size=32)
ViT_H14 = partial(_H, patch_size=14)
ViT_g14 = partial(_g, patch_size=14)
ViT_G14 = partial(_G, patch_size=14)
