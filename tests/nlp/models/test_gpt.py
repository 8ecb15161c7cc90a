"""GPT: parity with GPT-2, published counts, causality, packing, decoding, learning."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nlp.decoding import Rules, begin, greedy
from nlp.models import gpt
from nlp.models.gpt import GPT

V, T = 13, 8
TOKENS = np.random.default_rng(3).integers(1, V, (3, T)).astype(np.int32)
LATER = {
    "norm": "rms",
    "gated": True,
    "num_kv_heads": 2,
    "use_bias": False,
    "tie_embeddings": False,
    "activation": "silu",
}
KINDS = {
    "learned": {},
    "scan": {"scan": True},
    "rotary": {"positions": "rotary", **LATER},
    "alibi": {"positions": "alibi"},
    "sincos": {"positions": "sincos"},
}


def tiny(**fields):
    sizes = {"vocab_size": V, "max_length": 12, "embed_dim": 16, "num_layers": 2}
    return GPT(**{**sizes, "num_heads": 4, "mlp_dim": 24, **fields})


def drawn(model, seed=0):
    """Variables shaped as `init` makes them, by numpy and nowhere zero."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, jax.random.key(0), TOKENS)
    return jax.tree.map(
        lambda s: (0.4 * rng.normal(size=s.shape)).astype(np.float32), shapes
    )


def fixture_model(**fields):
    sizes = {"vocab_size": 99, "max_length": 32, "embed_dim": 32, "num_layers": 3}
    return GPT(**sizes, num_heads=4, **fields)


@pytest.mark.parametrize(
    "fields", [{}, {"scan": True, "attention_implementation": "xla"}]
)
def test_parity(fields, parity, imported, assert_parity):
    model = fixture_model(**fields)
    arrays = parity("gpt2_hf")[1]
    tokens = arrays["in_input_ids"].astype(np.int32)
    variables = imported(model, "gpt2_hf", tokens)

    @jax.jit
    def run(tokens):
        hidden, blocks = model.apply(
            variables, tokens, return_intermediates=True, method="hidden"
        )
        return {
            "logits": model.apply(variables, tokens),
            "embeddings": model.apply(variables, tokens, method="embed"),
            "hidden1": blocks[0],
            "last_hidden": hidden,
        }

    for output, ours in run(tokens).items():
        assert_parity("gpt2_hf", output, ours)


def test_parity_of_greedy_completion(parity, imported):
    model = fixture_model()
    reference = parity("gpt2_hf")[1]["out_greedy_ids"]
    prompt = reference[:, :5].astype(np.int32)
    variables = imported(model, "gpt2_hf", prompt)

    @jax.jit
    def complete(prompt):
        logits, step, state = begin(model, variables, prompt, cache_length=12)
        return greedy(step, logits, state, Rules(max_length=8, eos_id=98)).tokens

    np.testing.assert_array_equal(complete(prompt), reference[:, 5:])


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (gpt.GPT2_S, 124_439_808),
        pytest.param(gpt.GPT2_M, 354_823_168, marks=pytest.mark.slow),
        pytest.param(gpt.GPT2_L, 774_030_080, marks=pytest.mark.slow),
        pytest.param(gpt.GPT2_XL, 1_557_611_200, marks=pytest.mark.slow),
    ],
)
def test_published_parameter_counts(make, expected, count_parameters):
    assert count_parameters(make(scan=True), TOKENS) == expected


