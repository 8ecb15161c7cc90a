"""Attention by its properties and against the plain formula, JAX's and Linen's."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from layers.attention import MultiHeadAttention, dot_product_attention
from layers.masks import causal_mask, padding_mask
from layers.transformer import Encoder

KEY = jax.random.key(0)
B, T, S, N, H = 2, 5, 7, 4, 3


def inputs(kv_heads=N, dtype=np.float32):
    rng = np.random.default_rng(0)
    shapes = (B, T, N, H), (B, S, kv_heads, H), (B, S, kv_heads, H)
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def formula(query, key, value, mask=None, bias=0.0):
    """One query at a time, in numpy, float64."""
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    key, value = (np.repeat(x, N // x.shape[2], axis=2) for x in (key, value))
    mask = np.broadcast_to(True if mask is None else mask, (B, N, T, S))
    bias = np.broadcast_to(bias, (B, N, T, S))
    output, weights = np.zeros((B, T, N, H)), np.zeros((B, N, T, S))
    for b, n, t in np.ndindex(B, N, T):
        allowed = mask[b, n, t]
        if not allowed.any():
            continue
        logits = key[b, :, n] @ query[b, t, n] / np.sqrt(H) + bias[b, n, t]
        exponentials = np.exp(logits) * allowed
        weights[b, n, t] = exponentials / exponentials.sum()
        output[b, t, n] = weights[b, n, t] @ value[b, :, n]
    return output, weights


def random_mask():
    mask = jax.random.bernoulli(KEY, 0.6, (B, N, T, S))
    return mask.at[0, 1, 2].set(False)  # one query may attend nowhere


@pytest.mark.parametrize("kv_heads", [N, 2, 1])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("implementation", ["einsum", "xla"])
def test_equals_the_formula(implementation, masked, kv_heads):
    query, key, value = inputs(kv_heads)
    mask = random_mask() if masked else None
    bias = jax.random.normal(KEY, (1, N, T, S))
    output = dot_product_attention(
        query, key, value, mask=mask, bias=bias, implementation=implementation
    )
    expected, _ = formula(query, key, value, mask, bias)
    np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-5)


def test_weights_are_those_of_the_formula_and_leave_the_output_alone():
    query, key, value = inputs()
    mask = random_mask()
    output, weights = dot_product_attention(
        query, key, value, mask=mask, return_weights=True, implementation="xla"
    )
    expected, expected_weights = formula(query, key, value, mask)
    np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(weights, expected_weights, rtol=1e-5, atol=1e-6)


def test_gradient_is_that_of_the_plain_softmax():
    with jax.enable_x64(True):
        mask, bias = random_mask(), jax.random.normal(KEY, (1, N, T, S), "float64")

        def plain(query, key, value, bias):
            logits = jnp.einsum("BTNH,BSNH->BNTS", query, key) / np.sqrt(H) + bias
            weights = jax.nn.softmax(logits, where=mask, axis=-1)
            weights = jnp.where(mask.any(-1, keepdims=True), weights, 0)
            return jnp.einsum("BNTS,BSNH->BTNH", weights, value)

        def ours(query, key, value, bias):
            return dot_product_attention(query, key, value, mask=mask, bias=bias)

        def value_and_gradients(attend):
            def scalar(*arguments):
                output = attend(*arguments)
                return jnp.sin(output).sum(), output

            gradient = jax.grad(scalar, argnums=(0, 1, 2, 3), has_aux=True)
            return jax.jit(gradient)(*inputs(dtype=np.float64), bias)

        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12),
            value_and_gradients(ours),
            value_and_gradients(plain),
        )


@pytest.mark.parametrize("implementation", ["einsum", "xla"])
def test_queries_that_may_attend_nowhere_give_zeros_and_finite_gradients(
    implementation,
):
    query, key, value = inputs()
    mask = jnp.ones((B, 1, T, S), bool).at[1, :, 3].set(False)

    def run(query, key, value):
        return dot_product_attention(
            query, key, value, mask=mask, implementation=implementation
        )

    output = run(query, key, value)
    assert (output[1, 3] == 0).all() and (output[1, 2] != 0).all()
    scalar = jax.jit(jax.grad(lambda *a: (run(*a) + 1).prod(), (0, 1, 2)))
    gradients = scalar(query, key, value)
    assert all(np.isfinite(g).all() for g in gradients)
    assert (gradients[0][1, 3] == 0).all()


@pytest.mark.parametrize("implementation", ["einsum", "xla"])
def test_causality_by_gradients(implementation):
    query, key, value = inputs()
    key, value = key[:, :T], value[:, :T]
    attend = functools.partial(
        dot_product_attention, causal=True, implementation=implementation
    )
    jacobian = jax.jacobian(lambda v: attend(query, key, v).sum((0, 2, 3)))(value)
    influence = np.abs(jacobian).sum((1, 3, 4))  # [T, T]
    np.testing.assert_array_equal(influence > 0, np.tril(np.ones((T, T), bool)))
    np.testing.assert_allclose(
        attend(query, key, value),
        dot_product_attention(query, key, value, mask=causal_mask(T)),
        rtol=1e-5,
        atol=1e-6,
    )
    # With a mask too: only what both allow. The first query is left with nothing.
    mask = jnp.ones((B, 1, 1, T), bool).at[..., 0].set(False)
    both = attend(query, key, value, mask=mask)
    assert (both[:, 0] == 0).all() and (both[:, 1] != 0).all()


def test_padded_keys_have_no_effect():
    query, key, value = inputs()
    short = dot_product_attention(query, key[:, :4], value[:, :4])
    mask = padding_mask(jnp.broadcast_to(jnp.arange(S) < 4, (B, S)))
    padded = dot_product_attention(
        query, key.at[:, 4:].set(1e4), value.at[:, 4:].set(1e4), mask=mask
    )
    np.testing.assert_allclose(padded, short, rtol=1e-5, atol=1e-6)


def test_half_precision_softmax_is_in_float32():
    query, key, value = inputs(dtype=jnp.bfloat16)
    output = dot_product_attention(query, key, value)
    assert output.dtype == jnp.bfloat16
    expected, _ = formula(*(np.asarray(x, np.float32) for x in (query, key, value)))
    np.testing.assert_allclose(output.astype(jnp.float32), expected, atol=0.02)
    jaxpr = str(jax.make_jaxpr(dot_product_attention)(query, key, value))
    assert "f32[2,4,5,7] = exp" in jaxpr


@pytest.mark.parametrize(
    "options, message",
    [
        ({"implementation": "flash"}, "unknown attention implementation 'flash'"),
        ({"implementation": "cudnn"}, "'cudnn' needs an NVIDIA GPU.*cpu"),
        ({"mask": jnp.ones((T, S), bool)}, r"bool of shape \(5, 7\); it must be"),
        ({"mask": jnp.ones((1, 1, T, S))}, "is float32 of shape"),
        (
            {"implementation": "xla", "dropout_rate": 0.1, "dropout_rng": KEY},
            "'xla' has no dropout",
        ),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        dot_product_attention(*inputs(), **options)


X = jnp.asarray(np.random.default_rng(1).normal(size=(B, T, 12)), jnp.float32)
MEMORY = jnp.asarray(np.random.default_rng(2).normal(size=(B, S, 6)), jnp.float32)


@pytest.mark.parametrize("memory", [None, MEMORY], ids=["self", "cross"])
def test_layer_equals_linens(memory):
    ours = MultiHeadAttention(N)
    linen = nn.MultiHeadDotProductAttention(N)
    variables = jax.jit(ours.init)(KEY, X, memory)
    shapes = jax.tree.map(jnp.shape, jax.eval_shape(linen.init, KEY, X, memory))
    assert jax.tree.map(jnp.shape, variables) == shapes
    mask = jax.random.bernoulli(KEY, 0.7, (B, 1, T, T if memory is None else S))
    mask = mask.at[..., 0].set(True)
    np.testing.assert_allclose(
        ours.apply(variables, X, memory, mask=mask),
        linen.apply(variables, X, memory, mask=mask),
        rtol=1e-5,
        atol=1e-6,
    )


def test_layer_without_mask_or_positions_commutes_with_permutations():
    layer = MultiHeadAttention(N)
    variables = jax.jit(layer.init)(KEY, X)
    order = jnp.array([3, 0, 4, 1, 2])
    np.testing.assert_allclose(
        layer.apply(variables, X[:, order]),
        layer.apply(variables, X)[:, order],
        rtol=1e-5,
        atol=1e-6,
    )
    causal = MultiHeadAttention(N, causal=True)
    assert not np.allclose(
        causal.apply(variables, X[:, order]), causal.apply(variables, X)[:, order]
    )


def test_layer_shapes_are_fields():
    layer = MultiHeadAttention(N, head_dim=5, out_dim=9, num_kv_heads=2, use_bias=False)
    (y, weights), variables = layer.init_with_output(
        KEY, X, MEMORY, return_weights=True
    )
    assert jax.tree.map(jnp.shape, variables["params"]) == {
        "query": {"kernel": (12, 4, 5)},
        "key": {"kernel": (6, 2, 5)},
        "value": {"kernel": (6, 2, 5)},
        "out": {"kernel": (4, 5, 9)},
    }
    assert y.shape == (B, T, 9) and weights.shape == (B, N, T, S)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    with pytest.raises(ValueError, match="num_heads=5 does not divide 12"):
        MultiHeadAttention(5).init(KEY, X)


def test_layer_drops_weights_only_in_training_and_by_key():
    layer = MultiHeadAttention(N, dropout_rate=0.5)
    variables = jax.jit(layer.init)(KEY, X)

    @jax.jit
    def run(key):
        return layer.apply(
            variables, X, train=True, return_weights=True, rngs={"dropout": key}
        )

    (y, weights), (again, _) = run(KEY), run(KEY)
    np.testing.assert_array_equal(y, again)
    assert (y != run(jax.random.key(7))[0]).any()
    plain, plain_weights = layer.apply(variables, X, return_weights=True)
    assert (y != plain).any()
    dropped = weights == 0
    assert 0.2 < dropped.mean() < 0.8
    np.testing.assert_allclose(
        weights[~dropped], 2 * plain_weights[~dropped], rtol=1e-5
    )
    kernel, bias = (variables["params"]["out"][name] for name in ("kernel", "bias"))
    value = nn.DenseGeneral((N, 3)).apply({"params": variables["params"]["value"]}, X)
    expected = jnp.einsum("BNTS,BSNH,NHD->BTD", weights, value, kernel) + bias
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_layer_computes_in_half_precision_with_float32_parameters():
    y, variables = MultiHeadAttention(N, dtype="bfloat16").init_with_output(KEY, X)
    assert y.dtype == jnp.bfloat16
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))


def test_layer_sows_its_weights_only_when_asked():
    layer = MultiHeadAttention(N, implementation="xla")
    variables = layer.init(KEY, X)
    assert set(variables) == {"params"}
    plain, weights = layer.apply(variables, X, return_weights=True)
    asked = {"mutable": ["attention_weights"]}
    y, found = layer.apply(variables, X, **asked)
    (sown,) = found["attention_weights"]["weights"]
    np.testing.assert_array_equal(y, plain)
    np.testing.assert_array_equal(sown, weights)
    (_, weights), found = layer.apply(variables, X, return_weights=True, **asked)
    np.testing.assert_array_equal(found["attention_weights"]["weights"][0], weights)
    assert layer.apply(variables, X, mutable=["other"])[1] == {}


@pytest.mark.parametrize("remat", ["none", "block"])
@pytest.mark.parametrize("scan", [False, True])
def test_blocks_sow_their_weights_also_from_inside_a_scan(scan, remat):
    encoder = Encoder(num_layers=2, num_heads=N, mlp_dim=8, scan=scan, remat=remat)
    variables = jax.eval_shape(encoder.init, KEY, X)
    assert set(variables) == {"params"}
    look = functools.partial(encoder.apply, mutable=["attention_weights"])
    found = jax.eval_shape(look, variables, X)[1]
    layer = {"attention": {"weights": ((B, N, T, T),)}}
    expected = {"attention_weights": {"block_0": layer, "block_1": layer}}
    if scan:
        stacked = {"attention": {"weights": ((2, B, N, T, T),)}}
        expected = {"attention_weights": {"blocks": stacked}}
    assert jax.tree.map(jnp.shape, found) == expected
