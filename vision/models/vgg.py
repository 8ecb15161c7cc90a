"""VGG: 3x3 convolutions only, five times pooled, then dense layers.

Papers: K. Simonyan, A. Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
Recognition", 2014, https://arxiv.org/abs/1409.1556; with normalisation after every
convolution as in torchvision (S. Ioffe, C. Szegedy, "Batch Normalization", 2015,
https://arxiv.org/abs/1502.03167).

Deviations: weights start as He's, so that no shallower network need be trained first, and
averages over a 7x7 grid stand before the dense layers, as in torchvision; at 224 pixels
they change nothing. Dense layers are not turned into convolutions for testing.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers.activations import relu
from layers.convolution import Conv, he_normal_fan_out
from layers.dense import Dense
from layers.normalization import BatchNorm
from layers.pooling import max_pool
from vision.layers.window_pooling import adaptive_avg_pool


class VGG(nn.Module):
    """Stages of 3x3 convolutions, each closed by 2x2 max pooling; dense layers.

    Submodules: `stage_<i>_conv_<j>`, `stage_<i>_norm_<j>`, `dense_<i>`, `head`. The dense
    layers read the map channels first, as torch's do.

    Args:
        num_classes: K; 0 leaves the head out.
        stage_sizes: convolutions of each stage.
        stage_widths: their channels.
        batch_norm: whether norms follow the convolutions.
        map_size: side of the grid of averages that the dense layers see.
        hidden_dims: widths of the dense layers in front of the head.
        dropout_rate: after every dense layer but the head.
        norm_momentum, norm_epsilon: of BatchNorm; momentum weighs the old statistics.
        dtype: of the computation; None takes the input's.
        param_dtype: of the parameters.
    """

    num_classes: int
    stage_sizes: tuple[int, ...]
    stage_widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    batch_norm: bool = False
    map_size: int = 7
    hidden_dims: tuple[int, ...] = (4096, 4096)
    dropout_rate: float = 0.5
    norm_momentum: float = 0.9
    norm_epsilon: float = 1e-5
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self):
        if len(self.stage_sizes) != len(self.stage_widths):
            raise ValueError(
                f"{len(self.stage_sizes)} stage_sizes for {len(self.stage_widths)} "
                "stage_widths; give one of each per stage"
            )
        dense = partial(
            Dense,
            kernel_init=nn.initializers.normal(0.01),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )
        self.dense = [dense(dim) for dim in self.hidden_dims]
        self.dropout = nn.Dropout(self.dropout_rate)
        if self.num_classes:
            self.head = dense(self.num_classes)

    @nn.compact
    def stages(self, image: jax.Array, *, train: bool = False) -> tuple[jax.Array, ...]:
        """The pooled map of every stage: [B, H / 2, W / 2, C], [B, H / 4, W / 4, C], ..."""
        smallest = 2 ** len(self.stage_sizes)
        if min(image.shape[1:3]) < smallest:
            raise ValueError(
                f"image of {image.shape[1]}x{image.shape[2]} cannot be halved "
                f"{len(self.stage_sizes)} times; give at least {smallest}x{smallest}"
            )
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x, outputs = image, []
        for i, (size, width) in enumerate(
            zip(self.stage_sizes, self.stage_widths, strict=True)
        ):
            for j in range(size):
                x = Conv(
                    width,
                    (3, 3),
                    padding=1,
                    kernel_init=he_normal_fan_out,
                    name=f"stage_{i}_conv_{j}",
                    **dtypes,
                )(x)
                if self.batch_norm:
                    x = BatchNorm(
                        use_running_average=not train,
                        momentum=self.norm_momentum,
                        epsilon=self.norm_epsilon,
                        name=f"stage_{i}_norm_{j}",
                        **dtypes,
                    )(x)
                x = relu(x)
            x = max_pool(x, (2, 2), strides=(2, 2))
            outputs.append(x)
        return tuple(outputs)

    def features(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """The last pooled map: [B, H / 32, W / 32, C]."""
        return self.stages(image, train=train)[-1]

    def represent(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """One vector per image, what the head sees: [B, D]."""
        x = adaptive_avg_pool(self.features(image, train=train), self.map_size)
        x = x.transpose(0, 3, 1, 2).reshape(len(x), -1)
        for dense in self.dense:
            x = self.dropout(relu(dense(x)), deterministic=not train)
        return x

    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits [B, K] of normalised images, float [B, H, W, C]."""
        x = self.represent(image, train=train)
        return self.head(x) if self.num_classes else x


# Configurations A, B, D and E of the paper.
VGG11 = partial(VGG, stage_sizes=(1, 1, 2, 2, 2))
VGG13 = partial(VGG, stage_sizes=(2, 2, 2, 2, 2))
VGG16 = partial(VGG, stage_sizes=(2, 2, 3, 3, 3))
VGG19 = partial(VGG, stage_sizes=(2, 2, 4, 4, 4))
VGG11BatchNorm = partial(VGG11, batch_norm=True)
VGG13BatchNorm = partial(VGG13, batch_norm=True)
VGG16BatchNorm = partial(VGG16, batch_norm=True)
VGG19BatchNorm = partial(VGG19, batch_norm=True)

# For images of 32 pixels: after five poolings one position is left for the head.
CifarVGG16 = partial(VGG16BatchNorm, map_size=1, hidden_dims=())
