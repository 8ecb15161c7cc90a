import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from layers.activations import gelu
from layers.mlp import Mlp

KEY = jax.random.key(0)
X = jnp.asarray(np.random.default_rng(1).normal(size=(2, 5, 8)), jnp.float32)


def test_is_two_dense_layers_and_an_activation():
    y, variables = Mlp(16, out_dim=3).init_with_output(KEY, X)
    up, down = variables["params"]["up"], variables["params"]["down"]
    assert up["kernel"].shape == (8, 16) and down["kernel"].shape == (16, 3)
    hidden = gelu(X @ up["kernel"] + up["bias"])
    np.testing.assert_allclose(
        y, hidden @ down["kernel"] + down["bias"], rtol=1e-5, atol=1e-6
    )


def test_activation_by_name_or_function():
    variables = Mlp(16).init(KEY, X)
    by_name = Mlp(16, activation="gelu_tanh").apply(variables, X)
    np.testing.assert_array_equal(
        by_name, Mlp(16, activation=nn.gelu).apply(variables, X)
    )
    assert (by_name != Mlp(16, activation="relu").apply(variables, X)).any()
    with pytest.raises(ValueError, match="unknown activation 'geluu'"):
        Mlp(16, activation="geluu").apply(variables, X)


def test_positions_do_not_mix():
    variables = Mlp(16).init(KEY, X)
    jacobian = jax.jacobian(lambda x: Mlp(16).apply(variables, x))(X[:1])
    influence = np.abs(jacobian).sum((2, 5))[0, :, 0]
    assert (influence[~np.eye(5, dtype=bool)] == 0).all()
    assert (np.diag(influence) > 0).all()


def test_dropout_only_in_training_and_by_key():
    layer = Mlp(16, dropout_rate=0.5)
    variables = layer.init(KEY, X)

    def run(key):
        return layer.apply(variables, X, train=True, rngs={"dropout": key})

    np.testing.assert_array_equal(run(KEY), run(KEY))
    assert (run(KEY) != run(jax.random.key(7))).any()
    assert (run(KEY) != layer.apply(variables, X)).any()


def test_half_precision_computation_with_float32_parameters():
    y, variables = Mlp(16, dtype="bfloat16").init_with_output(KEY, X)
    assert y.dtype == jnp.bfloat16
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
