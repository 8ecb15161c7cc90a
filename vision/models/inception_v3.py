"""Inception v3: convolutions factorised into smaller and asymmetric ones.

Paper: C. Szegedy, V. Vanhoucke, S. Ioffe, J. Shlens, Z. Wojna, "Rethinking the Inception
Architecture for Computer Vision", 2015, https://arxiv.org/abs/1512.00567.

Deviations: the paper does not say how wide the branches are; the widths are those of the
network its authors released, which torchvision has too, where the 5x5 convolutions of the
first blocks are left whole. `InceptionV2` is the paper's earlier stage of the same network:
its figure 5 (two 3x3 in place of each 5x5), and no normalisation of the auxiliary
classifier's fully connected layer; with what else the paper leaves open as in v3.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers.dense import Dense
from vision.layers.auxiliary import AuxiliaryHead
from vision.layers.conv_norm import ConvNorm
from vision.layers.inception import (
    AVERAGE_POOL,
    MAX_POOL,
    STEM,
    Branches,
    C,
    InceptionBlock,
    down,
    run_steps,
    scale_width,
)


def block_a(pool_width: int, factorize: bool) -> Branches:
    """At stride 8, figure 5: 64 + 64 + 96 + pool_width channels."""
    five = (C(64, 3), C(64, 3)) if factorize else (C(64, 5),)
    return (
        (C(64),),
        (C(48), *five),
        (C(64), C(96, 3), C(96, 3)),
        (AVERAGE_POOL, C(pool_width)),
    )


def block_b(width: int) -> Branches:
    """At stride 16, figure 6 with n = 7: 768 channels."""
    row, column = (1, 7), (7, 1)
    return (
        (C(192),),
        (C(width), C(width, row), C(192, column)),
        (C(width), C(width, column), C(width, row), C(width, column), C(192, row)),
        (AVERAGE_POOL, C(192)),
    )


REDUCTION_A: Branches = (
    (down(384),),
    (C(64), C(96, 3), down(96)),
    (MAX_POOL,),
)
REDUCTION_B: Branches = (
    (C(192), down(320)),
    (C(192), C(192, (1, 7)), C(192, (7, 1)), down(192)),
    (MAX_POOL,),
)
# At stride 32, figure 7: 2048 channels.
_FORK = (C(384, (1, 3)), C(384, (3, 1)))
BLOCK_C: Branches = (
    (C(320),),
    (C(384), _FORK),
    (C(448), C(384, 3), _FORK),
    (AVERAGE_POOL, C(192)),
)


class InceptionV3(nn.Module):
    """Stem, three kinds of Inception blocks with reductions between, linear head.

    For images of 299 pixels; without the auxiliary head 75 are enough. Submodules:
    `stem_<i>`, `block_a_<i>`, `reduction_a`, `block_b_<i>`, `reduction_b`, `block_c_<i>`,
    `auxiliary_head`, `head`.

    Args:
        num_classes: K; 0 leaves the heads out.
        pool_widths: of each block at stride 8, channels behind its average pool.
        factorized_widths: of each block at stride 16, channels of its 7x7 branches.
        num_wide_blocks: at stride 32.
        factorize_5x5: two 3x3 convolutions in place of each 5x5.
        auxiliary: a second head at stride 16, for training.
        auxiliary_norm: normalise that head's fully connected layer.
        dropout_rate: before the head.
        width_factor: of every channel count.
        norm_momentum, norm_epsilon: of BatchNorm; momentum weighs the old statistics.
        dtype: of the computation; None takes the input's.
        param_dtype: of the parameters.
    """

    num_classes: int
    pool_widths: tuple[int, ...] = (32, 64, 64)
    factorized_widths: tuple[int, ...] = (128, 160, 160, 192)
    num_wide_blocks: int = 2
    factorize_5x5: bool = False
    auxiliary: bool = True
    auxiliary_norm: bool = True
    dropout_rate: float = 0.2
    width_factor: float = 1.0
    norm_momentum: float = 0.9
    norm_epsilon: float = 1e-3
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self):
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.unit = partial(
            ConvNorm,
            norm_momentum=self.norm_momentum,
            norm_epsilon=self.norm_epsilon,
            **dtypes,
        )
        if self.num_classes:
            self.head = Dense(self.num_classes, **dtypes)
        if self.num_classes and self.auxiliary:
            self.auxiliary_head = AuxiliaryHead(
                self.num_classes,
                unit=self.unit,
                widths=tuple(max(1, round(w * self.width_factor)) for w in (128, 768)),
                norm_last=self.auxiliary_norm,
                **dtypes,
            )

    @nn.compact
    def stages(self, image: jax.Array, *, train: bool = False) -> tuple[jax.Array, ...]:
        """The maps at strides 8, 16 and 32: [B, h, w, C] each."""

        def block(x, branches, name):
            # torchvision's average pools count the padding.
            return InceptionBlock(
                scale_width(branches, self.width_factor),
                unit=self.unit,
                count_include_pad=True,
                name=name,
            )(x, train=train)

        stem = scale_width((*STEM, MAX_POOL), self.width_factor)
        x = run_steps(image, stem, unit=self.unit, name="stem", train=train)
        for i, pool_width in enumerate(self.pool_widths):
            x = block(x, block_a(pool_width, self.factorize_5x5), f"block_a_{i}")
        stride_8 = x
        x = block(x, REDUCTION_A, "reduction_a")
        for i, width in enumerate(self.factorized_widths):
            x = block(x, block_b(width), f"block_b_{i}")
        stride_16 = x
        x = block(x, REDUCTION_B, "reduction_b")
        for i in range(self.num_wide_blocks):
            x = block(x, BLOCK_C, f"block_c_{i}")
        return stride_8, stride_16, x

    def features(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """The last map: [B, h, w, C]."""
        return self.stages(image, train=train)[-1]

    def represent(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """One vector per image, what the head sees: [B, C]."""
        return self.features(image, train=train).mean((1, 2))

    @nn.compact
    def __call__(
        self, image: jax.Array, *, train: bool = False
    ) -> jax.Array | tuple[jax.Array, jax.Array]:
        """Logits [B, K] of normalised images, float [B, H, W, C].

        With an auxiliary head, training returns (logits, auxiliary logits).

        Raises:
            ValueError: images too small for the auxiliary head.
        """
        _, middle, last = self.stages(image, train=train)
        x = last.mean((1, 2))
        if not self.num_classes:
            return x
        dropout = nn.Dropout(self.dropout_rate, name="dropout")
        logits = self.head(dropout(x, deterministic=not train))
        if not self.auxiliary or not (train or self.is_initializing()):
            return logits
        auxiliary = self.auxiliary_head(middle, train=train)
        return (logits, auxiliary) if train else logits


InceptionV2 = partial(InceptionV3, factorize_5x5=True, auxiliary_norm=False)
