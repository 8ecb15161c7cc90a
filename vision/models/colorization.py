"""Colourisation: from the lightness of an image, a distribution over colours at each place.

Paper: R. Zhang, P. Isola, A. A. Efros, "Colorful Image Colorization", 2016,
https://arxiv.org/abs/1603.08511.

Deviations: any backbone stands in for the paper's VGG-like network, and one linear layer on
its features for the layers behind it; so the stride of the prediction is the backbone's
(4 in the paper).
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers.dense import Dense


class Colorization(nn.Module):
    """Lightness, repeated to the backbone's channels; its features; one linear layer.

    Parameters: `backbone`, `head` (kernel [D, Q]).

    Args:
        backbone: with `features`, a map [B, h, w, D] or tokens [B, T, D] of a square grid,
            perhaps after a class token, which is left out; and `represent`.
        num_bins: Q, colours to choose from.
        channels: of the images that the backbone sees, all alike. 3 fits a backbone that
            is to see colour later.
        dtype: of the head's computation; None takes the features'.
        param_dtype: of its parameters.
    """

    backbone: nn.Module
    num_bins: int = 313
    channels: int = 3
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def _grey(self, image: jax.Array) -> jax.Array:
        """[B, H, W, 1 or 3] -> [B, H, W, channels], all alike.

        Three channels are weighed as television does (ITU-R BT.601), a stand-in for the
        lightness where a task gives normalised RGB.
        """
        if image.shape[-1] == 3:
            weights = jnp.array([0.299, 0.587, 0.114], image.dtype)
            image = (image * weights).sum(-1, keepdims=True)
        elif image.shape[-1] != 1:
            raise ValueError(
                f"image has {image.shape[-1]} channels; give the lightness (1) or RGB (3)"
            )
        return jnp.repeat(image, self.channels, axis=-1)

    def features(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """The backbone's features of the grey image."""
        return self.backbone.features(self._grey(image), train=train)

    def represent(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """The backbone's vector of the grey image, [B, D].

        Args:
            image: float [B, H, W, 1] of normalised lightness, as in training, or
                [B, H, W, 3] of normalised RGB.
        """
        return self.backbone.represent(self._grey(image), train=train)

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits [B, h, w, Q] of normalised lightness, float [B, H, W, 1].

        Raises:
            ValueError: the backbone's tokens make no square grid; an image of neither 1
                nor 3 channels.
        """
        x = self.features(image, train=train)
        if x.ndim == 3:
            B, T, D = x.shape
            side = math.isqrt(T)
            if T not in (side**2, side**2 + 1):
                raise ValueError(
                    f"{T} tokens are no square grid, with or without a class token; use "
                    "square images"
                )
            x = x[:, T - side**2 :].reshape(B, side, side, D)
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        return Dense(self.num_bins, name="head", **dtypes)(x)
