"""Inception modules: what a table builds."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from vision.layers.conv_norm import ConvNorm
from vision.layers.inception import (
    AVERAGE_POOL,
    MAX_POOL,
    C,
    InceptionBlock,
    down,
    scale_width,
)

IMAGE = jnp.asarray(np.random.default_rng(0).normal(size=(2, 7, 7, 4)), jnp.float32)
BRANCHES = (
    (C(2),),
    (C(3), (C(4, (1, 3)), C(5, (3, 1)))),
    (AVERAGE_POOL, C(6)),
)


def test_branches_lie_side_by_side_in_order():
    block = InceptionBlock(BRANCHES, unit=ConvNorm)
    y, variables = jax.jit(block.init_with_output)(jax.random.key(1), IMAGE)
    assert y.shape == (2, 7, 7, 2 + 4 + 5 + 6)
    assert set(variables["params"]) == {
        "branch_0_0",
        "branch_1_0",
        "branch_1_1a",
        "branch_1_1b",
        "branch_2_1",
    }
    weights = variables["params"]["branch_1_1b"]["conv"]["kernel"]
    assert weights.shape == (3, 1, 3, 5)
    first = {k: {"n": v["branch_0_0"]} for k, v in variables.items()}
    alone = jnp.maximum(IMAGE @ first["params"]["n"]["conv"]["kernel"][0, 0], 0)
    np.testing.assert_allclose(y[..., :2], alone / np.sqrt(1 + 1e-3), rtol=1e-4)


def test_a_reduction_halves_every_branch():
    block = InceptionBlock(((down(3),), (MAX_POOL,)), unit=ConvNorm)
    y, _ = jax.jit(block.init_with_output)(jax.random.key(1), IMAGE)
    assert y.shape == (2, 3, 3, 3 + 4)
    np.testing.assert_array_equal(y[:, 0, 0, 3:], IMAGE[:, :3, :3].max((1, 2)))


def test_statistics_follow_the_mode(run):
    block = InceptionBlock(BRANCHES, unit=partial(ConvNorm, norm_momentum=0.5))
    variables = jax.jit(block.init)(jax.random.key(1), IMAGE)
    for train in (True, False):
        options = {"train": train, "mutable": "batch_stats"}
        _, updated = run(block, variables, IMAGE, **options)
        for old, new in zip(
            jax.tree.leaves(variables["batch_stats"]),
            jax.tree.leaves(updated["batch_stats"]),
            strict=True,
        ):
            assert np.array_equal(old, new) != train


def test_scaled_tables_keep_at_least_one_channel():
    small = scale_width(BRANCHES, 1 / 3)
    assert small == (
        (C(1),),
        (C(1), (C(1, (1, 3)), C(2, (3, 1)))),
        (AVERAGE_POOL, C(2)),
    )
    assert scale_width(BRANCHES, 1.0) == BRANCHES
