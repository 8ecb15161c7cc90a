import jax
import jax.numpy as jnp
import numpy as np
import pytest

from layers.drop_path import DropPath

X = jnp.asarray(np.random.default_rng(0).normal(size=(64, 3, 4)), jnp.float32)


def drop(field, key=1, **kwargs):
    rngs = {"dropout": jax.random.key(key)}
    return DropPath(field).apply({}, X, train=True, rngs=rngs, **kwargs)


def test_whole_examples_are_dropped_and_the_others_scaled():
    y = np.asarray(drop(0.25))
    dropped = (y == 0).all((1, 2))
    assert 0.1 < dropped.mean() < 0.45
    np.testing.assert_allclose(y[~dropped], np.asarray(X)[~dropped] / 0.75, rtol=1e-6)


def test_same_key_same_examples():
    np.testing.assert_array_equal(drop(0.5), drop(0.5))
    assert (drop(0.5) != drop(0.5, key=2)).any()


def test_a_rate_given_in_the_call_means_the_field():
    np.testing.assert_array_equal(drop(0.0, rate=jnp.float32(0.3)), drop(0.3))


def test_evaluation_and_rate_zero_need_no_randomness():
    np.testing.assert_array_equal(DropPath(0.5).apply({}, X, train=False), X)
    np.testing.assert_array_equal(DropPath(0.0).apply({}, X, train=True), X)


def test_rate_out_of_range_is_refused():
    with pytest.raises(ValueError, match="1.0 is not in"):
        drop(1.0)
