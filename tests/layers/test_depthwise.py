"""Depthwise convolution: as sums of shifted images the same as written for any device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from layers.depthwise import depthwise_conv, is_large_depthwise
from layers.grouped import convolved


def inputs(image=(2, 9, 8, 3), window=(3, 3), dtype=np.float32):
    rng = np.random.default_rng(0)
    shapes = image, (*window, 1, image[-1])
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


@pytest.mark.parametrize(
    ("window", "strides", "padding"),
    [
        ((3, 3), (1, 1), "SAME"),
        ((3, 3), (2, 2), "SAME"),
        ((3, 3), (2, 2), "VALID"),
        ((5, 5), (2, 2), ((1, 2), (2, 2))),
        ((2, 7), (1, 3), ((0, 3), (4, 0))),
        ((1, 3), (3, 1), ((2, 1), (5, 4))),  # more border than window
        ((7, 7), (1, 1), "SAME"),
        ((13, 9), (2, 1), "SAME"),  # large: a sum of two
        ((1, 90), (1, 1), "SAME"),  # too large, and of one row
    ],
)
def test_value_and_gradient_are_those_of_the_convolution(window, strides, padding):
    with jax.enable_x64(True):
        image, kernel = inputs(window=window, dtype=np.float64)
        shape = jax.eval_shape(
            lambda *x: depthwise_conv(*x, strides, padding), image, kernel
        )
        weight = np.random.default_rng(1).normal(size=shape.shape)

        def both(function):
            def loss(*arrays):
                found = function(*arrays, strides, padding)
                return (found * weight).sum(), found

            return jax.jit(jax.grad(loss, (0, 1), has_aux=True))(image, kernel)

        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-12),
            both(depthwise_conv),
            both(functools.partial(convolved, groups=3)),
        )


def test_half_precision_sums_in_float32():
    image, kernel = inputs((1, 12, 12, 4), (9, 9))
    image, kernel = 1 + image.astype(jnp.bfloat16) / 8, kernel.astype(jnp.bfloat16)
    found = depthwise_conv(image, kernel, (1, 1), "SAME")
    wide = [x.astype(jnp.float32) for x in (image, kernel)]
    exact = convolved(*wide, (1, 1), "SAME", groups=4)
    assert found.dtype == jnp.bfloat16
    # One rounding at the end.
    np.testing.assert_allclose(found.astype(jnp.float32), exact, rtol=2**-8, atol=1e-5)


def test_only_large_ones_are_worth_it():
    image, kernel = inputs((2, 64, 64, 16))
    assert is_large_depthwise(image, kernel, 16)
    assert not is_large_depthwise(image[:, :8, :8], kernel, 16)
    assert not is_large_depthwise(image, kernel, 4)
    assert not is_large_depthwise(image, jnp.ones((3, 3, 1, 32)), 16)
    assert not is_large_depthwise(jnp.ones((2, 2**20, 2)), jnp.ones((3, 1, 2)), 2)
