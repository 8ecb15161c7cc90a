"""Replaced token detection: losses by hand, draws, padding, devices, learning."""

import functools

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from nlp.tasks.electra import ReplacedTokenDetection
from training import state as states
from training.step import eval_step, train_step

V = 20
KEY = jax.random.key(0)


@flax.struct.dataclass
class Outputs:
    generator_logits: jax.Array
    corrupted: jax.Array
    logits: jax.Array


class Part(nn.Module):
    """Each token beside its neighbours, one hidden layer."""

    vocab_size: int
    out_dim: int

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(self.vocab_size, 8, name="embed")(tokens)
        x = jnp.concatenate([x, jnp.roll(x, 1, 1), jnp.roll(x, -1, 1)], -1)
        return nn.Dense(self.out_dim, name="head")(
            nn.relu(nn.Dense(24, name="hidden")(x))
        )


class Tiny(nn.Module):
    generator: nn.Module = Part(V, V)
    discriminator: nn.Module = Part(V, 1)

    def __call__(
        self, tokens, masked, selected, uniform, types=None, valid=None, *, train=False
    ):
        logits = self.generator(masked)
        below = jnp.cumsum(jax.nn.softmax(jax.lax.stop_gradient(logits)), -1)
        drawn = (below <= uniform[..., None] * below[..., -1:]).sum(-1)
        corrupted = jnp.where(selected, drawn, tokens)
        return Outputs(logits, corrupted, self.discriminator(corrupted)[..., 0])

    def represent(self, tokens, types=None, valid=None, *, train=False):
        return tokens * valid


TASK = ReplacedTokenDetection(model=Tiny())


def make_batch(lengths=(30, 12, 1, 24), length=32):
    tokens = np.zeros((len(lengths), length), np.int32)
    for i, n in enumerate(lengths):
        words = np.random.default_rng(i).integers(5, V, n)
        tokens[i, : n + 2] = [1, *words, 2]
    return {"tokens": tokens}


@functools.cache
def preparation(train):
    return jax.jit(lambda batch, rng: TASK.prepare(batch, rng=rng, train=train))


def prepared(batch, train=False, seed=0):
    return jax.device_get(preparation(train)(batch, jax.random.key(seed)))


@functools.cache
def values():
    return jax.jit(lambda: TASK.init(KEY, make_batch())[0])()


@functools.cache
def program(train):
    def run(params, batch):
        def loss(params):
            outputs, batch_, _ = TASK.apply(params, {}, batch, rng=KEY, train=train)
            return TASK.loss(outputs, batch_)

        return jax.value_and_grad(loss, has_aux=True)(params)

    return jax.jit(run)


def measure(batch, train=False):
    (loss, metrics), gradient = program(train)(values(), batch)
    return loss, jax.device_get(metrics), gradient


def assert_trees_close(a, b, rtol=2e-4, atol=1e-5):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol, atol), a, b)


def test_loss_by_hand():
    batch = {**prepared(make_batch()), "mask": np.array([True, True, True, False])}
    rng = np.random.default_rng(0)
    tokens, real = batch["tokens"], batch["tokens"] != 0
    real[3] = False
    hidden = batch["selected"] & real
    assert (batch["masked"][batch["selected"]] == 4).all()
    # Of the hidden tokens some are drawn right, and so are not replaced.
    drawn = np.where(rng.random(tokens.shape) < 0.5, 6, tokens)
    corrupted = np.where(batch["selected"], drawn, tokens)
    logits = rng.normal(size=(4, 32, V)).astype(np.float32)
    scores = rng.normal(size=(4, 32)).astype(np.float32)
    loss, metrics = jax.jit(TASK.loss)(Outputs(logits, corrupted, scores), batch)
    odds = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    generator = -np.log(np.take_along_axis(odds, tokens[..., None], -1)[..., 0])[hidden]
    replaced = corrupted != tokens
    sure = 1 / (1 + np.exp(-scores))
    discriminator = -np.log(np.where(replaced, sure, 1 - sure))[real]
    np.testing.assert_allclose(
        metrics["generator_loss"].compute(), generator.mean(), 1e-5
    )
    np.testing.assert_allclose(
        metrics["discriminator_loss"].compute(), discriminator.mean(), rtol=1e-5
    )
    expected = generator.mean() + 50 * discriminator.mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"].compute(), expected, rtol=1e-5)
    assert metrics["loss"].count == real.sum() == 32 + 14 + 3
    right = ((scores > 0) == replaced)[real].mean()
    np.testing.assert_allclose(metrics["accuracy"].compute(), right, rtol=1e-6)
    found = (scores > 0)[real & replaced].mean()
    np.testing.assert_allclose(metrics["recall"].compute(), found, rtol=1e-6)


