"""DenseNet: every layer reads the outputs of all layers before it, side by side.

Paper: G. Huang, Z. Liu, L. van der Maaten, K. Weinberger, "Densely Connected Convolutional
Networks", 2016, https://arxiv.org/abs/1608.06993. Stem, padding and pools are torchvision's.

Deviation: initial values are drawn as in ResNet (He et al.) everywhere, the head's too.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers.activations import relu
from layers.convolution import Conv
from layers.dense import Dense
from layers.normalization import BatchNorm
from layers.pooling import avg_pool, max_pool
from vision.layers.padding import symmetric

kaiming_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class DenseNet(nn.Module):
    """Stem, dense blocks with transitions between them, norm, average, linear head.

    A layer adds `growth_rate` channels; a transition halves height, width and, with the
    default compression, channels. Submodules: `stem_conv`, `stem_norm` (large stem),
    `block_<i>_layer_<j>`, `transition_<i>`, `norm`, `head`.

    Args:
        num_classes: K; 0 leaves the head out.
        block_sizes: layers of each dense block.
        growth_rate: channels that a layer adds.
        stem: 'large' (7x7 stride 2, norm, 3x3 max pool stride 2) or 'small' (3x3 stride 1).
        stem_width: channels of the stem.
        bottleneck: a layer's inner width over the growth rate; 0 for layers of one 3x3.
        compression: share of the channels that a transition keeps.
        dropout_rate: of each layer's output.
        norm_momentum, norm_epsilon: of BatchNorm; momentum weighs the old statistics.
        dtype: of the computation; None takes the input's.
        param_dtype: of the parameters.
    """

    num_classes: int
    block_sizes: tuple[int, ...]
    growth_rate: int = 32
    stem: str = "large"
    stem_width: int = 64
    bottleneck: int = 4
    compression: float = 0.5
    dropout_rate: float = 0.0
    norm_momentum: float = 0.9
    norm_epsilon: float = 1e-5
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self):
        if self.stem not in ("large", "small"):
            raise ValueError(f"stem is {self.stem!r}; known: large, small")
        if not 0 < self.compression <= 1:
            raise ValueError(
                f"compression is {self.compression}; it must lie in (0, 1], the share of "
                "channels to keep"
            )
        if self.num_classes:
            self.head = Dense(
                self.num_classes,
                kernel_init=kaiming_normal,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
            )

    @nn.compact
    def stages(self, image: jax.Array, *, train: bool = False) -> tuple[jax.Array, ...]:
        """The output of every dense block, [B, H / s, W / s, C] at growing strides s; the
        last one normalised and activated."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = partial(Conv, use_bias=False, kernel_init=kaiming_normal, **dtypes)
        norm = partial(
            BatchNorm,
            use_running_average=not train,
            momentum=self.norm_momentum,
            epsilon=self.norm_epsilon,
            **dtypes,
        )
        x = self._stem(image, conv, norm)
        outputs = []
        for i, size in enumerate(self.block_sizes):
            if i:
                kept = int(x.shape[-1] * self.compression)
                x = Transition(kept, conv, norm, name=f"transition_{i - 1}")(x)
            for j in range(size):
                layer = DenseLayer(
                    self.growth_rate,
                    self.bottleneck,
                    conv,
                    norm,
                    self.dropout_rate,
                    name=f"block_{i}_layer_{j}",
                )
                x = jnp.concatenate([x, layer(x, train=train)], axis=-1)
            outputs.append(x)
        outputs[-1] = relu(norm(name="norm")(x))
        return tuple(outputs)

    def _stem(self, image: jax.Array, conv: Any, norm: Any) -> jax.Array:
        """[B, H, W, C] -> [B, H / 4, W / 4, stem_width], or of the same size if 'small'."""
        if self.stem == "small":
            return conv(
                self.stem_width, kernel_size=(3, 3), padding=1, name="stem_conv"
            )(image)
        x = conv(
            self.stem_width,
            kernel_size=(7, 7),
            strides=2,
            padding=symmetric(7),
            name="stem_conv",
        )(image)
        x = relu(norm(name="stem_norm")(x))
        return max_pool(x, (3, 3), strides=(2, 2), padding=symmetric(3))

    def features(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """The last block's map, normalised and activated: [B, h, w, C]."""
        return self.stages(image, train=train)[-1]

    def represent(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """One vector per image, what the head sees: [B, C]."""
        return self.features(image, train=train).mean((1, 2))

    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits [B, K] of normalised images, float [B, H, W, C]."""
        x = self.represent(image, train=train)
        return self.head(x) if self.num_classes else x


class DenseLayer(nn.Module):
    """1x1 to `bottleneck * growth_rate` channels (if any bottleneck), 3x3 to
    `growth_rate`, each after norm and activation."""

    growth_rate: int
    bottleneck: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    dropout_rate: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """[B, H, W, C] -> [B, H, W, growth_rate], what is new."""
        last = 0
        x = relu(self.norm(name="norm_0")(x))
        if self.bottleneck:
            width = self.bottleneck * self.growth_rate
            x = self.conv(width, kernel_size=(1, 1), name="conv_0")(x)
            x = relu(self.norm(name="norm_1")(x))
            last = 1
        x = self.conv(
            self.growth_rate,
            kernel_size=(3, 3),
            padding=symmetric(3),
            name=f"conv_{last}",
        )(x)
        return nn.Dropout(self.dropout_rate, name="dropout")(x, deterministic=not train)


class Transition(nn.Module):
    """Norm, activation, 1x1 convolution, 2x2 average pool."""

    features: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, H / 2, W / 2, features]; an odd row or column is dropped."""
        x = relu(self.norm(name="norm")(x))
        x = self.conv(self.features, kernel_size=(1, 1), name="conv")(x)
        return avg_pool(x, (2, 2), strides=(2, 2))


DenseNet121 = partial(DenseNet, block_sizes=(6, 12, 24, 16))
DenseNet169 = partial(DenseNet, block_sizes=(6, 12, 32, 32))
DenseNet201 = partial(DenseNet, block_sizes=(6, 12, 48, 32))
DenseNet161 = partial(
    DenseNet, block_sizes=(6, 12, 36, 24), growth_rate=48, stem_width=96
)

# For 32x32 images: depth and growth rate; BC has bottlenecks and compression.
_cifar = partial(DenseNet, stem="small")
CifarDenseNet40_12 = partial(
    _cifar,
    block_sizes=(12, 12, 12),
    growth_rate=12,
    stem_width=16,
    bottleneck=0,
    compression=1.0,
)
CifarDenseNetBC100_12 = partial(
    _cifar, block_sizes=(16, 16, 16), growth_rate=12, stem_width=24
)
CifarDenseNetBC250_24 = partial(
    _cifar, block_sizes=(41, 41, 41), growth_rate=24, stem_width=48
)
CifarDenseNetBC190_40 = partial(
    _cifar, block_sizes=(31, 31, 31), growth_rate=40, stem_width=80
)
