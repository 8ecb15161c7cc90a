"""SimMIM: an encoder learns by guessing the pixels of patches that it sees as one token.

Paper: Z. Xie, Z. Zhang, Y. Cao, Y. Lin, J. Bao, Z. Yao, Q. Dai, H. Hu, "SimMIM: A Simple
Framework for Masked Image Modeling", 2021, https://arxiv.org/abs/2111.09886. The encoder
reads every position, hidden ones too, and one linear layer makes pixels of its outputs.

Deviation: the published ViT has a relative position bias; here the backbone's positions
are whatever the given ViT has.
"""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from layers.dense import Dense
from vision.layers.patches import PatchSize, sides


@flax.struct.dataclass
class PixelPrediction:
    """What `SimMIM` returns.

    Args:
        prediction: float [B, T, P * P * C]; the pixels of every patch, as `patchify` orders
            them, guessed for visible patches too.
        mask: bool [B, T]; True where the patch was hidden.
    """

    prediction: jax.Array
    mask: jax.Array


class SimMIM(nn.Module):
    """A learned token in place of hidden patches, the backbone, a linear head to pixels.

    Parameters: `backbone`, `mask_token` [1, 1, D], `head` (kernel [D, P * P * C]).

    Args:
        backbone: what is to be learned: a ViT, or a module with its `patch_size`,
            `embed(image, train=, patch_fn=)`, `encode(tokens, train=)` (the last T tokens
            are the patches) and `represent(image, train=)`.
        dtype: of the head's computation; None takes its input's.
        param_dtype: of the parameters.
    """

    backbone: nn.Module
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @property
    def patch_size(self) -> PatchSize:
        """P, or (height, width), of the backbone."""
        return self.backbone.patch_size

    @nn.compact
    def __call__(
        self, image: jax.Array, mask: jax.Array, *, train: bool = False
    ) -> PixelPrediction:
        """The pixels of every patch.

        Args:
            image: float [B, H, W, C], normalised.
            mask: bool [B, T]; True hides the patch, of which nothing is seen then.
            train: whether the backbone drops.

        Raises:
            ValueError: a mask of another shape or dtype.
        """

        def hide(patches: jax.Array) -> jax.Array:
            """[B, T, D] -> [B, T, D]: one learned vector wherever the mask says so."""
            B, T, D = patches.shape
            if mask.shape != (B, T) or mask.dtype != jnp.bool_:
                raise ValueError(
                    f"mask is {mask.dtype} of shape {mask.shape}; it must be bool "
                    f"{(B, T)}, one value per patch, True where it is hidden"
                )
            token = self.param(
                "mask_token", nn.initializers.normal(0.02), (1, 1, D), self.param_dtype
            )
            return jnp.where(mask[..., None], token.astype(patches.dtype), patches)

        tokens = self.backbone.embed(image, train=train, patch_fn=hide)
        encoded = self.backbone.encode(tokens, train=train)[:, -mask.shape[1] :]
        height, width = sides(self.patch_size)
        prediction = Dense(
            height * width * image.shape[-1],
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="head",
        )(encoded)
        return PixelPrediction(prediction, mask)

    def represent(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """The backbone's vector per image, nothing hidden: [B, D]."""
        return self.backbone.represent(image, train=train)
