"""Inverted bottlenecks: rounding, shortcuts, what fusing means, and their memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.layers.inverted_bottleneck import (
    FusedInvertedBottleneck,
    InvertedBottleneck,
    divisible,
)

X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 6, 4)), jnp.float32)


@pytest.mark.parametrize(
    ("channels", "expected"),
    # Not below 90 %: 10 would round to 8, 18 to 16.
    [(3, 8), (8, 8), (10, 16), (11.9, 16), (12, 16), (18, 24), (20, 24), (44.8, 48)],
)
def test_widths_are_multiples_of_eight(channels, expected):
    assert divisible(channels) == expected
    assert 0.9 * channels <= divisible(channels) <= max(8, channels + 8)


@pytest.mark.parametrize("make", [InvertedBottleneck, FusedInvertedBottleneck])
def test_a_shortcut_joins_equal_shapes_only(make, random_variables):
    def silent(block):
        """The block's output when its last norm gives zero."""
        variables = random_variables(block, X)
        last = variables["params"]["project_norm"]
        variables["params"]["project_norm"] = jax.tree.map(np.zeros_like, last)
        return block.apply(variables, X)

    np.testing.assert_array_equal(silent(make(4, expanded=8)), X)
    assert not np.any(silent(make(8, expanded=8)))
    strided = silent(make(4, expanded=8, stride=2))
    assert strided.shape == (2, 3, 3, 4) and not np.any(strided)


def test_the_narrow_end_is_linear(random_variables):
    block = InvertedBottleneck(8, expanded=12)
    out = block.apply(random_variables(block, X), X)
    assert (out < 0).any() and (out > 0).any()


def test_no_expansion_leaves_its_layers_out(random_variables):
    thin = random_variables(InvertedBottleneck(8, expanded=4, reduced_dim=2), X)
    assert set(thin["params"]) == {
        "depthwise_conv",
        "depthwise_norm",
        "squeeze_excite",
        "project_conv",
        "project_norm",
    }
    fused = random_variables(FusedInvertedBottleneck(8, expanded=4), X)
    assert set(fused["params"]) == {"fused_conv", "fused_norm"}
    assert fused["params"]["fused_conv"]["kernel"].shape == (3, 3, 4, 8)


def test_fusing_the_linear_parts_gives_one_convolution(run):
    """A depthwise convolution after a 1x1 is a 3x3 whose kernel is their product."""
    options = {"activation": "identity", "norm_epsilon": 0.0}
    block = InvertedBottleneck(4, expanded=8, **options)
    variables = jax.jit(block.init)(jax.random.key(1), X)
    params = variables["params"]
    expand = params["expand_conv"]["kernel"][0, 0]
    depthwise = params["depthwise_conv"]["kernel"][:, :, 0]
    fused = FusedInvertedBottleneck(4, expanded=8, **options)
    fused_variables = jax.jit(fused.init)(jax.random.key(2), X)
    fused_variables["params"] |= {
        "fused_conv": {"kernel": jnp.einsum("HWF,CF->HWCF", depthwise, expand)},
        "project_conv": params["project_conv"],
    }
    np.testing.assert_allclose(
        run(fused, fused_variables, X), run(block, variables, X), atol=1e-5
    )


def grouped(block, params, size):
    """The branch, hidden channels taken `size` at a time: only as many are in memory."""

    def split(x, axis):
        return jnp.moveaxis(
            x.reshape(*x.shape[:axis], -1, size, *x.shape[axis + 1 :]), axis, 0
        )

    expand = split(params["expand_conv"]["kernel"], 3)
    depthwise = split(params["depthwise_conv"]["kernel"], 3)
    project = split(params["project_conv"]["kernel"], 2)
    part = block.clone(expanded=size)
    ones = {"scale": jnp.ones(size), "bias": jnp.zeros(size)}
    stats = {"mean": jnp.zeros(size), "var": jnp.ones(size)}
    norms = ("expand_norm", "depthwise_norm")

    def run(x):
        def add(total, kernels):
            inner = {
                name: {"kernel": kernel}
                for name, kernel in zip(
                    ("expand_conv", "depthwise_conv", "project_conv"),
                    kernels,
                    strict=True,
                )
            }
            variables = {
                "params": {
                    **inner,
                    **dict.fromkeys(norms, ones),
                    "project_norm": params["project_norm"],
                },
                "batch_stats": {
                    **dict.fromkeys(norms, stats),
                    "project_norm": {
                        "mean": jnp.zeros(block.features),
                        "var": jnp.ones(block.features),
                    },
                },
            }
            return total + part.apply(variables, x), None

        zeros = jnp.zeros((*x.shape[:3], block.features))
        return jax.lax.scan(add, zeros, (expand, depthwise, project))[0]

    return run


def test_the_hidden_map_need_never_be_whole():
    """The decks' claim about memory: of an inverted bottleneck only the narrow ends live.

    Its wide map can be made, used and thrown away a few channels at a time.
    """
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 32, 32, 4)), jnp.float32)
    # Without a shortcut (5 channels out of 4), and with fresh norms, which do nothing.
    block = InvertedBottleneck(5, expanded=48, norm_epsilon=0.0)
    variables = jax.jit(block.init)(jax.random.key(1), x)
    whole = jax.jit(lambda x: block.apply(variables, x))
    parts = jax.jit(grouped(block, variables["params"], 6))
    np.testing.assert_allclose(parts(x), whole(x), atol=1e-5)

    def memory(function):
        return function.lower(x).compile().memory_analysis().temp_size_in_bytes

    hidden = 4 * 32 * 32 * 48
    assert memory(whole) >= hidden
    assert memory(parts) < hidden / 2


def test_stochastic_depth_leaves_out_branches_of_whole_examples(random_variables):
    block = InvertedBottleneck(4, expanded=8, drop_path_rate=0.5)
    x = jnp.tile(X[:1], (64, 1, 1, 1))
    variables = random_variables(block, x)
    run = jax.jit(
        lambda train: block.apply(
            variables,
            x,
            train=train,
            rngs={"dropout": jax.random.key(3)},
            mutable="batch_stats",
        )[0],
        static_argnums=0,
    )
    left_out = (np.asarray(run(True)) == x).all((1, 2, 3))
    assert 16 < left_out.sum() < 48
    assert not (np.asarray(run(False)) == x).all((1, 2, 3)).any()


def test_fused_blocks_have_more_parameters(count_parameters):
    """Expansion and depthwise: C F + 9 F values; fused: 9 C F."""
    apart = count_parameters(InvertedBottleneck(4, expanded=8), X.shape)
    fused = count_parameters(FusedInvertedBottleneck(4, expanded=8), X.shape)
    assert apart == (4 * 8 + 2 * 8) + (9 * 8 + 2 * 8) + (8 * 4 + 2 * 4)
    assert fused == (9 * 4 * 8 + 2 * 8) + (8 * 4 + 2 * 4)