def test_parameter_count_by_hand(count_parameters):
    D, F, L, K = 16, 24, 2, 2
    block = 2 * D * D + 2 * D * (D // 4 * K) + 3 * D * F + 2 * D
    expected = 2 * V * D + L * block + D
    assert count_parameters(tiny(positions="rotary", **LATER), TOKENS) == expected
    assert count_parameters(tiny(), TOKENS) == count_parameters(tiny(scan=True), TOKENS)


@pytest.mark.parametrize("kind", ["learned", "rotary", "alibi", "sincos"])
def test_no_token_sees_a_later_one(kind):
    model = tiny(num_layers=1, **KINDS[kind])
    variables = drawn(model)

    @jax.jit
    def sensitivity(tokens):
        """How much the logits [T] change with the vector of each token [T]."""

        def logits(change):
            def add(next_fun, args, kwargs, context):
                out = next_fun(*args, **kwargs)
                if context.method_name == "embed":
                    out = out + change
                return out

            with gpt.nn.intercept_methods(add):
                return model.apply(variables, tokens)[0].sum(-1)

        change = jnp.zeros((1, T, 16))
        return jnp.abs(jax.jacobian(logits)(change)).sum((1, 3))

    seen = sensitivity(TOKENS[:1]) > 0
    np.testing.assert_array_equal(seen, np.tri(T, dtype=bool))


@pytest.mark.parametrize(
    "kind",
    [pytest.param(k, marks=pytest.mark.slow) if k == "sincos" else k for k in KINDS],
)
def test_stepwise_equals_the_full_pass(kind):
    model = tiny(**KINDS[kind])
    variables = drawn(model)

    @jax.jit
    def run(tokens):
        full = model.apply(variables, tokens)
        logits, step, state = begin(model, variables, tokens[:, :3], cache_length=12)

        def body(state, token):
            logits, state = step(token, state)
            return state, logits

        state, steps = jax.lax.scan(body, state, tokens[:, 3:].T)
        return full, logits, steps.swapaxes(0, 1), state

    full, first, steps, state = run(TOKENS)
    assert full.dtype == first.dtype == steps.dtype == jnp.float32
    np.testing.assert_allclose(first, full[:, 2], rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(steps, full[:, 3:], rtol=2e-5, atol=2e-5)
    assert state["cache"]["index"] == T
    axis = 1 if "scan" in KINDS[kind] else 0
    rows = {x.shape[axis] for x in jax.tree.leaves(state) if x.ndim}
    assert rows == {len(TOKENS)}


@pytest.mark.parametrize("kind", ["learned", "rotary", "alibi", "sincos"])
def test_packed_documents_are_as_if_alone(kind):
    model = tiny(num_layers=1, **KINDS[kind])
    variables = drawn(model)
    packed = np.concatenate([TOKENS[0, :5], TOKENS[1, :5], TOKENS[2, :2]])[None]
    segments = np.repeat([1, 2, 0], [5, 5, 2])[None]
    alone = jax.jit(model.apply)(variables, TOKENS[:2, :5])
    together = jax.jit(model.apply)(variables, packed, segments)[0]
    places = together[:10].reshape(2, 5, V)
    np.testing.assert_allclose(places, alone, rtol=2e-5, atol=2e-5)
    assert np.isfinite(together).all()


def test_padding_behind_changes_nothing():
    variables = drawn(tiny())
    longer = np.pad(TOKENS, ((0, 0), (0, 4)))
    segments = (longer != 0).astype(np.int32)
    models = [tiny(pooling=pooling) for pooling in ("mean", "last")]

    @jax.jit
    def run(tokens, segments=None):
        vectors = [
            m.apply(variables, tokens, segments, method="represent") for m in models
        ]
        hidden = models[0].apply(variables, tokens, method="hidden")
        return models[0].apply(variables, tokens, segments), vectors, hidden

    logits, vectors, hidden = run(TOKENS)
    padded, padded_vectors, _ = run(longer, segments)
    np.testing.assert_allclose(padded[:, :T], logits, rtol=2e-5, atol=2e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5),
        padded_vectors,
        vectors,
    )
    np.testing.assert_allclose(vectors[0], hidden.mean(1), rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(vectors[1], hidden[:, -1], rtol=2e-5, atol=2e-5)
    nothing = run(longer, np.zeros_like(segments))[1]
    assert not np.any(nothing[0]) and not np.any(nothing[1])


def test_a_scan_and_remat_give_the_same_numbers_and_gradients():
    loop, scan = tiny(), tiny(scan=True, remat="block")
    variables = drawn(loop)
    encoder = dict(variables["params"]["encoder"])
    blocks = [encoder.pop(f"block_{i}") for i in range(2)]
    encoder["blocks"] = jax.tree.map(lambda *x: np.stack(x), *blocks)
    stacked = {"params": {**variables["params"], "encoder": encoder}}

    def run(model):
        def loss(variables):
            return jnp.square(model.apply(variables, TOKENS)).mean()

        return jax.jit(jax.value_and_grad(loss))

    (value, gradient), (other, other_gradient) = (
        run(loop)(variables),
        run(scan)(stacked),
    )
    np.testing.assert_allclose(value, other, rtol=1e-5)
    for name in ("token_embedding", "position_embedding"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
            gradient["params"][name],
            other_gradient["params"][name],
        )


def test_half_precision_keeps_float32_parameters_and_logits():
    half, full = tiny(num_layers=1, dtype="bfloat16"), tiny(num_layers=1)
    variables = drawn(full)
    shapes = jax.eval_shape(half.init, jax.random.key(0), TOKENS)
    assert {str(x.dtype) for x in jax.tree.leaves(shapes)} == {"float32"}

    def loss(variables, model):
        logits = model.apply(variables, TOKENS)
        assert logits.dtype == jnp.float32
        labels = jnp.roll(TOKENS, -1, 1)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), logits

    run = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)
    (_, exact), gradient = run(variables, full)
    (_, rounded), rounded_gradient = run(variables, half)
    np.testing.assert_allclose(rounded, exact, atol=0.05 * np.abs(exact).max())
    for a, b in zip(
        jax.tree.leaves(rounded_gradient), jax.tree.leaves(gradient), strict=True
    ):
        assert a.dtype == jnp.float32
        assert np.abs(a - b).max() <= 0.15 * np.abs(b).max() + 1e-3


