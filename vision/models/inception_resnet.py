"""Inception-ResNet v1 and v2: Inception blocks whose output is added to their input.

Paper: C. Szegedy, S. Ioffe, V. Vanhoucke, A. Alemi, "Inception-v4, Inception-ResNet and the
Impact of Residual Connections on Learning", 2016, https://arxiv.org/abs/1602.07261.

Deviations: v1 is the paper's figures 10 to 15. v2 is the network that the paper's authors
released (and timm has), not quite that of the figures: v1's stem and one plain Inception
block stand for v4's stem, blocks are twice as many, the last adds its residual unscaled and
without an activation, and a 1x1 convolution follows it. Residuals are scaled by 0.17, 0.1
and 0.2 as there; the paper says between 0.1 and 0.3.
"""

import dataclasses
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
from vision.layers.inception import (
    AVERAGE_POOL,
    MAX_POOL,
    STEM,
    Branches,
    C,
    InceptionBlock,
    Steps,
    down,
    run_branches,
    run_steps,
    scale_width,
)


@dataclasses.dataclass(frozen=True)
class Version:
    """The tables of one version of the network.

    Args:
        stem: the whole of it, down to stride 8.
        blocks: the branches of the residual blocks at strides 8, 16 and 32.
        reductions: in front of the second and the third.
        last_width: of v2's last block and 1x1 convolution; 0 where there are none.
        mixed: a plain block in front of the first residual one; empty for none.
    """

    stem: Steps
    blocks: tuple[Branches, Branches, Branches]
    reductions: tuple[Branches, Branches]
    last_width: int = 0
    mixed: Branches = ()


V1 = Version(
    stem=(*STEM, down(256)),
    blocks=(
        ((C(32),), (C(32), C(32, 3)), (C(32), C(32, 3), C(32, 3))),
        ((C(128),), (C(128), C(128, (1, 7)), C(128, (7, 1)))),
        ((C(192),), (C(192), C(192, (1, 3)), C(192, (3, 1)))),
    ),
    reductions=(
        ((down(384),), (C(192), C(192, 3), down(256)), (MAX_POOL,)),
        (
            (C(256), down(384)),
            (C(256), down(256)),
            (C(256), C(256, 3), down(256)),
            (MAX_POOL,),
        ),
    ),
)
V2 = Version(
    stem=(*STEM, MAX_POOL),
    mixed=(
        (C(96),),
        (C(48), C(64, 5)),
        (C(64), C(96, 3), C(96, 3)),
        (AVERAGE_POOL, C(64)),
    ),
    blocks=(
        ((C(32),), (C(32), C(32, 3)), (C(32), C(48, 3), C(64, 3))),
        ((C(192),), (C(128), C(160, (1, 7)), C(192, (7, 1)))),
        ((C(192),), (C(192), C(224, (1, 3)), C(256, (3, 1)))),
    ),
    reductions=(
        ((down(384),), (C(256), C(256, 3), down(384)), (MAX_POOL,)),
        (
            (C(256), down(384)),
            (C(256), down(288)),
            (C(256), C(288, 3), down(320)),
            (MAX_POOL,),
        ),
    ),
    last_width=1536,
)
VERSIONS = {"v1": V1, "v2": V2}


class InceptionResNet(nn.Module):
    """Stem, three kinds of residual Inception blocks with reductions between, linear head.

    For images of 299 pixels; 75 are enough. Submodules: `stem_<i>`, `mixed` (v2),
    `block_a_<i>`, `reduction_a`, `block_b_<i>`, `reduction_b`, `block_c_<i>`, `last_block`
    and `last_conv` (v2), `head`.

    Args:
        num_classes: K; 0 leaves the head out.
        version: 'v1' or 'v2'.
        num_blocks: at strides 8, 16 and 32; v2's last block is one of them.
        scales: of the residuals at strides 8, 16 and 32.
        dropout_rate: before the head.
        width_factor: of every channel count.
        norm_momentum, norm_epsilon: of BatchNorm; momentum weighs the old statistics.
        dtype: of the computation; None takes the input's.
        param_dtype: of the parameters.
    """

    num_classes: int
    version: str
    num_blocks: tuple[int, int, int]
    scales: tuple[float, float, float] = (0.17, 0.1, 0.2)
    dropout_rate: float = 0.2
    width_factor: float = 1.0
    norm_momentum: float = 0.9
    norm_epsilon: float = 1e-3
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self):
        if self.version not in VERSIONS:
            raise ValueError(
                f"version is {self.version!r}; known: {', '.join(VERSIONS)}"
            )
        for name in ("num_blocks", "scales"):
            if len(getattr(self, name)) != 3:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; give one number for each of "
                    "strides 8, 16 and 32"
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
        version = VERSIONS[self.version]

        def block(x, branches, name, kind=InceptionBlock, **fields):
            branches = scale_width(branches, self.width_factor)
            return kind(branches, unit=self.unit, name=name, **fields)(x, train=train)

        stem = scale_width(version.stem, self.width_factor)
        x = run_steps(image, stem, unit=self.unit, name="stem", train=train)
        if version.mixed:
            x = block(x, version.mixed, "mixed")
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        outputs = []
        for k, letter in enumerate("abc"):
            if k:
                reduction = version.reductions[k - 1]
                x = block(x, reduction, f"reduction_{'abc'[k - 1]}")
            residual = partial(
                block, branches=version.blocks[k], kind=ResidualBlock, **dtypes
            )
            bare = int(k == 2 and version.last_width > 0)
            for i in range(self.num_blocks[k] - bare):
                x = residual(x, name=f"block_{letter}_{i}", scale=self.scales[k])
            if bare:
                x = residual(x, name="last_block", scale=1.0, activate=False)
                last = scale_width(C(version.last_width), self.width_factor)
                x = self.unit(last.features, name="last_conv")(x, train=train)
            outputs.append(x)
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


class ResidualBlock(nn.Module):
    """relu(x + scale * residual), the residual a 1x1 convolution of the branches.

    The convolution has a bias and no norm, and restores the input's channels. Submodules:
    `branch_<i>_<j>` as in `InceptionBlock`, and `residual`.

    Args:
        branches: the table.
        unit: makes the module of a convolution, from the fields of `ConvNorm`.
        scale: of the residual.
        activate: else no relu.
    """

    branches: Branches
    unit: Callable[..., nn.Module]
    scale: float = 1.0
    activate: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """[B, H, W, C] -> [B, H, W, C]."""
        y = run_branches(x, self.branches, unit=self.unit, train=train)
        residual = Conv(
            x.shape[-1],
            kernel_size=(1, 1),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="residual",
        )(y)
        y = x + self.scale * residual
        return relu(y) if self.activate else y


InceptionResNetV1 = partial(InceptionResNet, version="v1", num_blocks=(5, 10, 5))
InceptionResNetV2 = partial(InceptionResNet, version="v2", num_blocks=(10, 20, 10))
