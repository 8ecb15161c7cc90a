"""Convolutions whose kernels have mean 0 and variance 1, the partner of GroupNorm.

S. Qiao, H. Wang, C. Liu, W. Shen, A. Yuille, "Micro-Batch Training with Batch-Channel
Normalization and Weight Standardization", 2019, https://arxiv.org/abs/1903.10520.
"""

from typing import Any

import jax
import jax.numpy as jnp

from layers.convolution import Conv


def standardize(
    kernel: jax.Array, variance_epsilon: float = 1e-8, deviation_epsilon: float = 0.0
) -> jax.Array:
    """Every output's weights minus their mean, over their standard deviation.

    Args:
        kernel: [*window, C, features].
        variance_epsilon: added to the (biased) variance, under the root.
        deviation_epsilon: added to the standard deviation, after it.
    """
    axes = tuple(range(kernel.ndim - 1))
    centered = kernel - kernel.mean(axes)
    variance = jnp.square(centered).mean(axes)
    return centered / (jnp.sqrt(variance + variance_epsilon) + deviation_epsilon)


class StdConv(Conv):
    """`Conv` of its standardised kernel; the parameter `kernel` itself is as it was trained.

    timm adds 1e-8 to the variance, the Flax code of the ViT hybrid 1e-5 to the standard
    deviation (`variance_epsilon=0, deviation_epsilon=1e-5`); outputs differ by some 2e-5.
    """

    variance_epsilon: float = 1e-8
    deviation_epsilon: float = 0.0

    def param(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """The parameter as the product sees it, before any cast to half precision."""
        value = super().param(name, *args, **kwargs)
        if name != "kernel":
            return value
        return standardize(value, self.variance_epsilon, self.deviation_epsilon)