def test_residual_branches_start_smaller_in_deeper_models():
    model = tiny(num_layers=8, embed_dim=64, mlp_dim=256, scan=True)
    params = jax.jit(model.init)(jax.random.key(0), TOKENS)["params"]
    block = params["encoder"]["blocks"]
    for kernel, spread in (
        (block["attention"]["query"]["kernel"], 0.02),
        (block["attention"]["out"]["kernel"], 0.005),
        (block["mlp"]["up"]["kernel"], 0.02),
        (block["mlp"]["down"]["kernel"], 0.005),
    ):
        assert abs(float(kernel.std()) / spread - 1) < 0.1


@pytest.mark.slow
def test_it_learns_a_few_sentences():
    model = tiny(num_layers=1, embed_dim=32, mlp_dim=64)
    inputs, labels = TOKENS[:, :-1], TOKENS[:, 1:]
    # The first token decides a row here.
    inputs = np.concatenate([np.arange(3)[:, None], inputs[:, 1:]], 1)
    optimizer = optax.adam(1e-2)
    params = jax.jit(model.init)(jax.random.key(0), inputs)

    def loss_fn(params):
        logits = model.apply(params, inputs, train=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @jax.jit
    def step(carry):
        params, state = carry
        loss, gradient = jax.value_and_grad(loss_fn)(params)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state), loss

    carry, losses = (params, optimizer.init(params)), []
    for _ in range(60):
        carry, loss = step(carry)
        losses.append(float(loss))
    assert abs(losses[0] - np.log(V)) < 0.2 and losses[-1] < 0.05


@pytest.mark.parametrize(
    ("fields", "length", "message"),
    [
        ({"positions": "relative"}, 4, "positions is 'relative'; known: learned"),
        ({"pooling": "max"}, 4, "pooling is 'max'; known: mean, last"),
        ({}, 13, "sequence of 13 is longer than max_length=12"),
        ({"positions": "alibi"}, 13, "sequence of 13 is longer than max_length=12"),
    ],
)
def test_errors_name_the_value(fields, length, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(
            tiny(**fields).init,
            jax.random.key(0),
            jnp.zeros((1, length), jnp.int32),
        )


@pytest.mark.parametrize(
    ("length", "cache_length", "message"),
    [
        (4, 3, "a prompt of 4 tokens does not fit cache_length=3"),
        (0, 3, "a prompt of 0 tokens"),
        (4, 13, "sequence of 13 is longer than max_length=12"),
    ],
)
def test_prompts_that_do_not_fit(length, cache_length, message):
    model = tiny()
    with pytest.raises(ValueError, match=message):
        begin(model, drawn(model), TOKENS[:, :length], cache_length=cache_length)
