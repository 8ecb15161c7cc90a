"""Structured self-attention: by hand, padding, penalty, counts, learning."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nlp.models.self_attentive_classifier import SelfAttentiveClassifier

TOKENS = np.array([[3, 4, 5, 6], [7, 8, 0, 0], [0, 0, 0, 0]], np.int32)


def tiny(**fields):
    sizes = {"embed_dim": 5, "hidden_dim": 4, "attention_dim": 3, "mlp_dim": 6}
    return SelfAttentiveClassifier(2, 9, **{**sizes, "num_hops": 2, **fields})


def drawn(model, seed=0):
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, jax.random.key(0), TOKENS)
    return jax.tree.map(
        lambda s: (0.5 * rng.normal(size=s.shape)).astype(np.float32), shapes
    )


def test_the_formulas_by_hand():
    model = tiny()
    variables = drawn(model)

    @jax.jit
    def run(tokens):
        output, seen = model.apply(
            variables,
            tokens,
            capture_intermediates=lambda m, _: m.name == "encoder",
            mutable=["intermediates"],
        )
        vector = model.apply(variables, tokens, method="represent")
        return output, vector, seen["intermediates"]["encoder"]["__call__"][0][0]

    output, vector, states = run(TOKENS)
    params = variables["params"]
    for row, length in ((0, 4), (1, 2)):
        H = np.asarray(states[row, :length])
        W1, W2 = (
            params[f"attention_{name}"]["kernel"].T for name in ("hidden", "hops")
        )
        scores = np.exp(W2 @ np.tanh(W1 @ H.T))
        A = scores / scores.sum(1, keepdims=True)
        np.testing.assert_allclose(output.weights[row, :, :length], A, atol=1e-5)
        assert not output.weights[row, :, length:].any()
        penalty = np.linalg.norm(A @ A.T - np.eye(2), "fro") ** 2
        np.testing.assert_allclose(output.penalty[row], penalty, rtol=1e-4)
        M = (A @ H).reshape(-1)
        np.testing.assert_allclose(vector[row], M, atol=1e-5)
        hidden = np.maximum(
            M @ params["hidden"]["kernel"] + params["hidden"]["bias"], 0
        )
        logits = hidden @ params["head"]["kernel"] + params["head"]["bias"]
        np.testing.assert_allclose(output.logits[row], logits, atol=1e-5)
    assert output.logits.shape == (3, 2) and vector.shape == (3, 2 * 8)


def test_padding_changes_nothing_and_an_empty_sentence_is_no_nan():
    model = tiny(num_layers=2, cell="gru")
    variables = drawn(model)

    @jax.jit
    def run(tokens):
        def loss(variables):
            output = model.apply(variables, tokens)
            return output.logits.sum() + output.penalty.sum(), output

        return jax.grad(loss, has_aux=True)(variables)

    grads, output = run(TOKENS)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    _, padded = run(np.pad(TOKENS, ((0, 0), (2, 3))))
    np.testing.assert_allclose(padded.logits, output.logits, atol=1e-5)
    np.testing.assert_allclose(padded.weights[:, :, 2:-3], output.weights, atol=1e-5)
    np.testing.assert_allclose(padded.penalty, output.penalty, atol=1e-5)
    assert not output.weights[2].any()
    np.testing.assert_allclose(output.penalty[2], 2)


def test_parameter_counts_of_the_paper_by_hand():
    """Its Yelp model: words of 100, LSTM of 300, 350 and 30 hops, MLP of 3000, 5 stars."""
    model = SelfAttentiveClassifier(5, 20_000, mlp_dim=3000)
    shapes = jax.eval_shape(model.init, jax.random.key(0), TOKENS)
    lstm = 2 * 4 * 300 * (100 + 300 + 2)
    attention = 600 * 350 + 350 * 30
    dense = (30 * 600 + 1) * 3000 + (3000 + 1) * 5
    expected = 20_000 * 100 + lstm + attention + dense
    assert sum(x.size for x in jax.tree.leaves(shapes)) == expected


@pytest.mark.slow
def test_it_learns_whether_a_word_occurs_and_looks_at_it():
    rng = np.random.default_rng(0)
    tokens = rng.integers(4, 9, (32, 6)).astype(np.int32)
    label = np.arange(32) % 2
    place = rng.integers(0, 6, 32)
    tokens[label == 1, place[label == 1]] = 3
    model = tiny(embed_dim=8, hidden_dim=8, attention_dim=8, mlp_dim=0)
    optimizer = optax.adam(2e-2)
    params = drawn(model)["params"]

    def loss_fn(params):
        output = model.apply({"params": params}, tokens)
        entropy = optax.softmax_cross_entropy_with_integer_labels
        return entropy(output.logits, label).mean() + 0.01 * output.penalty.mean()

    def step(carry, _):
        params, state = carry
        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, state = optimizer.update(grads, state)
        return (optax.apply_updates(params, updates), state), loss

    train = jax.jit(lambda carry: jax.lax.scan(step, carry, None, length=60))
    (params, _), losses = train((params, optimizer.init(params)))
    output = jax.jit(model.apply)({"params": params}, tokens)
    assert losses[0] > 0.5
    assert (output.logits.argmax(-1) == label).all()


def test_dropout_acts_in_training_alone():
    model = tiny(dropout_rate=0.5)
    variables = drawn(model)
    plain = jax.jit(model.apply)(variables, TOKENS).logits
    # A generator that compiles faster than the default.
    rngs = {"dropout": jax.random.key(0, impl="unsafe_rbg")}
    train = jax.jit(functools.partial(model.apply, train=True))
    assert not np.allclose(plain, train(variables, TOKENS, rngs=rngs).logits, atol=1e-3)
    expected = jax.jit(tiny().apply)(variables, TOKENS).logits
    np.testing.assert_allclose(expected, plain, atol=1e-6)


def test_errors_name_the_value():
    with pytest.raises(ValueError, match="unknown cell 'rnn'"):
        jax.eval_shape(tiny(cell="rnn").init, jax.random.key(0), jnp.asarray(TOKENS))
