import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from layers.dense import Dense, DenseGeneral, flat_dot_general


@pytest.mark.parametrize(
    "lhs_shape, rhs_shape, contract",
    [
        ((2, 5, 8), (8, 6), ((2,), (0,))),
        ((2, 5, 3, 4), (3, 4, 6), ((2, 3), (0, 1))),
        ((2, 5, 8), (5, 3, 2), ((1,), (0,))),
        ((2, 5, 3, 4), (6, 4, 3), ((3, 2), (1, 2))),
        ((8,), (8, 3), ((0,), (0,))),
    ],
)
def test_flat_product_has_value_and_gradient_of_the_plain_one(
    lhs_shape, rhs_shape, contract
):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        lhs, rhs = rng.normal(size=lhs_shape), rng.normal(size=rhs_shape)
        numbers = (contract, ((), ()))

        def value(dot):
            def scalar(lhs, rhs):
                out = dot(lhs, rhs, numbers)
                return (jnp.sin(out) + out**2).sum(), out

            grad = jax.grad(scalar, argnums=(0, 1), has_aux=True)
            return jax.jit(grad)(lhs, rhs)

        ours, plain = value(flat_dot_general), value(lax.dot_general)
        assert jax.tree.map(jnp.shape, ours) == jax.tree.map(jnp.shape, plain)
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
            assert a.dtype == jnp.float64
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_flat_product_is_flat():
    jaxpr = jax.make_jaxpr(
        lambda x, w: flat_dot_general(x, w, (((2,), (0,)), ((), ())))
    )(jnp.ones((2, 5, 8)), jnp.ones((8, 3, 2)))
    (dot,) = [e for e in jaxpr.eqns if e.primitive.name == "dot_general"]
    assert [v.aval.shape for v in dot.invars] == [(10, 8), (8, 6)]


def test_batch_dimensions_are_passed_on():
    x, w = jnp.ones((4, 2, 3)), jnp.ones((4, 3, 5))
    out = flat_dot_general(x, w, (((2,), (1,)), ((0,), (0,))))
    assert out.shape == (4, 2, 5)


@pytest.mark.parametrize(
    "ours, linen",
    [
        (Dense(6), nn.Dense(6)),
        (Dense(6, use_bias=False), nn.Dense(6, use_bias=False)),
        (DenseGeneral((2, 3)), nn.DenseGeneral((2, 3))),
        (DenseGeneral(6, axis=(-2, -1)), nn.DenseGeneral(6, axis=(-2, -1))),
    ],
)
def test_equals_linen_in_parameters_and_output(ours, linen):
    key, x = (
        jax.random.key(0),
        jnp.asarray(np.random.default_rng(1).normal(size=(2, 5, 8)), jnp.float32),
    )
    variables = ours.init(key, x)
    jax.tree.map(np.testing.assert_array_equal, variables, linen.init(key, x))
    np.testing.assert_allclose(
        ours.apply(variables, x), linen.apply(variables, x), rtol=1e-5, atol=1e-6
    )


def test_dtypes_may_be_strings():
    layer = Dense(6, dtype="bfloat16", param_dtype="float32")
    out, variables = layer.init_with_output(jax.random.key(0), jnp.ones((2, 8)))
    assert out.dtype == jnp.bfloat16
    assert variables["params"]["kernel"].dtype == jnp.float32
