"""Masked autoencoder: a ViT sees a quarter of the patches, a narrow decoder guesses the rest.

Paper: K. He, X. Chen, S. Xie, Y. Li, P. Dollar, R. Girshick, "Masked Autoencoders Are
Scalable Vision Learners", 2021, https://arxiv.org/abs/2111.06377. The saving is that the
encoder never computes what is hidden: patches are gathered, not masked.

Deviations from the authors' code: the backbone keeps the initial values of our `ViT`; the
fixed sin-cos tables are no parameters.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers.dense import Dense
from layers.positions import sincos_2d
from layers.transformer import Encoder
from vision.layers.patches import sides
from vision.ops.masking import num_kept, permute, shuffling


class MAEOutput(NamedTuple):
    """What the decoder says of T patches.

    Args:
        prediction: float [B, T, P * P * C]; as `vision.layers.patches.patchify` lays out.
        mask: bool [B, T]; True = was hidden from the encoder.
        restore: int32 [B, T]; the place of each patch in the shuffled sequence.
    """

    prediction: jax.Array
    mask: jax.Array
    restore: jax.Array


class MAE(nn.Module):
    """Shuffle, keep the first patches, encode; fill with mask tokens, unshuffle, decode.

    A class token is carried through both and never masked. Parameters: `backbone` (those
    of a ViT), `decoder_embedding`, `mask_token`, `decoder`, `prediction`.

    Args:
        backbone: a ViT with `embed`, `encode`, `patch_size` and `num_prefix`; the paper's
            has positions 'sincos2d_mae'.
        mask_ratio: share of the patches to hide; int(T * (1 - mask_ratio)) stay visible.
        decoder_embed_dim, decoder_num_layers, decoder_num_heads, decoder_mlp_dim: of the
            decoder.
        activation: in the decoder's MLPs, a name of `layers.activations`.
        norm_epsilon: of the decoder's LayerNorms; 1e-12 in Hugging Face's ViTMAE.
        attention_implementation: in the decoder, see
            `layers.attention.dot_product_attention`; the backbone has its own.
        scan, remat: of the decoder, see `layers.transformer.Encoder`.
        dtype: of the decoder's computation; None takes the input's.
        param_dtype: of its parameters.
    """

    backbone: nn.Module
    mask_ratio: float = 0.75
    decoder_embed_dim: int = 512
    decoder_num_layers: int = 8
    decoder_num_heads: int = 16
    decoder_mlp_dim: int = 2048
    activation: str = "gelu"
    norm_epsilon: float = 1e-6
    attention_implementation: str | None = None
    scan: bool = False
    remat: str = "none"
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def __post_init__(self):
        if not 0 < self.mask_ratio < 1:
            raise ValueError(
                f"mask_ratio is {self.mask_ratio}; it must lie between 0 and 1 (0.75)"
            )
        super().__post_init__()

    def encode(
        self, image: jax.Array, noise: jax.Array, *, train: bool = False
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """Latents of the visible patches, and the (order, restore) that chose them.

        Args:
            image: float [B, H, W, C].
            noise: float [B, T]; the patches of the lowest values stay visible.

        Returns:
            [B, prefix + kept, D], (int32 [B, T], int32 [B, T]).
        """
        tokens = self.backbone.embed(image, train=train)
        prefix = self.backbone.num_prefix
        kept = num_kept(tokens.shape[1] - prefix, self.mask_ratio)
        if noise.shape != (len(tokens), tokens.shape[1] - prefix):
            raise ValueError(
                f"noise of shape {noise.shape} for {tokens.shape[1] - prefix} patches of "
                f"{len(tokens)} images"
            )
        order, restore = shuffling(noise)
        visible = permute(tokens[:, prefix:], order, restore)[:, :kept]
        tokens = jnp.concatenate([tokens[:, :prefix], visible], axis=1)
        return self.backbone.encode(tokens, train=train), (order, restore)

    @nn.compact
    def decode(
        self,
        latents: jax.Array,
        orders: tuple[jax.Array, jax.Array],
        shape: tuple[int, ...],
        *,
        train: bool = False,
    ) -> jax.Array:
        """Pixels of every patch: [B, prefix + kept, D] -> [B, T, P * P * C].

        Args:
            latents, orders: from `encode`.
            shape: of the images, (B, H, W, C).
        """
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        order, restore = orders
        B, T = restore.shape
        D, prefix = self.decoder_embed_dim, self.backbone.num_prefix
        height, width = sides(self.backbone.patch_size)
        x = Dense(
            D,
            kernel_init=nn.initializers.xavier_uniform(),
            name="decoder_embedding",
            **dtypes,
        )(latents)
        token = self.param(
            "mask_token", nn.initializers.normal(0.02), (1, 1, D), self.param_dtype
        )
        hidden = T + prefix - x.shape[1]
        masked = jnp.broadcast_to(token.astype(x.dtype), (B, hidden, D))
        patches = jnp.concatenate([x[:, prefix:], masked], axis=1)
        patches = permute(patches, restore, order)
        grid = shape[1] // height, shape[2] // width
        patches = patches + jnp.asarray(sincos_2d(*grid, D), x.dtype)
        x = Encoder(
            num_layers=self.decoder_num_layers,
            num_heads=self.decoder_num_heads,
            mlp_dim=self.decoder_mlp_dim,
            activation=self.activation,
            norm_epsilon=self.norm_epsilon,
            implementation=self.attention_implementation,
            scan=self.scan,
            remat=self.remat,
            name="decoder",
            **dtypes,
        )(jnp.concatenate([x[:, :prefix], patches], axis=1), train=train)
        return Dense(
            height * width * shape[3],
            kernel_init=nn.initializers.xavier_uniform(),
            name="prediction",
            **dtypes,
        )(x[:, prefix:])

    def features(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """The backbone's tokens of the whole image: [B, T, D]."""
        return self.backbone.features(image, train=train)

    def represent(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """The backbone's vector of the whole image: [B, D]."""
        return self.backbone.represent(image, train=train)

    def __call__(
        self, image: jax.Array, noise: jax.Array, *, train: bool = False
    ) -> MAEOutput:
        """Guesses of all patches of normalised images.

        Args:
            image: float [B, H, W, C].
            noise: float [B, T], uniform random numbers that shuffle the patches.

        Raises:
            ValueError: `mask_ratio` hides no patch, or all; noise of another shape.
        """
        latents, orders = self.encode(image, noise, train=train)
        prediction = self.decode(latents, orders, image.shape, train=train)
        kept = latents.shape[1] - self.backbone.num_prefix
        return MAEOutput(prediction, orders[1] >= kept, orders[1])
