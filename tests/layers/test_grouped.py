"""Grouped convolution: by dense convolutions the same as written for any device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from layers import grouped
from layers.grouped import convolved, grouped_conv, is_large_grouped


def inputs(image=(2, 9, 8, 12), window=(3, 3), groups=3, features=6, dtype=np.float32):
    rng = np.random.default_rng(0)
    shapes = image, (*window, image[-1] // groups, features)
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


@pytest.mark.parametrize(
    ("window", "strides", "padding"),
    [
        ((3, 3), (1, 1), "SAME"),
        ((3, 3), (2, 2), "VALID"),
        ((5, 2), (2, 3), ((1, 2), (4, 0))),
        ((1, 1), (1, 1), "SAME"),
    ],
)
@pytest.mark.parametrize("groups", [2, 12, 32])
def test_value_and_gradient_are_those_of_the_convolution(
    groups, window, strides, padding
):
    with jax.enable_x64(True):
        image, kernel = inputs(
            (2, 9, 8, 4 * groups), window, groups, 2 * groups, np.float64
        )
        shape = jax.eval_shape(
            lambda x, k: grouped_conv(x, k, strides, padding, groups), image, kernel
        ).shape
        direction = np.random.default_rng(1).normal(size=shape)

        def both(function):
            def loss(image, kernel):
                out = function(image, kernel, strides, padding, groups=groups)
                return (out * direction).sum(), out

            return jax.jit(jax.grad(loss, (0, 1), has_aux=True))(image, kernel)

        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-12),
            both(grouped_conv),
            both(convolved),
        )


def test_groups_join_until_a_core_is_busy_and_convolutions_are_few():
    assert grouped._joined(groups=32, channels=4) == 16  # ResNeXt-50, 128 channels
    assert grouped._joined(groups=32, channels=8) == 8
    assert grouped._joined(groups=32, channels=32) == 4  # of 1,024 channels
    assert grouped._joined(groups=2, channels=48) == 1  # AlexNet's streams
    assert grouped._joined(groups=3, channels=1) == 3
    assert grouped._joined(groups=14, channels=24) == 2
    assert grouped._joined(groups=13, channels=24) == 13


def test_only_large_ones_are_worth_it():
    image, kernel = inputs((2, 64, 64, 16), groups=4, features=32)
    assert is_large_grouped(image, kernel, 4)
    assert not is_large_grouped(image[:, :8, :8], kernel, 4)
    assert not is_large_grouped(image, jnp.ones((3, 3, 16, 32)), 1)
    assert not is_large_grouped(jnp.ones((2, 2**20, 4)), jnp.ones((3, 2, 4)), 2)
