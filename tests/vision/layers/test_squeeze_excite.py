"""Squeeze-and-excitation: a gate per channel, made of all channels' means."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.layers.squeeze_excite import SqueezeExcite

X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 5, 6)), jnp.float32)


def test_against_numpy(random_variables):
    model = SqueezeExcite(4)
    variables = random_variables(model, X)
    params = variables["params"]
    assert params["reduce"]["kernel"].shape == (1, 1, 6, 4)
    assert params["expand"]["kernel"].shape == (1, 1, 4, 6)
    mean = np.asarray(X).mean((1, 2))
    hidden = mean @ params["reduce"]["kernel"][0, 0] + params["reduce"]["bias"]
    scores = np.maximum(hidden, 0) @ params["expand"]["kernel"][0, 0]
    gates = 1 / (1 + np.exp(-scores - params["expand"]["bias"]))
    expected = np.asarray(X) * gates[:, None, None]
    np.testing.assert_allclose(model.apply(variables, X), expected, atol=1e-6)


@pytest.mark.parametrize(("bias", "gate"), [(-3.0, 0.0), (0.0, 0.5), (3.0, 1.0)])
def test_a_hard_gate_closes_and_opens_entirely(bias, gate):
    model = SqueezeExcite(4, gate="hard_sigmoid")
    params = model.init(jax.random.key(0), X)["params"]
    params["expand"] = {
        "kernel": jnp.zeros_like(params["expand"]["kernel"]),
        "bias": jnp.full(6, bias),
    }
    np.testing.assert_allclose(model.apply({"params": params}, X), gate * X, rtol=1e-6)


def test_where_a_pixel_is_does_not_matter_to_the_gates(random_variables):
    model = SqueezeExcite(4)
    variables = random_variables(model, X)
    order = np.random.default_rng(0).permutation(15)

    def shuffle(x):
        return x.reshape(2, 15, 6)[:, order].reshape(x.shape)

    np.testing.assert_allclose(
        model.apply(variables, shuffle(X)),
        shuffle(model.apply(variables, X)),
        atol=1e-6,
    )


def test_names_and_dtypes():
    model = SqueezeExcite(4, reduce_name="fc1", expand_name="fc2", dtype="bfloat16")
    shapes = jax.eval_shape(model.init, jax.random.key(0), X)
    assert set(shapes["params"]) == {"fc1", "fc2"}
    assert {str(x.dtype) for x in jax.tree.leaves(shapes)} == {"float32"}
    x = X.astype(jnp.bfloat16)
    assert jax.eval_shape(model.apply, shapes, x).dtype == jnp.bfloat16
