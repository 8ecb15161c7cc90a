"""What is held in memory: the same numbers, and nothing computes them anew."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from layers.memory import held, relu_in_memory

X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 32, 32, 16)), jnp.float32)


def value_and_gradient(function):
    return jax.jit(jax.value_and_grad(lambda x: jnp.sin(function(2 * x)).sum()))


@pytest.mark.parametrize("x", [X, X.at[0, 0, 0, 0].set(jnp.nan), X[:1, :2], 0 * X])
def test_relu_is_jaxs_to_the_last_bit(x):
    np.testing.assert_array_equal(jax.jit(relu_in_memory)(x), jax.nn.relu(x))
    jax.tree.map(
        np.testing.assert_array_equal,
        value_and_gradient(relu_in_memory)(x),
        value_and_gradient(jax.nn.relu)(x),
    )


def test_under_vmap_and_checkpoint_it_is_the_same():
    expected = value_and_gradient(jax.nn.relu)(X)[1]
    stacked = jnp.stack([X, X.at[0, 0, 0, 0].set(jnp.nan)])
    found = jax.vmap(value_and_gradient(relu_in_memory))(stacked)[1][0]
    np.testing.assert_array_equal(found, expected)
    remade = value_and_gradient(jax.checkpoint(relu_in_memory))(X)[1]
    np.testing.assert_array_equal(remade, expected)


@pytest.mark.parametrize("witness", [0.0, jnp.nan])
def test_whatever_the_witness_says_nothing_changes(witness):
    np.testing.assert_array_equal(jax.jit(held)(X, witness), X)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="only CPUs have it so")
def test_nothing_is_computed_anew():
    def twice(x, witness, hold):
        y = hold(jnp.maximum(2 * x + 1, 0), witness)
        return y, y.transpose(3, 2, 1, 0)

    def maxima(hold):
        lowered = jax.jit(lambda *arrays: twice(*arrays, hold)).lower(X, X[0, 0, 0, 0])
        return lowered.compile().as_text().count(" maximum(")

    assert maxima(held) == 1 < maxima(lambda x, _: x)


def test_only_gradients_of_large_arrays_have_it_held():
    def holds(function, x):
        return "platform_index" in str(jax.make_jaxpr(function)(x))

    gradient = jax.grad(lambda x: relu_in_memory(x).sum())
    assert holds(gradient, X)
    assert not holds(gradient, X[:1])
    assert not holds(relu_in_memory, X)


@pytest.mark.skipif(jax.device_count() < 2, reason="needs several devices")
def test_shards_of_a_batch_stay_where_they_are():
    mesh = jax.make_mesh((4,), ("data",), (jax.sharding.AxisType.Auto,))
    sharding = jax.NamedSharding(mesh, jax.P("data"))
    compiled = (
        value_and_gradient(relu_in_memory).lower(jax.device_put(X, sharding)).compile()
    )
    assert "all-gather" not in compiled.as_text()
    _, gradient = compiled(jax.device_put(X, sharding))
    assert gradient.sharding.spec == jax.P("data")
    np.testing.assert_array_equal(gradient, value_and_gradient(jax.nn.relu)(X)[1])
