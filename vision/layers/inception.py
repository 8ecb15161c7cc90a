"""Inception modules as tables: parallel branches of convolutions, put side by side.

    BLOCK = (
        (C(64),),
        (C(48), C(64, 5)),
        (AVERAGE_POOL, C(32)),
    )
    InceptionBlock(BLOCK, unit=ConvNorm)(x, train=train)

Paper: C. Szegedy, W. Liu, Y. Jia et al., "Going Deeper with Convolutions", 2014,
https://arxiv.org/abs/1409.4842.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers.pooling import avg_pool, max_pool


@dataclasses.dataclass(frozen=True)
class C:
    """A convolution of a table.

    Args:
        features: channels of its output.
        kernel: (height, width), or one number for a square.
        stride: for both dimensions.
        valid: without padding; else the size stays (at stride 1).
    """

    features: int
    kernel: int | tuple[int, int] = 1
    stride: int = 1
    valid: bool = False


MAX_POOL = "max_pool"  # 3x3, stride 2, no padding
AVERAGE_POOL = "average_pool"  # 3x3, stride 1, padded

# A tuple among the steps is a fork: its convolutions read the same, side by side.
Step = C | str | tuple[C, ...]
Steps = tuple[Step, ...]
Branches = tuple[Steps, ...]


def down(features: int) -> C:
    """The 3x3 convolution of a reduction: stride 2, no padding."""
    return C(features, 3, stride=2, valid=True)


# What Inception v3 and Inception-ResNet begin with, before they leave stride 4.
STEM: Steps = (
    down(32),
    C(32, 3, valid=True),
    C(64, 3),
    MAX_POOL,
    C(80),
    C(192, 3, valid=True),
)


def scale_width(table: Any, factor: float) -> Any:
    """The table with every convolution's channels times `factor`, at least one each."""
    if isinstance(table, tuple):
        return tuple(scale_width(entry, factor) for entry in table)
    if isinstance(table, C):
        features = max(1, round(table.features * factor))
        return dataclasses.replace(table, features=features)
    return table


def run_steps(
    x: jax.Array,
    steps: Steps,
    *,
    unit: Callable[..., nn.Module],
    name: str,
    train: bool,
    count_include_pad: bool = False,
) -> jax.Array:
    """One step after the other; to be called where a module may make submodules.

    Args:
        x: [B, H, W, C].
        unit: makes the module of a convolution, from the fields of `ConvNorm`.
        name: step j is submodule `<name>_<j>`, in a fork `<name>_<j>a`, `<name>_<j>b`.
        count_include_pad: of average pools, as in `layers.pooling.avg_pool`.

    Returns:
        [B, H', W', C'].
    """

    def convolve(x, step, name):
        return unit(
            step.features,
            kernel_size=step.kernel,
            strides=step.stride,
            padding="VALID" if step.valid else "SAME",
            name=name,
        )(x, train=train)

    for j, step in enumerate(steps):
        if isinstance(step, tuple):
            forks = zip("abcd", step, strict=False)
            parts = [convolve(x, s, f"{name}_{j}{letter}") for letter, s in forks]
            x = jnp.concatenate(parts, -1)
        elif step == MAX_POOL:
            x = max_pool(x, (3, 3), strides=(2, 2))
        elif step == AVERAGE_POOL:
            padding = ((1, 1), (1, 1))
            x = avg_pool(
                x, (3, 3), padding=padding, count_include_pad=count_include_pad
            )
        else:
            x = convolve(x, step, f"{name}_{j}")
    return x


def run_branches(x: jax.Array, branches: Branches, **options: Any) -> jax.Array:
    """All branches of x, side by side; step j of branch i is `branch_<i>_<j>`.

    Args:
        x: [B, H, W, C].
        options: of `run_steps`, without the name.

    Returns:
        [B, H', W', channels of all branches].
    """
    outputs = [
        run_steps(x, steps, name=f"branch_{i}", **options)
        for i, steps in enumerate(branches)
    ]
    return jnp.concatenate(outputs, -1)


class InceptionBlock(nn.Module):
    """All branches read the input; their outputs are concatenated in order.

    Submodules: `branch_<i>_<j>`, step j of branch i (pools count as steps).

    Args:
        branches: the table.
        unit: makes the module of a convolution, from the fields of `ConvNorm`.
        count_include_pad: of average pools, as in `layers.pooling.avg_pool`.
    """

    branches: Branches
    unit: Callable[..., nn.Module]
    count_include_pad: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """[B, H, W, C] -> [B, H', W', channels of all branches]."""
        return run_branches(
            x,
            self.branches,
            unit=self.unit,
            train=train,
            count_include_pad=self.count_include_pad,
        )
