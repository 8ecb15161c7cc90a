"""ZFNet: AlexNet in one stream with a smaller first window and stride.

Paper: M. Zeiler, R. Fergus, "Visualizing and Understanding Convolutional Networks", 2013,
https://arxiv.org/abs/1311.2901 (figure 3 and table 3).

Deviations: the paper's contrast normalisation across maps is AlexNet's local response
normalisation with its constants, which the paper does not give. Padding is what figure 3's
sizes ask for: 1 pixel in the first convolution, none in the second, poolings that round
up. Filters are not clipped to an RMS of 0.1 while training. Averages over a 6x6 grid stand
before the dense layers, so that images of any size pass; at 224 pixels that changes nothing.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers.activations import relu
from layers.convolution import Conv
from layers.dense import Dense
from vision.layers.local_response import local_response_norm
from vision.layers.window_pooling import adaptive_avg_pool, max_pool_ceil

KERNELS = (7, 5, 3, 3, 3)
STRIDES = (2, 2, 1, 1, 1)
PADDINGS = (1, 0, 1, 1, 1)


class ZFNet(nn.Module):
    """Convolutions of 7, 5, 3, 3 and 3 pixels, three of them pooled; dense layers.

    Submodules: `conv_<i>`, `dense_<i>`, `head`.

    Args:
        num_classes: K; 0 leaves the head out.
        widths: channels of the five convolutions.
        hidden_dims: widths of the dense layers in front of the head.
        dropout_rate: after every dense layer but the head.
        dtype: of the computation; None takes the input's.
        param_dtype: of the parameters.
    """

    num_classes: int
    widths: tuple[int, ...] = (96, 256, 384, 384, 256)
    hidden_dims: tuple[int, ...] = (4096, 4096)
    dropout_rate: float = 0.5
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self):
        if len(self.widths) != len(KERNELS):
            raise ValueError(
                f"{len(self.widths)} widths for {len(KERNELS)} convolutions; give one each"
            )
        self.dense = [Dense(dim, **self._options()) for dim in self.hidden_dims]
        self.dropout = nn.Dropout(self.dropout_rate)
        if self.num_classes:
            self.head = Dense(self.num_classes, **self._options())

    def _options(self) -> dict[str, Any]:
        """What every layer with parameters is given."""
        return {
            "kernel_init": nn.initializers.normal(0.01),
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
        }

    @nn.compact
    def stages(self, image: jax.Array, *, train: bool = False) -> tuple[jax.Array, ...]:
        """The map after each convolution, its pooling and norm: five of [B, h, w, C]."""
        del train  # no layer here trains differently
        if min(image.shape[1:3]) < 47:
            raise ValueError(
                f"image of {image.shape[1]}x{image.shape[2]} leaves nothing for the last "
                "pooling; give at least 47x47"
            )
        x, outputs = image, []
        for i, kernel in enumerate(KERNELS):
            x = Conv(
                self.widths[i],
                (kernel, kernel),
                strides=STRIDES[i],
                padding=PADDINGS[i],
                name=f"conv_{i}",
                **self._options(),
            )(x)
            x = relu(x)
            if i in (0, 1, 4):
                x = max_pool_ceil(x, 3, 2)
            if i < 2:
                x = local_response_norm(x)
            outputs.append(x)
        return tuple(outputs)

    def features(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """The last pooled map: [B, h, w, C], 6x6 for images of 224 pixels."""
        return self.stages(image, train=train)[-1]

    def represent(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """One vector per image, what the head sees: [B, D]."""
        x = adaptive_avg_pool(self.features(image, train=train), 6)
        x = x.transpose(0, 3, 1, 2).reshape(len(x), -1)
        for dense in self.dense:
            x = self.dropout(relu(dense(x)), deterministic=not train)
        return x

    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits [B, K] of normalised images, float [B, H, W, C]."""
        x = self.represent(image, train=train)
        return self.head(x) if self.num_classes else x


# Model (b) of the paper's table 2: wider third to fifth convolutions.
ZFNetWide = partial(ZFNet, widths=(96, 256, 512, 1024, 512))
