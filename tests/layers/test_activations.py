import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from layers import activations
from layers.activations import activation_function, gelu


def test_gelu_has_value_and_gradient_of_the_formula():
    x = np.concatenate([np.linspace(-8, 8, 401), [-30.0, 30.0]])
    with jax.enable_x64(True):
        value, grad = jax.jit(jax.vmap(jax.value_and_grad(gelu)))(x)
    cumulative = np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in x])
    density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    np.testing.assert_allclose(value, x * cumulative, rtol=0, atol=1e-14)
    np.testing.assert_allclose(grad, cumulative + x * density, rtol=0, atol=1e-14)


def test_gelu_in_float32_and_bfloat16_stays_close():
    x = np.linspace(-8, 8, 4001, dtype=np.float32)
    exact = x * np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in x])
    assert np.abs(gelu(jnp.asarray(x)) - exact).max() < 2e-6
    half = jnp.asarray(x, jnp.bfloat16)
    exact = np.asarray(half, np.float32)
    exact = exact * np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in exact])
    out = gelu(half)
    assert out.dtype == jnp.bfloat16
    # One rounding to 8 bits, also in the tail, where 1 + erf in bfloat16 would be zero.
    np.testing.assert_allclose(np.asarray(out, np.float32), exact, rtol=5e-3, atol=2e-6)


@pytest.mark.parametrize(
    "output, name, factor",
    [
        ("gelu_exact", "gelu", 1),
        ("gelu_tanh", "gelu_tanh", 1),
        ("quick_gelu", "quick_gelu", 1),
        ("silu", "silu", 1),
        # The fixture widens these two's input, to reach their corners.
        ("hardswish", "hard_swish", 4),
        ("hardsigmoid", "hard_sigmoid", 4),
    ],
)
def test_parity_with_torch(parity, output, name, factor):
    _, arrays = parity("micro_ops")
    y = activation_function(name)(jnp.asarray(factor * arrays["in_t"]))
    expected = arrays[f"out_{output}"]
    assert np.abs(y - expected).max() <= 1e-5 * np.abs(expected).max()


def test_names_survive_json_and_mean_the_functions():
    for name, function in activations.NAMED.items():
        assert activation_function(json.loads(json.dumps(name))) is function
        assert getattr(activations, name) is function
    assert activation_function(jnp.sin) is jnp.sin


def test_unknown_name_is_told_the_known_ones():
    with pytest.raises(ValueError, match="'gelo'.*gelu, gelu_tanh"):
        activation_function("gelo")


def test_quick_gelu_and_squared_relu_formulas():
    x = np.linspace(-3, 3, 13, dtype=np.float32)
    np.testing.assert_allclose(
        activations.quick_gelu(x), x / (1 + np.exp(-1.702 * x)), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(activations.squared_relu(x), np.maximum(x, 0) ** 2)
