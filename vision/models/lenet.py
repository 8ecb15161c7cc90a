"""LeNet-5: two convolutions with subsampling, then fully connected layers.

Paper: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-Based Learning Applied to
Document Recognition", 1998, http://yann.lecun.com/exdb/publis/pdf/lecun-98.pdf.

Deviations, those of every modern LeNet-5: the second convolution sees all maps of the
first, subsampling is a plain average without parameters, tanh is not rescaled, and a linear
layer with softmax stands in for the radial basis functions at the end.

`Net` is the small network of PyTorch's introductory MNIST example; it returns logits where
that returns their log-softmax, which belongs to the loss here.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers.activations import activation_function, relu
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


class Net(nn.Module):
    """Two 5x5 convolutions with 2x2 max pooling and channel dropout, two dense layers.

    Submodules: `conv_0`, `conv_1`, `dense`, `head`. Made for 28x28 images, of which a map
    of 4x4 is left; the dense layer reads it channels first, as torch's does.

    Args:
        num_classes: K; 0 leaves the head out.
        dropout_rate: of whole channels after the second convolution, and of units after
            the dense layer.
        dtype: of the computation; None takes the input's.
        param_dtype: of the parameters.
    """

    num_classes: int
    dropout_rate: float = 0.5
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self):
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.conv_0 = Conv(10, (5, 5), padding="VALID", **dtypes)
        self.conv_1 = Conv(20, (5, 5), padding="VALID", **dtypes)
        # One draw per channel: the whole map goes or stays.
        self.channel_dropout = nn.Dropout(self.dropout_rate, broadcast_dims=(1, 2))
        self.dense = Dense(50, **dtypes)
        self.dropout = nn.Dropout(self.dropout_rate)
        if self.num_classes:
            self.head = Dense(self.num_classes, **dtypes)

    def features(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """The last pooled map: [B, h, w, 20]; raises ValueError below 16x16 pixels."""
        if min(image.shape[1:3]) < 16:
            raise ValueError(
                f"image of {image.shape[1]}x{image.shape[2]} leaves nothing to pool; "
                "give at least 16x16"
            )
        x = relu(max_pool(self.conv_0(image), (2, 2), strides=(2, 2)))
        x = self.channel_dropout(self.conv_1(x), deterministic=not train)
        return relu(max_pool(x, (2, 2), strides=(2, 2)))

    def represent(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """One vector per image, what the head sees: [B, 50]."""
        x = self.features(image, train=train).transpose(0, 3, 1, 2)
        x = relu(self.dense(x.reshape(len(x), -1)))
        return self.dropout(x, deterministic=not train)

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
