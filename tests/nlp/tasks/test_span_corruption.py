"""Denoising objectives: what the model gets, evaluation masks, devices, checks, learning."""

import functools
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from nlp.ops.span_corruption import corrupted_lengths, fill_spans
from nlp.tasks.span_corruption import MaskedFragment, SpanCorruption, TextInfilling
from training import state as states
from training.step import eval_step, train_step

V = 40
KEY = jax.random.key(0)


class Tiny(nn.Module):
    """The sum of the source beside each target token, one hidden layer."""

    vocab_size: int = V
    max_length: int = 32

    @nn.compact
    def __call__(self, source, target, *, train=False):
        seen = jax.nn.one_hot(source, self.vocab_size).sum(1)[:, None]
        x = jax.nn.one_hot(target, self.vocab_size)
        x = jnp.concatenate([x, jnp.broadcast_to(seen, x.shape)], -1)
        x = nn.relu(nn.Dense(32, name="hidden")(x))
        return nn.Dense(self.vocab_size, name="head")(x)

    def represent(self, source, target, *, train=False):
        return jnp.concatenate([source, target], 1)


@functools.cache
def values():
    token = jnp.zeros((1, 2), jnp.int32)
    return jax.jit(Tiny().init)(KEY, token, token)["params"]


TASKS = {
    "spans": SpanCorruption(model=Tiny(), density=0.3),
    "infilling": TextInfilling(model=Tiny(), sentence_ends=(5,)),
    "fragment": MaskedFragment(model=Tiny()),
}


def make_batch(lengths=(30, 7, 1, 16), length=30):
    tokens = np.zeros((len(lengths), length), np.int32)
    for i, n in enumerate(lengths):
        tokens[i, :n] = np.random.default_rng(i).integers(5, 34, n)
    return {"tokens": tokens}


@functools.cache
def preparation(task, train):
    return jax.jit(lambda batch, rng: task.prepare(batch, rng=rng, train=train))


def prepared(task, batch, train=True, seed=0):
    return jax.device_get(preparation(task, train)(batch, jax.random.key(seed)))


def test_spans_come_back():
    task, batch = TASKS["spans"], make_batch()
    found = prepared(task, batch)
    lengths = corrupted_lengths(30, 0.3, 3.0)
    shapes = found["source"].shape[1], found["target"].shape[1], task.num_sentinels(30)
    assert shapes == lengths == (25, 14, 3)
    assert {39, 38, 37} < set(found["source"][0]) and task.last_sentinel == 39
    for tokens, source, target in zip(
        batch["tokens"], found["source"], found["target"], strict=True
    ):
        filled = fill_spans(
            source, target, first_sentinel=V - 1, spans=3, specials=(0, 1, 2)
        )
        np.testing.assert_array_equal(filled, tokens[tokens != 0])
    source, target = task.inputs(found)
    np.testing.assert_array_equal(source, found["source"])
    np.testing.assert_array_equal(target, found["target"][:, :-1])


def test_infilling_asks_for_the_whole_text():
    batch = make_batch()
    found = prepared(TASKS["infilling"], batch)
    for tokens, source, target in zip(
        batch["tokens"], found["source"], found["target"], strict=True
    ):
        real = tokens[tokens != 0]
        np.testing.assert_array_equal(target[: len(real) + 2], [1, *real, 2])
        assert not target[len(real) + 2 :].any()
        kept = source[source > 4]
        assert len(kept) == len(real) - int(np.ceil(0.3 * len(real)))
        assert set(kept) <= set(real) and (source == 4).any()


def test_a_fragment_is_asked_for_where_the_masks_are():
    batch = make_batch()
    found = prepared(TASKS["fragment"], batch)
    for tokens, source, target in zip(
        batch["tokens"], found["source"], found["target"], strict=True
    ):
        np.testing.assert_array_equal(target[target > 2], tokens[source[:-1] == 4])


