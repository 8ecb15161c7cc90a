"""AlexNet: five convolutions and three dense layers, in two streams or in one.

Papers: A. Krizhevsky, I. Sutskever, G. Hinton, "ImageNet Classification with Deep
Convolutional Neural Networks", 2012,
https://papers.nips.cc/paper/2012/hash/c399862d3b9d6b76c8436e924a68c45b-Abstract.html;
the narrower network of one stream from A. Krizhevsky, "One weird trick for parallelizing
convolutional neural networks", 2014, https://arxiv.org/abs/1404.5997, as torchvision
builds it.

Deviations: the two GPUs' streams are two groups of every grouped convolution, and each
normalises its own maps, as each GPU held only these. The first convolution pads by 2,
without which 224 pixels do not give the paper's 55. Averages over a 6x6 grid stand before
the dense layers, as in torchvision; at 224 pixels that changes nothing. Dropout follows
the hidden layers, where torchvision's precedes them.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers.activations import relu
from layers.convolution import Conv
from layers.dense import Dense
from layers.pooling import max_pool
from vision.layers.local_response import local_response_norm
from vision.layers.window_pooling import adaptive_avg_pool

he_normal = nn.initializers.he_normal()

KERNELS = (11, 5, 3, 3, 3)
PADDINGS = (2, 2, 1, 1, 1)
# Pooled after the first, second and last convolution.
POOLED = (0, 1, 4)


class AlexNet(nn.Module):
    """Convolutions of 11, 5, 3, 3 and 3 pixels, three of them pooled; dense layers.

    Submodules: `conv_<i>`, `dense_<i>`, `head`. Images of at least 63 pixels; the dense
    layers read the map channels first, as torch's do.

    Args:
        num_classes: K; 0 leaves the head out.
        widths: channels of the five convolutions.
        groups: of the five convolutions; 2 keeps two streams apart.
        normalize: local response normalisation before the first two poolings.
        hidden_dims: widths of the dense layers in front of the head.
        init_std: of the initial kernels, normal around 0; 0 takes He's, which keeps the
            scale of the activations without normalisation too.
        bias: initial bias of all layers with a ReLU but the first and third.
        dropout_rate: after every dense layer but the head.
        dtype: of the computation; None takes the input's.
        param_dtype: of the parameters.
    """

    num_classes: int
    widths: tuple[int, ...] = (96, 256, 384, 384, 256)
    groups: tuple[int, ...] = (1, 2, 1, 2, 2)
    normalize: bool = True
    hidden_dims: tuple[int, ...] = (4096, 4096)
    init_std: float = 0.01
    bias: float = 1.0
    dropout_rate: float = 0.5
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self):
        for name in ("widths", "groups"):
            if len(getattr(self, name)) != len(KERNELS):
                raise ValueError(
                    f"{len(getattr(self, name))} {name} for {len(KERNELS)} "
                    "convolutions; give one each"
                )
        self.dense = [
            Dense(dim, **self._options(self.bias)) for dim in self.hidden_dims
        ]
        self.dropout = nn.Dropout(self.dropout_rate)
        if self.num_classes:
            self.head = Dense(self.num_classes, **self._options(bias=0.0))

    def _options(self, bias: float) -> dict[str, Any]:
        """What every layer with parameters is given."""
        std = self.init_std
        return {
            "kernel_init": nn.initializers.normal(std) if std else he_normal,
            "bias_init": nn.initializers.constant(bias),
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
        }

    @nn.compact
    def stages(self, image: jax.Array, *, train: bool = False) -> tuple[jax.Array, ...]:
        """The map after each convolution (and its pooling): five of [B, h, w, C]."""
        del train  # no layer here trains differently
        x, outputs = image, []
        if min(image.shape[1:3]) < 63:
            raise ValueError(
                f"image of {image.shape[1]}x{image.shape[2]} leaves nothing for the last "
                "pooling; give at least 63x63"
            )
        for i, kernel in enumerate(KERNELS):
            x = Conv(
                self.widths[i],
                (kernel, kernel),
                strides=4 if i == 0 else 1,
                padding=PADDINGS[i],
                feature_group_count=self.groups[i],
                name=f"conv_{i}",
                **self._options(bias=0.0 if i in (0, 2) else self.bias),
            )(x)
            x = relu(x)
            if self.normalize and i < 2:
                x = local_response_norm(x, groups=max(self.groups))
            if i in POOLED:
                x = max_pool(x, (3, 3), strides=(2, 2))
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


# The paper's, on two GPUs; and torchvision's.
AlexNetTwoStreams = AlexNet
AlexNetOneStream = partial(
    AlexNet,
    widths=(64, 192, 384, 256, 256),
    groups=(1, 1, 1, 1, 1),
    normalize=False,
    init_std=0.0,
    bias=0.0,
)
