"""Inception v4: a uniform Inception network with a branching stem and special reductions.

Paper: C. Szegedy, S. Ioffe, V. Vanhoucke, A. Alemi, "Inception-v4, Inception-ResNet and the
Impact of Residual Connections on Learning", 2016, https://arxiv.org/abs/1602.07261.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers.dense import Dense
from vision.layers.conv_norm import ConvNorm
from vision.layers.inception import (
    AVERAGE_POOL,
    MAX_POOL,
    Branches,
    C,
    InceptionBlock,
    Steps,
    down,
    run_steps,
    scale_width,
)

ROW, COLUMN = (1, 7), (7, 1)

# Figure 3: three convolutions, then twice a pool beside a strided convolution, and in
# between 3x3 beside 7x7 in factors.
STEM: Steps = (down(32), C(32, 3, valid=True), C(64, 3))
STEM_BLOCKS: tuple[Branches, ...] = (
    ((MAX_POOL,), (down(96),)),
    (
        (C(64), C(96, 3, valid=True)),
        (C(64), C(64, ROW), C(64, COLUMN), C(96, 3, valid=True)),
    ),
    ((down(192),), (MAX_POOL,)),
)
# Figure 4, at stride 8: 384 channels.
BLOCK_A: Branches = (
    (C(96),),
    (C(64), C(96, 3)),
    (C(64), C(96, 3), C(96, 3)),
    (AVERAGE_POOL, C(96)),
)
# Figure 7 with k, l, m, n = 192, 224, 256, 384.
REDUCTION_A: Branches = (
    (down(384),),
    (C(192), C(224, 3), down(256)),
    (MAX_POOL,),
)
# Figure 5, at stride 16: 1024 channels.
BLOCK_B: Branches = (
    (C(384),),
    (C(192), C(224, ROW), C(256, COLUMN)),
    (C(192), C(192, COLUMN), C(224, ROW), C(224, COLUMN), C(256, ROW)),
    (AVERAGE_POOL, C(128)),
)
# Figure 8.
REDUCTION_B: Branches = (
    (C(192), down(192)),
    (C(256), C(256, ROW), C(320, COLUMN), down(320)),
    (MAX_POOL,),
)
# Figure 6, at stride 32: 1536 channels.
_FORK = (C(256, (1, 3)), C(256, (3, 1)))
BLOCK_C: Branches = (
    (C(256),),
    (C(384), _FORK),
    (C(384), C(448, (3, 1)), C(512, (1, 3)), _FORK),
    (AVERAGE_POOL, C(256)),
)


class InceptionV4(nn.Module):
    """Stem, three kinds of Inception blocks with reductions between, linear head.

    For images of 299 pixels; 75 are enough. Submodules: `stem_<i>`, `stem_block_<i>`,
    `block_a_<i>`, `reduction_a`, `block_b_<i>`, `reduction_b`, `block_c_<i>`, `head`.

    Args:
        num_classes: K; 0 leaves the head out.
        num_blocks: at strides 8, 16 and 32.
        dropout_rate: before the head.
        width_factor: of every channel count.
        norm_momentum, norm_epsilon: of BatchNorm; momentum weighs the old statistics.
        dtype: of the computation; None takes the input's.
        param_dtype: of the parameters.
    """

    num_classes: int
    num_blocks: tuple[int, int, int] = (4, 7, 3)
    dropout_rate: float = 0.2
    width_factor: float = 1.0
    norm_momentum: float = 0.9
    norm_epsilon: float = 1e-3
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self):
        if len(self.num_blocks) != 3:
            raise ValueError(
                f"num_blocks is {self.num_blocks}; give one number for each of strides "
                "8, 16 and 32"
            )
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.unit = partial(
            ConvNorm,
            norm_momentum=self.norm_momentum,
            norm_epsilon=self.norm_epsilon,
            **dtypes,
        )
        if self.num_classes:
            self.head = Dense(self.num_classes, **dtypes)

    @nn.compact
    def stages(self, image: jax.Array, *, train: bool = False) -> tuple[jax.Array, ...]:
        """The maps at strides 8, 16 and 32: [B, h, w, C] each."""

        def block(x, branches, name):
            branches = scale_width(branches, self.width_factor)
            return InceptionBlock(branches, unit=self.unit, name=name)(x, train=train)

        stem = scale_width(STEM, self.width_factor)
        x = run_steps(image, stem, unit=self.unit, name="stem", train=train)
        for i, branches in enumerate(STEM_BLOCKS):
            x = block(x, branches, f"stem_block_{i}")
        outputs = []
        for letter, branches, count, reduction in (
            ("a", BLOCK_A, self.num_blocks[0], REDUCTION_A),
            ("b", BLOCK_B, self.num_blocks[1], REDUCTION_B),
            ("c", BLOCK_C, self.num_blocks[2], None),
        ):
            for i in range(count):
                x = block(x, branches, f"block_{letter}_{i}")
            outputs.append(x)
            if reduction:
                x = block(x, reduction, f"reduction_{letter}")
        return tuple(outputs)

    def features(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """The last map: [B, h, w, C]."""
        return self.stages(image, train=train)[-1]

    def represent(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """One vector per image, what the head sees: [B, C]."""
        return self.features(image, train=train).mean((1, 2))

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits [B, K] of normalised images, float [B, H, W, C]."""
        x = self.represent(image, train=train)
        if not self.num_classes:
            return x
        dropout = nn.Dropout(self.dropout_rate, name="dropout")
        return self.head(dropout(x, deterministic=not train))