def test_draws_are_new_in_training_and_the_rows_own_in_evaluation():
    batch = make_batch()
    first, again, other = (prepared(batch, True, s)["uniform"] for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.99
    fixed = prepared(batch)["uniform"]
    np.testing.assert_array_equal(prepared(batch, seed=3)["uniform"], fixed)
    wide = {"tokens": np.pad(batch["tokens"][::-1], ((0, 1), (0, 5)))}
    np.testing.assert_array_equal(prepared(wide)["uniform"][:4, :32][::-1], fixed)
    assert fixed.min() >= 0 and fixed.max() < 1
    # Uniform, also at the places that were chosen by numbers from the same key.
    many = prepared(
        {"tokens": np.random.default_rng(0).integers(5, V, (500, 40))}, True
    )
    for draws in (many["uniform"], many["uniform"][many["selected"]]):
        assert abs(draws.mean() - 0.5) < 0.027
    assert abs(draws.var() - 1 / 12) < 0.008


def test_no_gradient_passes_through_the_draw():
    """With no weight on its own loss, the generator learns nothing."""
    task = ReplacedTokenDetection(model=Tiny(), generator_weight=0.0)
    batch = prepared(make_batch())

    def loss(params):
        outputs = task.model.apply({"params": params}, *task.inputs(batch))
        return task.loss(outputs, batch)[0]

    gradient = jax.jit(jax.grad(loss))(values())
    sizes = jax.tree.map(lambda g: float(np.abs(g).max()), gradient)
    assert max(jax.tree.leaves(sizes["generator"])) == 0
    assert min(jax.tree.leaves(sizes["discriminator"])) > 0


def test_padding_has_no_influence():
    batch = {**make_batch(), "mask": np.ones(4, bool)}
    loss, metrics, gradient = measure(batch)
    padded = {
        "tokens": np.pad(batch["tokens"], ((0, 2), (0, 0))),
        "mask": np.arange(6) < 4,
    }
    padded["tokens"][5] = 11
    found, padded_metrics, padded_gradient = measure(padded)
    np.testing.assert_allclose(found, loss, rtol=1e-5)
    assert padded_metrics["loss"].count == metrics["loss"].count
    assert_trees_close(padded_gradient, gradient)
    nothing = {"tokens": np.zeros((6, 32), np.int32), "mask": np.ones(6, bool)}
    loss, metrics, gradient = measure(nothing)
    assert loss == 0 and metrics["recall"].compute() == 0
    assert all((np.asarray(g) == 0).all() for g in jax.tree.leaves(gradient))


def test_eight_devices_lose_like_one():
    batch = {**make_batch((30, 1, 5, 9, 20, 13, 28, 3)), "mask": np.arange(8) != 2}
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec("data"))
    one = measure(batch, train=True)
    eight = measure({k: jax.device_put(v, split) for k, v in batch.items()}, True)
    np.testing.assert_allclose(eight[0], one[0], rtol=1e-6)
    assert_trees_close(eight[2], one[2])


def test_it_learns_to_find_what_was_put_in():
    tokens = np.stack([np.roll(np.arange(5, V), k) for k in range(15)]).astype(np.int32)
    batch, optimizer = {"tokens": tokens}, optax.adam(0.02)
    # A generator that learns little, so that there is something to find.
    task = ReplacedTokenDetection(model=Tiny(), generator_weight=0.0)
    state = jax.jit(lambda: states.create(task, optimizer, batch, seed=0, ema=False))()
    step = jax.jit(functools.partial(train_step, task=task, optimizer=optimizer))
    for _ in range(120):
        state, _ = step(state, batch)
    found = jax.jit(functools.partial(eval_step, task=task))(state, batch)
    assert found["accuracy"].compute() > 0.95 and found["recall"].compute() > 0.8


def test_check_looks_into_the_model():
    TASK.check(make_batch())
    with pytest.raises(ValueError, match=r"token 20 in 'tokens' is outside \[0, 20\)"):
        TASK.check({"tokens": np.full((2, 5), 20)})


def test_represent_sees_the_text_as_it_is():
    batch = make_batch()
    np.testing.assert_array_equal(TASK.represent({}, {}, batch), batch["tokens"])
