"""ConvMixer: patches, then depthwise convolutions mix places and 1x1 ones channels.

Paper: A. Trockman, J. Z. Kolter, "Patches Are All You Need?", 2022,
https://arxiv.org/abs/2201.09792. Size and resolution are the same in every layer. Named
<embed_dim>_<num_layers>, as in the paper.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers.activations import Activation, activation_function
from layers.convolution import Conv
from layers.dense import Dense
from layers.normalization import BatchNorm
from vision.layers.padding import symmetric
from vision.layers.patches import PatchEmbedding


class ConvMixer(nn.Module):
    """Patch embedding, equal blocks, global average, linear head.

    Sizes that patches do not tile lose their last rows and columns, as in a convolution
    without padding. Submodules: `stem_conv`, `stem_norm`, `block_<i>`, `head`.

    Args:
        num_classes: K; 0 leaves the head out.
        embed_dim: D, channels of every layer.
        num_layers: blocks.
        kernel_size: of the depthwise convolutions; odd, so that they keep the size.
        patch_size: P, side of a patch in pixels.
        activation: before every norm; a function or a name of `layers.activations`.
        norm_momentum, norm_epsilon: of BatchNorm; momentum weighs the old statistics.
        dtype: of the computation; None takes the input's.
        param_dtype: of the parameters.
    """

    num_classes: int
    embed_dim: int = 1536
    num_layers: int = 20
    kernel_size: int = 9
    patch_size: int = 7
    activation: Activation | str = "gelu"
    norm_momentum: float = 0.9
    norm_epsilon: float = 1e-5
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self):
        if self.kernel_size % 2 == 0:
            raise ValueError(
                f"kernel_size is {self.kernel_size}; an even one shifts the map, choose "
                f"{self.kernel_size + 1}"
            )
        if self.num_classes:
            self.head = Dense(
                self.num_classes, dtype=self.dtype, param_dtype=self.param_dtype
            )

    @nn.compact
    def features(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """The last block's map: [B, H, W, C] -> [B, H / P, W / P, D]."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        act = activation_function(self.activation)
        norm = partial(
            BatchNorm,
            use_running_average=not train,
            momentum=self.norm_momentum,
            epsilon=self.norm_epsilon,
            **dtypes,
        )
        size = self.patch_size
        height, width = (side // size * size for side in image.shape[1:3])
        image = image[:, :height, :width]
        x = PatchEmbedding(size, self.embed_dim, name="stem_conv", **dtypes)(image)
        x = norm(name="stem_norm")(act(x))
        for i in range(self.num_layers):
            x = ConvMixerBlock(
                kernel_size=self.kernel_size,
                activation=self.activation,
                norm=norm,
                name=f"block_{i}",
                **dtypes,
            )(x)
        return x

    def represent(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """One vector per image, what the head sees: [B, D]."""
        return self.features(image, train=train).mean((1, 2))

    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits [B, K] of normalised images, float [B, H, W, C]."""
        x = self.represent(image, train=train)
        return self.head(x) if self.num_classes else x


class ConvMixerBlock(nn.Module):
    """Depthwise convolution beside a shortcut, then 1x1; each: activation, then norm.

    Submodules: `depthwise_conv`, `depthwise_norm`, `pointwise_conv`, `pointwise_norm`.
    """

    kernel_size: int
    activation: Activation | str
    norm: Any
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, D] -> [B, H, W, D]."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        act = activation_function(self.activation)
        channels = x.shape[-1]
        y = Conv(
            channels,
            kernel_size=(self.kernel_size, self.kernel_size),
            padding=symmetric(self.kernel_size),
            feature_group_count=channels,
            name="depthwise_conv",
            **dtypes,
        )(x)
        x = x + self.norm(name="depthwise_norm")(act(y))
        x = Conv(channels, kernel_size=(1, 1), name="pointwise_conv", **dtypes)(x)
        return self.norm(name="pointwise_norm")(act(x))


ConvMixer1536_20 = ConvMixer
ConvMixer1024_20 = partial(ConvMixer, embed_dim=1024, patch_size=14)
ConvMixer768_32 = partial(
    ConvMixer, embed_dim=768, num_layers=32, kernel_size=7, activation="relu"
)
