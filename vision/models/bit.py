"""BiT: ResNet v2 with GroupNorm and standardised kernels, made to be transferred.

Papers: A. Kolesnikov, L. Beyer, X. Zhai, J. Puigcerver, J. Yung, S. Gelly, N. Houlsby, "Big
Transfer (BiT): General Visual Representation Learning", 2019,
https://arxiv.org/abs/1912.11370; the form that stands in front of a ViT (`HybridStem50`)
from A. Dosovitskiy et al., "An Image is Worth 16x16 Words", 2020,
https://arxiv.org/abs/2010.11929.

Without BatchNorm an example's output depends on no other, at any batch size, in training
too.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers.activations import relu
from layers.dense import Dense
from layers.normalization import GroupNorm
from layers.pooling import max_pool
from vision.layers import preactivation, residual
from vision.layers.padding import padding_named
from vision.layers.standardized_convolution import StdConv


class BiT(nn.Module):
    """Stem, stages of bottlenecks, norm and activation, average, linear head.

    Each stage but the first halves height and width. Submodules: `stem_conv`,
    `stage_<i>_block_<j>`, `norm`, `head`; without pre-activation `stem_norm` and no `norm`.

    Args:
        num_classes: K; 0 leaves the head out.
        stage_sizes: residual blocks of each stage.
        width_factor: of all channels, the stem's too.
        stage_widths: channels of each stage's 3x3 convolutions, before the factor.
        stem_width: likewise of the stem.
        preactivation: False for the blocks of ResNet v1, and a norm in the stem.
        padding: 'symmetric', where the max pool of the stem sees zeros around the image
            (as it did in training; without activation they may win), or 'SAME'.
        num_groups: of GroupNorm.
        norm_epsilon: of GroupNorm.
        variance_epsilon, deviation_epsilon: of the kernels' standardisation.
        dtype: of the computation; None takes the input's.
        param_dtype: of the parameters.
    """

    num_classes: int
    stage_sizes: tuple[int, ...]
    width_factor: int = 1
    stage_widths: tuple[int, ...] = (64, 128, 256, 512)
    stem_width: int = 64
    preactivation: bool = True
    padding: str = "symmetric"
    num_groups: int = 32
    norm_epsilon: float = 1e-5
    variance_epsilon: float = 1e-8
    deviation_epsilon: float = 0.0
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self):
        if len(self.stage_sizes) > len(self.stage_widths) or not self.stage_sizes:
            raise ValueError(
                f"{len(self.stage_sizes)} stage_sizes for {len(self.stage_widths)} "
                "stage_widths; give at least one stage, and a width for each"
            )
        if self.preactivation and self.padding != "symmetric":
            raise ValueError(
                f"padding is {self.padding!r}, which the blocks without pre-activation "
                "have; set preactivation=False"
            )
        if self.num_classes:
            self.head = Dense(
                self.num_classes,
                kernel_init=nn.initializers.zeros,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
            )

    @nn.compact
    def stages(self, image: jax.Array, *, train: bool = False) -> tuple[jax.Array, ...]:
        """The output of every stage, [B, H / s, W / s, C] at growing strides s; with
        pre-activation the last one normalised and activated, the others bare sums."""
        del train  # It computes the same.
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = partial(
            StdConv,
            use_bias=False,
            variance_epsilon=self.variance_epsilon,
            deviation_epsilon=self.deviation_epsilon,
            **dtypes,
        )
        norm = partial(GroupNorm, self.num_groups, epsilon=self.norm_epsilon, **dtypes)
        x = self._stem(image, conv, norm)
        if self.preactivation:
            block = preactivation.BLOCKS["bottleneck"]
        else:
            block = partial(residual.BLOCKS["bottleneck"], padding=self.padding)
        outputs = []
        for i, size in enumerate(self.stage_sizes):
            width = self.stage_widths[i] * self.width_factor
            for j in range(size):
                x = block(
                    features=4 * width,
                    width=width,
                    stride=2 if i > 0 and j == 0 else 1,
                    conv=conv,
                    norm=norm,
                    name=f"stage_{i}_block_{j}",
                )(x)
            outputs.append(x)
        if self.preactivation:
            outputs[-1] = relu(norm(name="norm")(x))
        return tuple(outputs)

    def _stem(self, image: jax.Array, conv: Any, norm: Any) -> jax.Array:
        """[B, H, W, C] -> [B, H / 4, W / 4, stem width]."""
        x = conv(
            self.stem_width * self.width_factor,
            kernel_size=(7, 7),
            strides=2,
            padding=padding_named(self.padding, 7),
            name="stem_conv",
        )(image)
        if not self.preactivation:
            x = relu(norm(name="stem_norm")(x))
        padding = self.padding
        if padding == "symmetric":
            x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
            padding = "VALID"
        return max_pool(x, (3, 3), strides=(2, 2), padding=padding)

    def features(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """The last stage's map: [B, h, w, C]."""
        return self.stages(image, train=train)[-1]

    def represent(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """One vector per image, what the head sees: [B, C]."""
        return self.features(image, train=train).mean((1, 2))

    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits [B, K] of normalised images, float [B, H, W, C]."""
        x = self.represent(image, train=train)
        return self.head(x) if self.num_classes else x


_50 = partial(BiT, stage_sizes=(3, 4, 6, 3))
_101 = partial(BiT, stage_sizes=(3, 4, 23, 3))
_152 = partial(BiT, stage_sizes=(3, 8, 36, 3))
BiT_R50x1 = partial(_50, width_factor=1)
BiT_R50x3 = partial(_50, width_factor=3)
BiT_R101x1 = partial(_101, width_factor=1)
BiT_R101x3 = partial(_101, width_factor=3)
BiT_R152x2 = partial(_152, width_factor=2)
BiT_R152x4 = partial(_152, width_factor=4)

# What a hybrid ViT has in front of its patches of one pixel, at stride 16 or 32.
_stem = partial(BiT, num_classes=0, preactivation=False, padding="SAME")
HybridStem26_32 = partial(_stem, stage_sizes=(2, 2, 2, 2))
HybridStem50 = partial(_stem, stage_sizes=(3, 4, 9))
HybridStem50_32 = partial(_stem, stage_sizes=(3, 4, 6, 3))
# Numerically those of vision_transformer's code; timm's port of its weights has the others.
GoogleHybridStem50 = partial(
    HybridStem50, variance_epsilon=0.0, deviation_epsilon=1e-5, norm_epsilon=1e-6
)
