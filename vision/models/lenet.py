"""LeNet-5: two convolutions with subsampling, then fully connected layers.

Paper: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-Based Learning Applied to
Document Recognition", 1998, http://yann.lecun.com/exdb/publis/pdf/lecun-98.pdf.

Deviations, those of every modern LeNet-5: the second convolution sees all maps of the
first, subsampling is a plain average without parameters, tanh is not rescaled, and a linear
layer with softmax stands in for the radial basis functions at the end.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers.activations import activation_function
from layers.convolution import Conv
from layers.dense import Dense
from layers.pooling import avg_pool, max_pool


class LeNet(nn.Module):
    """Convolutions each followed by 2x2 pooling, then dense layers.

    Submodules: `conv_<i>`, `dense_<i>`, `head`. The image's size and channels are free, but
    an image too small for unpadded convolutions needs padding=('SAME', 'SAME').

    Args:
        num_classes: K; 0 leaves the head out.
        widths: channels of the convolutions.
        padding: of each convolution, 'SAME' or 'VALID'. The default fits 28x28 images
            (the paper's 32x32 inputs are 28x28 with two border pixels).
        kernel_size: side of the convolutions' windows.
        hidden_dims: widths of the dense layers in front of the head.
        activation: a name of `layers.activations`.
        pool: 'average' or 'max'.
        dropout_rate: after every dense layer but the head.
        dtype: of the computation; None takes the input's.
        param_dtype: of the parameters.
    """

    num_classes: int
    widths: tuple[int, ...] = (6, 16)
    padding: tuple[str, ...] = ("SAME", "VALID")
    kernel_size: int = 5
    hidden_dims: tuple[int, ...] = (120, 84)
    activation: str = "tanh"
    pool: str = "average"
    dropout_rate: float = 0.0
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self):
        if len(self.padding) != len(self.widths):
            raise ValueError(
                f"{len(self.padding)} paddings for {len(self.widths)} convolutions; "
                "give one each"
            )
        if self.pool not in POOLS:
            raise ValueError(f"pool is {self.pool!r}; known: {', '.join(POOLS)}")
        if self.num_classes:
            self.head = Dense(
                self.num_classes, dtype=self.dtype, param_dtype=self.param_dtype
            )

    def features(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """The last pooled map: [B, h, w, C]."""
        return self._layers(image, train=train)[0]

    def represent(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """One vector per image, what the head sees: [B, D]."""
        return self._layers(image, train=train)[1]

    @nn.compact
    def _layers(self, image: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        activation, pool = activation_function(self.activation), POOLS[self.pool]
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        window, x = (self.kernel_size,) * 2, image
        for i, (width, padding) in enumerate(
            zip(self.widths, self.padding, strict=True)
        ):
            needed = 2 if padding == "SAME" else self.kernel_size + 1
            if min(x.shape[1:3]) < needed:
                raise ValueError(
                    f"image of {image.shape[1]}x{image.shape[2]} leaves "
                    f"{x.shape[1]}x{x.shape[2]} for convolution {i}, which needs "
                    f"{needed}x{needed}; use padding 'SAME' or a larger image"
                )
            conv = Conv(width, window, padding=padding, name=f"conv_{i}", **dtypes)
            x = pool(activation(conv(x)), (2, 2), strides=(2, 2), padding="VALID")
        features, x = x, x.reshape(len(x), -1)
        for i, dim in enumerate(self.hidden_dims):
            x = activation(Dense(dim, name=f"dense_{i}", **dtypes)(x))
            x = nn.Dropout(self.dropout_rate, name=f"dropout_{i}")(
                x, deterministic=not train
            )
        return features, x

    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits [B, K] of normalised images, float [B, H, W, C]."""
        x = self.represent(image, train=train)
        return self.head(x) if self.num_classes else x


POOLS = {"average": avg_pool, "max": max_pool}

LeNet5 = LeNet
# The wider ReLU form that came with Caffe and many tutorials, for 28x28 images.
LeNetCaffe = partial(
    LeNet,
    widths=(20, 50),
    padding=("VALID", "VALID"),
    hidden_dims=(500,),
    activation="relu",
    pool="max",
)
