"""ELECTRA: parity of both halves, published counts, the draw between them, learning."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nlp.models.electra import ELECTRA_B, ELECTRA_S, Electra, draw
from nlp.tasks.electra import ReplacedTokenDetection

V, T = 13, 7
TOKENS = np.random.default_rng(3).integers(5, V, (3, T)).astype(np.int32)
TOKENS[2, 5:] = 0
HALVES = {"electra_disc_hf": "discriminate", "electra_gen_hf": "generate"}


class Half:
    """One half of a model, to be initialised by itself."""

    def __init__(self, model, method):
        self.init = functools.partial(model.init, method=method)


def fixture_model(**fields):
    sizes = {"vocab_size": 99, "max_length": 40, "token_dim": 16, "num_layers": 3}
    widths = {"embed_dim": 32, "mlp_dim": 64, "num_heads": 4}
    generator = {"generator_dim": 32, "generator_mlp_dim": 64, "generator_heads": 4}
    return Electra(**sizes, **widths, **generator, **fields)


def fixture_inputs(arrays):
    names = ("input_ids", "token_type_ids", "attention_mask")
    return tuple(arrays[f"in_{name}"].astype(np.int32) for name in names)


def tiny(**fields):
    sizes = {"vocab_size": V, "max_length": 12, "token_dim": 16, "num_layers": 1}
    widths = {"embed_dim": 16, "num_heads": 2, "generator_dim": 8}
    return Electra(**{**sizes, **widths, "generator_heads": 1, **fields})


@pytest.mark.parametrize("name", HALVES)
def test_parity(name, parity, imported, assert_parity):
    model, method = fixture_model(), HALVES[name]
    inputs = fixture_inputs(parity(name)[1])
    table = json.loads((parity.folder / name / "hub_names.json").read_text())["map"]
    names = {memory: published for published, memory in table.items()}
    variables = imported(Half(model, method), name, *inputs, names=names)
    run = jax.jit(functools.partial(model.apply, method=method))
    out = run(variables, *inputs)
    if method == "generate":
        assert_parity(name, "logits", out)
    else:
        assert_parity(name, "logits", out[0])
        assert_parity(name, "last_hidden", out[1])


@pytest.mark.parametrize(
    ("make", "fields", "method", "expected"),
    [
        (ELECTRA_S, {}, "discriminate", 13_549_057),
        pytest.param(
            ELECTRA_B, {}, "discriminate", 109_483_009, marks=pytest.mark.slow
        ),
        # The generator published with it is as wide as the discriminator.
        (ELECTRA_S, {"generator_dim": 256, "generator_heads": 4}, "generate", 13546682),
    ],
)
def test_published_parameter_counts(make, fields, method, expected, count_parameters):
    model = make(scan=True, **fields)
    assert count_parameters(Half(model, method), TOKENS) == expected


def test_a_draw_follows_the_cumulative_probability():
    logits = jnp.log(jnp.array([0.2, 0.0, 0.5, 0.3]))
    uniform = jnp.array([0.0, 0.19, 0.21, 0.69, 0.71, 1 - 2**-24])
    drawn = draw(jnp.broadcast_to(logits, (6, 4)), uniform)
    assert drawn.tolist() == [0, 0, 2, 2, 3, 3]
    many = draw(
        jnp.broadcast_to(logits, (20_000, 4)),
        jnp.asarray(np.random.default_rng(0).uniform(size=(20_000,)), jnp.float32),
    )
    shares = np.bincount(many, minlength=4) / len(many)
    np.testing.assert_allclose(shares, [0.2, 0, 0.5, 0.3], atol=0.015)


def test_the_discriminator_reads_what_the_generator_put_in():
    model = tiny()
    rng = np.random.default_rng(0)
    selected = np.zeros((3, T), bool)
    selected[:, [1, 3]] = True
    masked = np.where(selected, 4, TOKENS).astype(np.int32)
    uniform = rng.uniform(size=(3, T)).astype(np.float32)
    inputs = (TOKENS, masked, selected, uniform)
    shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    variables = jax.tree.map(
        lambda s: (0.4 * rng.normal(size=s.shape)).astype(np.float32), shapes
    )

    @jax.jit
    def run(variables):
        def found(variables):
            return model.apply(variables, *inputs).logits.sum()

        out = model.apply(variables, *inputs)
        generated = model.apply(variables, masked, method="generate")
        halves = model.apply(
            variables, out.corrupted, None, TOKENS != 0, method="discriminate"
        )
        return out, generated, halves, jax.grad(found)(variables)["params"]

    out, generated, (logits, hidden), gradient = run(variables)
    np.testing.assert_allclose(out.generator_logits, generated, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(out.logits, logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(out.hidden, hidden, rtol=1e-4, atol=1e-5)
    drawn = np.asarray(draw(generated, uniform))
    np.testing.assert_array_equal(out.corrupted, np.where(selected, drawn, TOKENS))
    assert out.logits.dtype == out.generator_logits.dtype == jnp.float32
    # No gradient passes through the draw.
    for name, tree in gradient.items():
        largest = max(np.abs(x).max() for x in jax.tree.leaves(tree))
        assert (largest == 0) == name.startswith("generator"), name


def test_padding_changes_nothing_and_a_vector_represents_a_row():
    models = [tiny(), tiny(pooling="mean")]
    half = Half(models[0], "discriminate")
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(half.init, jax.random.key(0), TOKENS)
    variables = jax.tree.map(
        lambda s: (0.4 * rng.normal(size=s.shape)).astype(np.float32), shapes
    )

    @jax.jit
    def run(tokens):
        found, hidden = models[0].apply(variables, tokens, method="discriminate")
        return (
            found,
            hidden,
            [m.apply(variables, tokens, method="represent") for m in models],
        )

    found, hidden, vectors = run(TOKENS)
    more, _, more_vectors = run(np.pad(TOKENS, ((0, 0), (0, 4))))
    real = TOKENS != 0
    np.testing.assert_allclose(more[:, :T][real], found[real], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(vectors[0], hidden[:, 0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        vectors[1][2], hidden[2, :5].mean(0), rtol=1e-4, atol=1e-5
    )
    for ours, theirs in zip(vectors, more_vectors, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_both_halves_learn_a_few_sentences():
    model = tiny(generator_dim=16)
    task = ReplacedTokenDetection(
        model=model, select_share=0.3, discriminator_weight=1.0
    )
    batch = {"tokens": jnp.asarray(TOKENS)}
    optimizer = optax.adam(1e-2)

    def inputs(rng):
        prepared = task.prepare(batch, rng=rng, train=True)
        return prepared, task.inputs(prepared)

    params = jax.jit(lambda key: model.init(key, *inputs(key)[1]))(jax.random.key(0))

    def loss_fn(params, rng):
        prepared, arrays = inputs(rng)
        loss, metrics = task.loss(model.apply(params, *arrays, train=True), prepared)
        names = ("generator_loss", "discriminator_loss")
        return loss, [metrics[name].compute() for name in names]

    @jax.jit
    def train(params, rngs):
        def step(carry, rng):
            params, state = carry
            (_, losses), gradient = jax.value_and_grad(loss_fn, has_aux=True)(
                params, rng
            )
            updates, state = optimizer.update(gradient, state)
            return (optax.apply_updates(params, updates), state), losses

        return jax.lax.scan(step, (params, optimizer.init(params)), rngs)[1]

    generator, discriminator = train(params, jax.random.split(jax.random.key(1), 200))
    assert abs(generator[0] - np.log(V)) < 0.5 and generator[-10:].mean() < 1.0
    # It starts at the log 2 of a coin.
    assert abs(discriminator[0] - np.log(2)) < 0.1
    assert discriminator[-10:].mean() < 0.35


def test_errors_name_the_value():
    with pytest.raises(ValueError, match="pooling is 'max'; known: token, mean"):
        jax.eval_shape(
            Half(tiny(pooling="max"), "generate").init, jax.random.key(0), TOKENS
        )