@pytest.mark.parametrize("name", TASKS)
def test_training_draws_anew_and_evaluation_does_not(name):
    task = TASKS[name]
    batch = {"tokens": np.tile(make_batch()["tokens"][:1], (4, 1))}
    first, again, other = (prepared(task, batch, seed=s)["source"] for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert len(np.unique(first, axis=0)) > 1
    rows = make_batch()
    fixed = prepared(task, rows, train=False)
    moved = prepared(task, {"tokens": rows["tokens"][::-1]}, train=False, seed=3)
    for key in ("source", "target"):
        np.testing.assert_array_equal(moved[key][::-1], fixed[key])


@pytest.mark.parametrize("name", TASKS)
def test_eight_devices_lose_like_one_and_padding_does_not_count(name):
    task = TASKS[name]

    params = values()

    @jax.jit
    def run(batch):
        def loss(params):
            outputs, found, _ = task.apply(params, {}, batch, rng=KEY, train=True)
            loss, metrics = task.loss(outputs, found)
            counted = (found["target"][:6, 1:] != 0).sum()
            return loss, (metrics["loss"].count, counted)

        return jax.value_and_grad(loss, has_aux=True)(params)

    batch = {**make_batch((30, 1, 5, 9, 0, 13, 28, 3)), "mask": np.arange(8) < 6}
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec("data"))
    (one, (count, expected)), gradient = run(batch)
    (eight, _), spread_gradient = run(
        {k: jax.device_put(v, split) for k, v in batch.items()}
    )
    np.testing.assert_allclose(eight, one, rtol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        spread_gradient,
        gradient,
    )
    assert count == expected > 0
    junk = batch["tokens"].copy()
    junk[6:] = 33
    (same, _), same_gradient = run({**batch, "tokens": junk})
    assert same == one
    jax.tree.map(np.testing.assert_array_equal, same_gradient, gradient)
    (nothing, _), no_gradient = run({"tokens": 0 * junk, "mask": np.ones(8, bool)})
    assert nothing == 0
    assert all((np.asarray(g) == 0).all() for g in jax.tree.leaves(no_gradient))


def test_smoothing_in_training_only():
    task = SpanCorruption(model=Tiny(), label_smoothing=0.1)
    trained = prepared(task, make_batch())
    np.testing.assert_allclose(trained["smoothing"], 0.1)
    assert "smoothing" not in prepared(task, make_batch(), train=False)


def test_it_learns_what_is_missing():
    """Rows are the numbers 10 to 21 in order; what is missing can be told."""
    row = np.arange(10, 22, dtype=np.int32)
    batch, optimizer = {"tokens": np.tile(row, (16, 1))}, optax.adam(0.02)
    task = SpanCorruption(model=Tiny(), density=0.4, mean_span=2.5)
    state = jax.jit(lambda: states.create(task, optimizer, batch, seed=0, ema=False))()
    step = jax.jit(functools.partial(train_step, task=task, optimizer=optimizer))
    for _ in range(150):
        state, _ = step(state, batch)
    found = jax.jit(functools.partial(eval_step, task=task))(state, batch)
    assert found["accuracy"].compute() > 0.9


def test_represent_sees_the_text_as_it_is():
    batch = make_batch()
    source, target = TASKS["spans"].plain_inputs(batch)
    np.testing.assert_array_equal(source, batch["tokens"])
    assert (target[:, 0] == 1).all()
    np.testing.assert_array_equal(target[:, 1:], batch["tokens"][:, :-1])
    assert TASKS["spans"].represent({}, {}, batch).shape == (4, 60)


def changed(tokens):
    return {"tokens": np.asarray(tokens, np.int32)}


@pytest.mark.parametrize(
    ("name", "batch", "message"),
    [
        (
            "spans",
            changed([[5, 39, 6]]),
            "token 39 meets the 1 sentinels, 39 to 39.*41",
        ),
        ("spans", changed([[5, 40, 6]]), r"token 40 .*\[0, 40\)"),
        ("spans", changed([[5, 0, 6]]), "padding .token 0. before a token"),
        ("spans", {"text": 1}, "no 'tokens'.*set task.tokens_key"),
        (
            "infilling",
            changed(np.full((2, 32), 7)),
            "32 tokens become sources of 33 and",
        ),
        ("fragment", changed(np.full((2, 33), 7)), "length 33 .*max_length=32"),
    ],
)
def test_check_names_the_value_and_the_remedy(name, batch, message):
    with pytest.raises(ValueError, match=message) as error:
        TASKS[name].check(batch)
    assert "\n" not in str(error.value)


def test_sentinels_need_room_above_the_tokenizer():
    for task in TASKS.values():
        task.check(make_batch())
    tokenizer = types.SimpleNamespace(vocab_size=39)
    fields = dict(model=Tiny(), tokenizer=tokenizer, density=0.3)
    with pytest.raises(
        ValueError, match="token 38 meets the 3 sentinels, 37 to 39.*42"
    ):
        SpanCorruption(**fields).check(make_batch())
    # Where the tokenizer counts the sentinels among its tokens, the config says where.
    SpanCorruption(**fields, first_sentinel=36).check(make_batch())
    with pytest.raises(ValueError, match="Dense has no vocab_size"):
        SpanCorruption(model=nn.Dense(3)).check(make_batch())


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (SpanCorruption, {"density": 0.0}, "density is 0.0"),
        (SpanCorruption, {"mean_span": 0.5}, "mean_span is 0.5; it must be at least 1"),
        (TextInfilling, {"mean_span": 0.0}, "mean_span is 0.0; it must be positive"),
        (MaskedFragment, {"label_smoothing": 1.0}, "label_smoothing is 1.0"),
    ],
)
def test_bad_fields(kind, fields, message):
    with pytest.raises(ValueError, match=message):
        kind(model=Tiny(), **fields)
