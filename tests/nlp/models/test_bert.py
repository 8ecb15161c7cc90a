"""BERT, RoBERTa, ALBERT: parity, published counts, padding, heads, learning."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nlp.models import bert
from nlp.models.bert import BERT
from nlp.models.sentence_classifier import SentenceClassifier

V, T = 13, 7
TOKENS = np.random.default_rng(3).integers(5, V, (3, T)).astype(np.int32)
TOKENS[2, 4:] = 0
TYPES = np.repeat([[0, 1]], [3, 4], axis=1).repeat(3, 0).astype(np.int32)

FIXTURES = {
    "bert_hf": {},
    "roberta_hf": {
        "max_length": 38,
        "positions": "real",
        "num_types": 1,
        "pooling": "token",
        "next_sentence": False,
        "pad_id": 1,
        "norm_epsilon": 1e-5,
    },
    "albert_hf": {
        "token_dim": 16,
        "shared": True,
        "activation": "gelu_tanh",
        "pooling": "token",
        "next_sentence": False,
    },
}
OUTPUTS = {
    "bert_hf": {
        "mlm_logits": lambda out: out.logits,
        "nsp_logits": lambda out: out.next_logits,
        "pooled": lambda out: out.pooled,
    }
}


def fixture_model(name, **fields):
    sizes = {"vocab_size": 99, "max_length": 40, "embed_dim": 32, "num_layers": 3}
    return BERT(**{**sizes, "num_heads": 4, "mlp_dim": 64, **FIXTURES[name], **fields})


def fixture_inputs(arrays):
    names = ("input_ids", "token_type_ids", "attention_mask")
    found = (arrays.get(f"in_{name}") for name in names)
    return tuple(x if x is None else x.astype(np.int32) for x in found)


def tiny(**fields):
    sizes = {"vocab_size": V, "max_length": 12, "embed_dim": 16, "num_layers": 2}
    return BERT(**{**sizes, "num_heads": 4, "mlp_dim": 24, **fields})


def drawn(model, method=None):
    """Variables shaped as `init` makes them, by numpy and nowhere zero."""
    rng = np.random.default_rng(0)
    init = jax.tree_util.Partial(model.init, method=method)
    shapes = jax.eval_shape(init, jax.random.key(0), TOKENS)
    return jax.tree.map(
        lambda s: (0.4 * rng.normal(size=s.shape)).astype(np.float32), shapes
    )


@pytest.mark.parametrize("name", FIXTURES)
def test_parity(name, parity, imported, assert_parity):
    model = fixture_model(name)
    inputs = fixture_inputs(parity(name)[1])
    variables = imported(model, name, *inputs)

    @jax.jit
    def run(*inputs):
        blocks = model.apply(
            variables, *inputs, return_intermediates=True, method="hidden"
        )[1]
        embedded = model.apply(variables, *inputs, method="embed")
        return model.apply(variables, *inputs), embedded, blocks[0]

    out, embedded, first = run(*inputs)
    assert_parity(name, "embeddings", embedded)
    assert_parity(name, "last_hidden", out.hidden)
    for output, read in OUTPUTS.get(name, {"logits": lambda out: out.logits}).items():
        assert_parity(name, output, read(out))
    if name == "bert_hf":
        assert_parity(name, "hidden1", first)


@pytest.mark.parametrize("name", FIXTURES)
def test_published_names_hold_the_same_weights(name, parity, imported):
    model = fixture_model(name)
    inputs = fixture_inputs(parity(name)[1])
    table = json.loads((parity.folder / name / "hub_names.json").read_text())["map"]
    names = {memory: published for published, memory in table.items()}
    now = imported(model, name, *inputs)
    jax.tree.map(
        np.testing.assert_array_equal, imported(model, name, *inputs, names=names), now
    )


def test_names_translated_from_tensorflow_hold_the_same_weights(parity, imported):
    model = fixture_model("bert_hf", scan=True)
    inputs = fixture_inputs(parity("bert_hf")[1])
    names = {
        name: name.replace("Norm.weight", "Norm.gamma").replace(
            "Norm.bias", "Norm.beta"
        )
        for name in parity("bert_hf")[0]
    }
    now = imported(model, "bert_hf", *inputs)
    old = imported(model, "bert_hf", *inputs, names=names)
    jax.tree.map(np.testing.assert_array_equal, old, now)


@pytest.mark.parametrize(
    ("make", "method", "expected"),
    [
        (bert.BERT_B, "__call__", 110_106_428),
        pytest.param(bert.BERT_B, "represent", 109_482_240, marks=pytest.mark.slow),
        pytest.param(bert.BERT_L, "represent", 335_141_888, marks=pytest.mark.slow),
        (bert.RoBERTa_B, "__call__", 124_697_433),
        (bert.ALBERT_B, "represent", 11_683_584),
        pytest.param(bert.ALBERT_XXL, "represent", 222_595_584, marks=pytest.mark.slow),
    ],
)
def test_published_parameter_counts(make, method, expected):
    model = make()
    scanned = model if model.shared else make(scan=True)
    init = jax.tree_util.Partial(scanned.init, method=method)
    shapes = jax.eval_shape(init, jax.random.key(0), TOKENS)
    assert sum(x.size for x in jax.tree.leaves(shapes)) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        # Without a pooler, Hugging Face's BertForMaskedLM and AlbertForMaskedLM.
        ({}, 109_514_298),
        (bert.ALBERT_B.keywords, 11_221_680),
    ],
)
def test_published_parameter_counts_without_a_pooler(
    fields, expected, count_parameters
):
    model = BERT(**fields, pooling="token", next_sentence=False)
    assert count_parameters(model, TOKENS) == expected


def test_roberta_with_a_pooler_has_the_published_count():
    for make, expected in (
        (bert.RoBERTa_B, 124_645_632),
        (bert.RoBERTa_L, 355_359_744),
    ):
        init = jax.tree_util.Partial(
            make(pooling="pooler", scan=True).init, method="represent"
        )
        shapes = jax.eval_shape(init, jax.random.key(0), TOKENS)
        assert sum(x.size for x in jax.tree.leaves(shapes)) == expected


@pytest.mark.parametrize("positions", ["place", "real"])
def test_padding_of_any_length_changes_nothing(positions):
    fields = {"positions": positions, "num_layers": 1}
    model, mean = tiny(**fields), tiny(pooling="mean", next_sentence=False, **fields)
    variables = drawn(model)

    @jax.jit
    def run(tokens):
        vector = mean.apply(variables, tokens, method="represent")
        return model.apply(variables, tokens), vector

    (out, vector), (padded, padded_vector) = (
        run(TOKENS),
        run(np.pad(TOKENS, ((0, 0), (0, 5)))),
    )
    real = TOKENS != 0
    for ours, more in (
        (out.hidden[real], padded.hidden[:, :T][real]),
        (out.logits[real], padded.logits[:, :T][real]),
        (out.next_logits, padded.next_logits),
        (vector, padded_vector),
    ):
        np.testing.assert_allclose(ours, more, rtol=2e-5, atol=2e-5)
    by_hand = [row[keep].mean(0) for row, keep in zip(out.hidden, real, strict=True)]
    np.testing.assert_allclose(vector, by_hand, rtol=2e-5, atol=2e-5)
    if positions == "real":
        # Only how many real tokens stand before one counts.
        shifted, _ = run(np.roll(np.pad(TOKENS, ((0, 0), (0, 5))), 2, 1))
        np.testing.assert_allclose(
            shifted.hidden[:, 2 : T + 2][real], out.hidden[real], rtol=2e-5, atol=2e-5
        )
    nothing, nothing_vector = run(np.zeros((1, T), np.int32))
    assert np.isfinite(nothing.logits).all() and not np.any(nothing_vector)


def test_types_places_and_shared_layers():
    model = tiny(shared=True, token_dim=6)
    variables = drawn(model)
    assert set(variables["params"]["encoder"]) == {"block_0"}
    places = np.array([[1, 3], [0, 0], [6, 2]], np.int32)

    @jax.jit
    def run(tokens, types, places):
        plain = model.apply(variables, tokens)
        same = model.apply(variables, tokens, jnp.zeros_like(types))
        typed = model.apply(variables, tokens, types)
        return plain, same, typed, model.apply(variables, tokens, types, None, places)

    plain, same, typed, gathered = run(TOKENS, TYPES, places)
    np.testing.assert_allclose(plain.hidden, same.hidden, rtol=1e-5, atol=1e-5)
    assert np.abs(plain.hidden - typed.hidden).max() > 0.01
    chosen = np.take_along_axis(np.asarray(typed.logits), places[..., None], 1)
    np.testing.assert_allclose(gathered.logits, chosen, rtol=1e-4, atol=1e-4)
    assert gathered.logits.dtype == jnp.float32


def test_a_scan_gives_the_same_numbers():
    variables = drawn(tiny())
    encoder = variables["params"]["encoder"]
    blocks = [encoder[f"block_{i}"] for i in range(2)]
    stacked = {"blocks": jax.tree.map(lambda *x: np.stack(x), *blocks)}
    scanned = {"params": {**variables["params"], "encoder": stacked}}

    @jax.jit
    def run(tokens):
        return tiny().apply(variables, tokens), tiny(scan=True).apply(scanned, tokens)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        *run(TOKENS),
    )


def test_a_classifier_holds_what_represents_and_learns():
    model = SentenceClassifier(tiny(num_layers=1), num_classes=3)
    variables = jax.tree.map(lambda x: 0.2 * x, drawn(model))
    names = {"embeddings", "encoder", "pooler"}
    assert set(variables["params"]) == {"backbone", "head"}
    assert set(variables["params"]["backbone"]) == names
    optimizer, label = optax.adam(1e-2), jnp.arange(3)

    def loss_fn(variables, rng):
        rngs = {"dropout": rng}
        logits = model.apply(variables, TOKENS, train=True, rngs=rngs)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, label)
        return losses.mean()

    @jax.jit
    def step(carry, rng):
        variables, state = carry
        loss, gradient = jax.value_and_grad(loss_fn)(variables, rng)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(variables, updates), state), loss

    rngs = jax.random.split(jax.random.key(1), 60)
    _, losses = jax.lax.scan(step, (variables, optimizer.init(variables)), rngs)
    assert abs(losses[0] - np.log(3)) < 0.2 and losses[-5:].max() < 0.1


@pytest.mark.parametrize(
    ("fields", "types", "message"),
    [
        ({"pooling": "max"}, None, "pooling is 'max'; known: pooler"),
        ({"positions": "rotary"}, None, "positions is 'rotary'; known: place, real"),
        ({"pooling": "mean"}, None, "next_sentence reads the pooler and pooling is 'm"),
        ({"max_length": 6}, None, "sequence of 7 is longer than max_length=6"),
        ({"num_types": 0}, TYPES, "num_types=0 and the batch has types"),
    ],
)
def test_errors_name_the_value(fields, types, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(tiny(**fields).init, jax.random.key(0), TOKENS, types)
