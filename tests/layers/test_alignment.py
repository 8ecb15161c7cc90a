"""Alignment: hand-computed weights, equal forms, masks, gradients, parts, windows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from layers.alignment import (
    KINDS,
    Alignment,
    Memory,
    additive_scores,
    masked_softmax,
    preceding_mask,
)

B, T, S, D = 2, 3, 4, 6


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def read(module, query, memory, mask=None):
    return module(query, module.prepare(memory, mask))


def drawn(module, query, memory):
    shapes = jax.eval_shape(
        lambda: module.init(jax.random.key(0), query, memory, method=read)
    )
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), shapes)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_sum_to_one_over_what_is_real_and_an_empty_memory_gives_zeros(kind):
    query, memory = normal(B, T, D), normal(B, S, D, seed=1)
    mask = np.array([[1, 1, 0, 0], [0, 0, 0, 0]], bool)
    module = Alignment(kind, attention_dim=5, memory_dim=D)
    variables = drawn(module, query, memory)

    @jax.jit
    def run(memory):
        def loss(memory):
            context, weights = module.apply(variables, query, memory, mask, method=read)
            return jnp.square(context).sum(), (context, weights)

        return jax.grad(loss, has_aux=True)(memory)

    gradient, (context, weights) = run(memory)
    np.testing.assert_allclose(weights[0].sum(-1), 1, atol=1e-6)
    assert not weights[0, :, 2:].any() and not weights[1].any()
    assert not context[1].any() and context[0].any()
    assert np.isfinite(gradient).all()
    assert not gradient[1].any() and not gradient[0, 2:].any()
    changed = memory.copy()
    changed[0, 2:] = 1e3
    np.testing.assert_allclose(run(changed)[1][0], context, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_memory_of_no_positions_gives_zeros(kind):
    query, memory = normal(B, T, D), np.zeros((B, 0, D), np.float32)
    module = Alignment(kind, attention_dim=5, memory_dim=D)
    variables = drawn(module, query, memory)
    context, weights = module.apply(variables, query, memory, method=read)
    assert weights.shape == (B, T, 0) and not context.any()


def test_both_ways_to_write_additive_attention_agree():
    """W [s; h] = W1 s + W2 h for W = [W1 W2]; v makes it a number."""
    query, memory = normal(B, T, D), normal(B, S, 7, seed=1)
    split = Alignment("additive", attention_dim=5)
    variables = drawn(split, query, memory)
    params = variables["params"]
    W1, W2 = params["query"]["kernel"], params["key"]["kernel"]
    b, v = params["query"]["bias"], params["score"]["kernel"]
    joint = {
        "joint": {"kernel": np.concatenate([W1, W2]), "bias": b},
        "score": params["score"],
    }
    whole = Alignment("concat", attention_dim=5)
    one = split.apply(variables, query, memory, method=read)
    other = whole.apply({"params": joint}, query, memory, method=read)
    for ours, theirs in zip(one, other, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    s, h = query[1, 2], memory[1, :]
    scores = np.array([float((np.tanh(W1.T @ s + W2.T @ x + b) @ v)[0]) for x in h])
    weights = np.exp(scores) / np.exp(scores).sum()
    np.testing.assert_allclose(one[1][1, 2], weights, atol=1e-5)
    np.testing.assert_allclose(one[0][1, 2], weights @ h, atol=1e-5)


def test_products_by_hand():
    query = jnp.array([[[1.0, 2.0, 0.0, 2.0]]])
    memory = jnp.array([[[1.0, 0.0, 0.0, 1.0], [0.0, 2.0, 1.0, 0.5]]])
    scores = {"dot": [3.0, 5.0], "scaled_dot": [1.5, 2.5]}
    for kind, expected in scores.items():
        _, weights = Alignment(kind).apply({}, query, memory, method=read)
        np.testing.assert_allclose(weights[0, 0], jax.nn.softmax(jnp.array(expected)))
    kernel = jnp.zeros((4, 4)).at[0, 0].set(2.0).at[1, 3].set(4.0)
    # s W = [2, 0, 0, 8], and its products with both positions are 10 and 4.
    _, weights = Alignment("general", memory_dim=4).apply(
        {"params": {"query": {"kernel": kernel}}}, query, memory, method=read
    )
    np.testing.assert_allclose(
        weights[0, 0], jax.nn.softmax(jnp.array([10.0, 4.0])), rtol=1e-5
    )


def test_products_of_random_states_need_the_scale():
    """Luong's dot has variance D on unit normal states; divided by sqrt(D) it is 1."""
    x, y = normal(20_000, 64), normal(20_000, 64, seed=1)
    products = (x * y).sum(-1)
    assert abs(products.var() / 64 - 1) < 0.05
    assert abs((products / 8).var() - 1) < 0.05
    sharp, soft = (
        Alignment(kind).apply({}, x[None, :200], y[None, :50], method=read)[1].max(-1)
        for kind in ("dot", "scaled_dot")
    )
    assert sharp.mean() > 0.7 and soft.mean() < 0.3


