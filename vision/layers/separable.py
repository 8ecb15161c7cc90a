"""Depthwise separable convolution: space and channels one after the other.

Papers: L. Sifre, S. Mallat, "Rigid-Motion Scattering for Image Classification", PhD thesis
of the former, 2014, https://arxiv.org/abs/1403.1687; F. Chollet, "Xception: Deep Learning
with Depthwise Separable Convolutions", 2016, https://arxiv.org/abs/1610.02357.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers.convolution import Conv
from layers.normalization import BatchNorm


class SeparableConv(nn.Module):
    """One filter per channel, then a 1x1 convolution; nothing between, and no biases.

    Parameters: `depthwise` (kernel [k, k, 1, C]) and `pointwise` (kernel [1, 1, C,
    features]): C * k * k + C * features numbers, not C * k * k * features.

    Args:
        features: channels of the output.
        kernel_size: k.
        strides: of the depthwise convolution, one number for both dimensions.
        padding: of the depthwise convolution, as in `layers.convolution.Conv`.
        dtype: of the computation; None takes the input's.
        param_dtype: of the parameters.
    """

    features: int
    kernel_size: int = 3
    strides: int = 1
    padding: Any = "SAME"
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, H', W', features]."""
        options = {
            "use_bias": False,
            "kernel_init": nn.initializers.he_normal(),
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
        }
        x = Conv(
            x.shape[-1],
            kernel_size=(self.kernel_size,) * 2,
            strides=self.strides,
            padding=self.padding,
            feature_group_count=x.shape[-1],
            name="depthwise",
            **options,
        )(x)
        return Conv(self.features, kernel_size=(1, 1), name="pointwise", **options)(x)


class SeparableConvNorm(nn.Module):
    """`SeparableConv`, then BatchNorm. Submodules `conv`, `norm`.

    Args:
        features, kernel_size, strides, padding: of the convolution.
        norm_momentum, norm_epsilon: of BatchNorm; momentum weighs the old statistics.
        dtype: of the computation; None takes the input's.
        param_dtype: of the parameters.
    """

    features: int
    kernel_size: int = 3
    strides: int = 1
    padding: Any = "SAME"
    norm_momentum: float = 0.9
    norm_epsilon: float = 1e-3
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """[B, H, W, C] -> [B, H', W', features]."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = SeparableConv(
            self.features,
            kernel_size=self.kernel_size,
            strides=self.strides,
            padding=self.padding,
            name="conv",
            **dtypes,
        )(x)
        return BatchNorm(
            use_running_average=not train,
            momentum=self.norm_momentum,
            epsilon=self.norm_epsilon,
            name="norm",
            **dtypes,
        )(x)
