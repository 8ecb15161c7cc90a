"""Local response normalisation: the formula, groups, precision, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.layers.local_response import local_response_norm


@pytest.mark.parametrize("groups", [1, 2])
def test_it_is_the_formula_channel_by_channel(groups):
    x = np.random.default_rng(0).normal(scale=20, size=(2, 3, 8))
    expected = np.empty_like(x)
    width = 8 // groups
    for i in range(8):
        first = i // width * width
        window = x[..., max(first, i - 2) : min(first + width, i + 3)]
        total = (window**2).sum(-1)
        expected[..., i] = x[..., i] / (2 + 1e-4 * total) ** 0.75
    ours = local_response_norm(jnp.asarray(x, jnp.float32), groups=groups)
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_a_strong_neighbour_inhibits_and_a_distant_channel_does_not():
    x = jnp.ones((1, 9)).at[0, 4].set(1000.0)
    y = local_response_norm(x)[0]
    alone = local_response_norm(jnp.ones((1, 9)))[0]
    assert (y[2:4] < alone[2:4] / 10).all() and (y[5:7] < alone[5:7] / 10).all()
    np.testing.assert_array_equal(
        y[jnp.array([0, 1, 7, 8])], alone[jnp.array([0, 1, 7, 8])]
    )


def test_half_precision_is_computed_in_float32():
    x = jnp.full((1, 5), 300.0, jnp.float16)  # 300 squared is beyond float16
    y = local_response_norm(x)
    assert y.dtype == jnp.float16
    expected = local_response_norm(x.astype(jnp.float32))
    np.testing.assert_allclose(y, expected, rtol=1e-3)


def test_gradient_is_finite_at_zero():
    grad = jax.grad(lambda x: local_response_norm(x).sum())(jnp.zeros((2, 6)))
    np.testing.assert_allclose(grad, 2**-0.75, rtol=1e-6)


def test_errors_name_the_value():
    with pytest.raises(ValueError, match="size of the window is 4; give an odd number"):
        local_response_norm(jnp.ones((1, 8)), size=4)
    with pytest.raises(ValueError, match="7 channels do not divide into groups=2"):
        local_response_norm(jnp.ones((1, 7)), groups=2)
