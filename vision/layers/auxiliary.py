"""A second classifier on a map halfway up, for more gradient below it while training.

Paper: C. Szegedy, V. Vanhoucke, S. Ioffe, J. Shlens, Z. Wojna, "Rethinking the Inception
Architecture for Computer Vision", 2015, https://arxiv.org/abs/1512.00567, section 4.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers.activations import relu
from layers.convolution import Conv
from layers.dense import Dense
from layers.pooling import avg_pool


class AuxiliaryHead(nn.Module):
    """5x5 average pool of stride 3, 1x1 convolution, a convolution over all that is left.

    Submodules: `conv_0`, `conv_1`, `head`.

    Args:
        num_classes: K.
        unit: makes a normalised convolution, from the fields of `ConvNorm`.
        widths: channels of the two convolutions.
        kernel_size: of the second one; None for the size of the map, so that parameters
            depend on the image's size.
        norm_last: normalise the second convolution too, which is in fact the head's
            fully connected layer ("BN-auxiliary"); else it has a bias.
        dtype: of the computation; None takes the input's.
        param_dtype: of the parameters.
    """

    num_classes: int
    unit: Callable[..., nn.Module]
    widths: tuple[int, int] = (128, 768)
    kernel_size: tuple[int, int] | None = (5, 5)
    norm_last: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """[B, h, w, C] -> logits [B, K].

        Raises:
            ValueError: the map is too small for the pool or the second convolution.
        """
        kernel = self.kernel_size or (1, 1)
        needed = tuple(5 + 3 * (k - 1) for k in kernel)
        if any(size < least for size, least in zip(x.shape[1:3], needed, strict=True)):
            raise ValueError(
                f"the auxiliary head got a map of {x.shape[1]}x{x.shape[2]}, it needs "
                f"{needed[0]}x{needed[1]}; give larger images or set auxiliary=False"
            )
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = avg_pool(x, (5, 5), strides=(3, 3))
        x = self.unit(self.widths[0], name="conv_0")(x, train=train)
        full = {
            "kernel_size": self.kernel_size or x.shape[1:3],
            "padding": "VALID",
            "name": "conv_1",
        }
        if self.norm_last:
            x = self.unit(self.widths[1], **full)(x, train=train)
        else:
            x = relu(Conv(self.widths[1], **full, **dtypes)(x))
        x = x.mean((1, 2))
        return Dense(self.num_classes, name="head", **dtypes)(x)
