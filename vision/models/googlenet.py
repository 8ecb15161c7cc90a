"""GoogLeNet (Inception v1): windows of several sizes side by side, three classifiers.

Paper: C. Szegedy, W. Liu, Y. Jia, P. Sermanet, S. Reed et al., "Going Deeper with
Convolutions", 2014, https://arxiv.org/abs/1409.4842.

Deviations: form 'torchvision' has BatchNorm (epsilon 1e-3) for biases and local response
normalisation, 3x3 windows where the paper has 5x5, a 2x2 pooling before the last stage and
less dropout. In form 'paper' the response norms have AlexNet's constants, for the paper
names none. Auxiliary classifiers average over a 4x4 grid, which at 224 pixels gives the
size of the paper's 5x5 windows with stride 3.
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
from vision.layers.conv_norm import ConvNorm
from vision.layers.local_response import local_response_norm
from vision.layers.window_pooling import adaptive_avg_pool, max_pool_ceil

Unit = Callable[..., nn.Module]

# Table 1 of the paper, a stage per resolution: 1x1, reduced and 3x3, reduced and 5x5, pool.
STAGES = {
    "3": {
        "a": (64, 96, 128, 16, 32, 32),
        "b": (128, 128, 192, 32, 96, 64),
    },
    "4": {
        "a": (192, 96, 208, 16, 48, 64),
        "b": (160, 112, 224, 24, 64, 64),
        "c": (128, 128, 256, 24, 64, 64),
        "d": (112, 144, 288, 32, 64, 64),
        "e": (256, 160, 320, 32, 128, 128),
    },
    "5": {
        "a": (256, 160, 320, 32, 128, 128),
        "b": (384, 192, 384, 48, 128, 128),
    },
}
# Blocks whose output an auxiliary classifier reads.
AUXILIARY = ("4a", "4d")
FORMS = ("torchvision", "paper")


class GoogLeNet(nn.Module):
    """Stem, nine inception blocks in three stages, global average, linear head.

    In training `__call__` also returns the logits of two auxiliary classifiers, to be
    added to the loss with weight 0.3 each. Submodules: `conv_<i>`, `inception_<block>`,
    `auxiliary_<i>`, `head`.

    Args:
        num_classes: K; 0 leaves the head and the auxiliary classifiers out.
        form: 'torchvision' or 'paper'.
        auxiliary: whether there are auxiliary classifiers.
        width_factor: multiplies the paper's channels; for small networks.
        dropout_rate: before the head; None for the form's, 0.2 or the paper's 0.4.
        auxiliary_dropout_rate: before the auxiliary heads.
        norm_momentum, norm_epsilon: of BatchNorm; momentum weighs the old statistics.
        dtype: of the computation; None takes the input's.
        param_dtype: of the parameters.
    """

    num_classes: int
    form: str = "torchvision"
    auxiliary: bool = True
    width_factor: float = 1.0
    dropout_rate: float | None = None
    auxiliary_dropout_rate: float = 0.7
    norm_momentum: float = 0.9
    norm_epsilon: float = 1e-3
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self):
        if self.form not in FORMS:
            raise ValueError(f"form is {self.form!r}; known: {', '.join(FORMS)}")
        rate = 0.4 if self.form == "paper" else 0.2
        if self.dropout_rate is not None:
            rate = self.dropout_rate
        self.dropout = nn.Dropout(rate)
        if not self.num_classes:
            return
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.head = Dense(self.num_classes, **dtypes)
        if self.auxiliary:
            auxiliary = partial(
                AuxiliaryClassifier,
                self.num_classes,
                unit=self._unit(),
                width=self._width(128),
                hidden_dim=self._width(1024),
                dropout_rate=self.auxiliary_dropout_rate,
                **dtypes,
            )
            self.auxiliary_0 = auxiliary()
            self.auxiliary_1 = auxiliary()

    def _width(self, channels: int) -> int:
        return max(1, round(channels * self.width_factor))

    def _unit(self) -> Unit:
        """Makes a convolution with ReLU: normalised, or the paper's with a bias."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        if self.form == "paper":
            return partial(ConvBias, **dtypes)
        norm = {"norm_momentum": self.norm_momentum, "norm_epsilon": self.norm_epsilon}
        return partial(ConvNorm, **norm, **dtypes)

    @nn.compact
    def _blocks(self, image: jax.Array, *, train: bool) -> dict[str, jax.Array]:
        """The output of every inception block by its name in the paper, '3a' to '5b'."""
        unit, paper = self._unit(), self.form == "paper"
        conv = partial(unit, self._width(64))
        x = conv(7, strides=2, padding=3, name="conv_0")(image, train=train)
        x = max_pool_ceil(x, 3, 2)
        x = local_response_norm(x) if paper else x
        x = conv(1, name="conv_1")(x, train=train)
        x = unit(self._width(192), 3, padding=1, name="conv_2")(x, train=train)
        x = local_response_norm(x) if paper else x
        outputs = {}
        for stage, blocks in STAGES.items():
            # torchvision pools by windows of two pixels before the last stage.
            x = max_pool_ceil(x, 2 if stage == "5" and not paper else 3, 2)
            for letter, widths in blocks.items():
                block = stage + letter
                x = Inception(
                    tuple(map(self._width, widths)),
                    large_window=5 if paper else 3,
                    unit=unit,
                    name=f"inception_{block}",
                )(x, train=train)
                outputs[block] = x
        return outputs

    def stages(self, image: jax.Array, *, train: bool = False) -> tuple[jax.Array, ...]:
        """The last map of each resolution: [B, h, w, C] at strides 8, 16 and 32."""
        blocks = self._blocks(image, train=train)
        return tuple(
            blocks[stage + list(letters)[-1]] for stage, letters in STAGES.items()
        )

    def features(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """The last map: [B, h, w, C]."""
        return self.stages(image, train=train)[-1]

    def represent(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """One vector per image, what the head sees: [B, C]."""
        return self._pool(self.features(image, train=train), train=train)

    def _pool(self, x: jax.Array, *, train: bool) -> jax.Array:
        return self.dropout(x.mean((1, 2)), deterministic=not train)

    def auxiliary_logits(
        self, image: jax.Array, *, train: bool = False
    ) -> tuple[jax.Array, ...]:
        """The auxiliary classifiers' logits, [B, K] each, the lower one's first."""
        return self._auxiliary(self._blocks(image, train=train), train=train)

    def _auxiliary(
        self, blocks: dict[str, jax.Array], *, train: bool
    ) -> tuple[jax.Array, ...]:
        if not (self.num_classes and self.auxiliary):
            return ()
        heads = (self.auxiliary_0, self.auxiliary_1)
        return tuple(
            head(blocks[block], train=train)
            for head, block in zip(heads, AUXILIARY, strict=True)
        )

    def __call__(
        self, image: jax.Array, *, train: bool = False
    ) -> jax.Array | tuple[jax.Array, ...]:
        """Class scores of normalised images, float [B, H, W, C].

        Returns:
            Logits [B, K]; in training, if there are auxiliary classifiers, a tuple of them
            and the auxiliary logits, [B, K] each.
        """
        blocks = self._blocks(image, train=train)
        *_, last = blocks.values()
        x = self._pool(last, train=train)
        if not self.num_classes:
            return x
        logits = self.head(x)
        if not self.auxiliary or not (train or self.is_initializing()):
            return logits
        auxiliary = self._auxiliary(blocks, train=train)
        return (logits, *auxiliary) if train else logits


class ConvBias(nn.Module):
    """Convolution with a bias, and ReLU, with the signature of ConvNorm."""

    features: int
    kernel_size: int = 1
    strides: int = 1
    padding: Any = "SAME"
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """[B, H, W, C] -> [B, H / strides, W / strides, features]."""
        del train  # the same in both
        return relu(
            Conv(
                self.features,
                (self.kernel_size, self.kernel_size),
                strides=self.strides,
                padding=self.padding,
                kernel_init=nn.initializers.he_normal(),
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                name="conv",
            )(x)
        )


class Inception(nn.Module):
    """Four branches, side by side in the channels: 1x1; 3x3; 5x5; 3x3 max pooling.

    Args:
        widths: channels of the 1x1; of the 3x3's reduction and itself; of the large
            window's reduction and itself; of the projection after the pooling.
        large_window: of the third branch, 5 in the paper.
        unit: makes a ConvNorm or ConvBias.
    """

    widths: tuple[int, ...]
    large_window: int
    unit: Unit

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """[B, H, W, C] -> [B, H, W, sum of the branches' channels]."""
        one, small_reduced, small, large_reduced, large, pooled = self.widths

        def conv(y: jax.Array, width: int, window: int, name: str) -> jax.Array:
            return self.unit(width, window, padding=window // 2, name=name)(
                y, train=train
            )

        small_input = conv(x, small_reduced, 1, "small_reduce")
        large_input = conv(x, large_reduced, 1, "large_reduce")
        branches = (
            conv(x, one, 1, "one"),
            conv(small_input, small, 3, "small"),
            conv(large_input, large, self.large_window, "large"),
            conv(max_pool_ceil(x, 3, 1, padding=1), pooled, 1, "pool_project"),
        )
        return jnp.concatenate(branches, -1)


class AuxiliaryClassifier(nn.Module):
    """Averages on a 4x4 grid, 1x1 convolution, dense layer, dropout, linear head."""

    num_classes: int
    unit: Unit
    width: int
    hidden_dim: int
    dropout_rate: float
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """[B, H, W, C] -> logits [B, K]."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = adaptive_avg_pool(x, 4)
        x = self.unit(self.width, 1, name="conv")(x, train=train)
        x = x.transpose(0, 3, 1, 2).reshape(len(x), -1)  # as torch's layer reads it
        x = relu(Dense(self.hidden_dim, name="dense", **dtypes)(x))
        x = nn.Dropout(self.dropout_rate, name="dropout")(x, deterministic=not train)
        return Dense(self.num_classes, name="head", **dtypes)(x)


GoogLeNetPaper = partial(GoogLeNet, form="paper")