def test_the_gradient_of_additive_scores_is_the_plain_one():
    arguments = normal(B, T, 5), normal(B, S, 5, seed=1), normal(5, seed=2)
    weight = normal(B, T, S, seed=3)

    def plain(query, key, vector):
        return jnp.tanh(query[:, :, None] + key[:, None]) @ vector

    for fn in (additive_scores, plain):
        value, pull = jax.vjp(fn, *arguments)
        results = value, *pull(jnp.asarray(weight))
        if fn is additive_scores:
            ours = results
    for one, other in zip(ours, results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "parts"), [("key_value", 2), ("key_value_predict", 3)]
)
def test_keys_are_compared_values_are_read_and_the_rest_predicts(kind, parts):
    query, memory = normal(B, T, D), normal(B, S, D, seed=1)
    module = Alignment(kind, attention_dim=5)
    variables = drawn(module, query, memory)
    context, weights = module.apply(variables, query, memory, method=read)
    width = D // parts
    value = memory[..., width : 2 * width]
    np.testing.assert_allclose(context, weights @ value, atol=1e-5)
    for part in range(parts):
        changed = memory.copy()
        changed[..., part * width : (part + 1) * width] += normal(S, width, seed=2)
        other_context, other = module.apply(variables, query, changed, method=read)
        assert bool(np.allclose(other, weights)) is (part != 0)
        assert bool(np.allclose(other_context, context)) is (part == 2)
        asked = query.copy()
        asked[..., part * width : (part + 1) * width] += 1
        _, other = module.apply(variables, asked, memory, method=read)
        assert bool(np.allclose(other, weights)) is (part != 0)
    predicting = module.apply(variables, query, method="predicting")
    np.testing.assert_array_equal(predicting, query[..., -width:])


def test_a_window_sees_the_positions_just_before():
    expected = [[0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0]]
    np.testing.assert_array_equal(preceding_mask(4, 2)[0], np.array(expected, bool))
    states = normal(B, 4, D)
    module = Alignment("key_value", attention_dim=5, window=2)
    variables = drawn(module, states, states)
    real = np.array([[1, 1, 1, 1], [1, 0, 1, 1]], bool)
    context, weights = module.apply(variables, states, states, real, method=read)
    seen = np.array(expected, bool) & real[:, None]
    assert not weights[~seen].any() and (weights[seen] > 0).all()
    np.testing.assert_allclose(weights.sum(-1), seen.any(-1), atol=1e-6)
    assert not context[:, 0].any()


def test_masked_softmax_ignores_the_scores_of_padding():
    scores = jnp.array([1.0, 3e38, 2.0, -jnp.inf])
    mask = jnp.array([True, False, True, False])
    weights = masked_softmax(scores, mask)
    np.testing.assert_allclose(weights, [1 / (1 + np.e), 0, np.e / (1 + np.e), 0])
    half = masked_softmax(jnp.ones(4, jnp.bfloat16), mask)
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, [0.5, 0, 0.5, 0])


def test_errors_name_the_value():
    query, memory = normal(B, T, 6), normal(B, S, 8)
    with pytest.raises(ValueError, match="unknown attention 'luong'; known: additive"):
        Alignment("luong").init(jax.random.key(0), query, memory, method=read)
    with pytest.raises(
        ValueError, match="width 6 to a memory of width 8; use 'general'"
    ):
        Alignment("dot").apply({}, query, Memory(memory, memory))
    with pytest.raises(ValueError, match="into 3 parts, and 8 is not a multiple"):
        Alignment("key_value_predict", 4).init(
            jax.random.key(0), query, memory, method=read
        )
