"""Sequence to sequence: losses by hand, smoothing, padding, devices, checks, learning."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from nlp.tasks.sequence_to_sequence import SequenceToSequence
from training import state as states
from training.step import eval_step, train_step

V = 12
KEY = jax.random.key(0)


class Tiny(nn.Module):
    """Mean of the source beside each target token, and one hidden layer."""

    vocab_size: int = V
    max_length: int = 16
    pad_id: int = 0

    @nn.compact
    def __call__(self, source, target, *, train=False):
        embed = nn.Embed(self.vocab_size, 8, name="embed")
        valid = (source != self.pad_id)[..., None]
        mean = (embed(source) * valid).sum(1) / jnp.maximum(valid.sum(1), 1)
        x = embed(target)
        x = jnp.concatenate([x, jnp.broadcast_to(mean[:, None], x.shape)], -1)
        x = nn.relu(nn.Dense(16, name="hidden")(x))
        return nn.Dense(self.vocab_size, name="head")(x)


TASK = SequenceToSequence(model=Tiny())
SMOOTHED = SequenceToSequence(model=Tiny(), label_smoothing=0.2)


def make_batch(lengths=(5, 3, 1, 4), source_length=6, target_length=8, seed=0):
    rng = np.random.default_rng(seed)
    source = np.zeros((len(lengths), source_length), np.int32)
    target = np.zeros((len(lengths), target_length), np.int32)
    for i, n in enumerate(lengths):
        source[i, :n] = rng.integers(5, V, n)
        target[i, : n + 2] = [1, *rng.integers(5, V, n), 2]
    return {"source": source, "target": target}


@functools.cache
def values():
    return jax.jit(lambda: TASK.init(KEY, make_batch())[0])()


@functools.cache
def program(task, train):
    def run(params, batch):
        def loss(params):
            outputs, prepared, _ = task.apply(params, {}, batch, rng=KEY, train=train)
            return task.loss(outputs, prepared)

        return jax.value_and_grad(loss, has_aux=True)(params)

    return jax.jit(run)


def measure(batch, task=TASK, train=False):
    (loss, metrics), gradient = program(task, train)(values(), batch)
    return loss, jax.device_get(metrics), gradient


def assert_trees_close(a, b, rtol=1e-4, atol=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol, atol), a, b)


def log_odds(logits):
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_loss_by_hand_and_smoothing_only_in_training():
    batch = make_batch()
    logits = np.random.default_rng(1).normal(size=(4, 7, V)).astype(np.float32) * 2
    labels = batch["target"][:, 1:]
    real = labels != 0
    assert real.sum() == 5 + 3 + 1 + 4 + 4
    truth = np.eye(V)[labels]
    plain = -(truth * log_odds(logits)).sum(-1)[real].mean()
    spread = 0.8 * truth + 0.2 / (V - 1) * (np.arange(V) != 0)
    smoothed = -(spread * log_odds(logits)).sum(-1)[real].mean()
    for task, train, expected in (
        (TASK, True, plain),
        (SMOOTHED, False, plain),
        (SMOOTHED, True, smoothed),
    ):
        prepared = task.prepare(batch, rng=KEY, train=train)
        loss, metrics = task.loss(jnp.asarray(logits), prepared)
        np.testing.assert_allclose(loss, expected, rtol=1e-5)
        np.testing.assert_allclose(metrics["loss"].compute(), expected, rtol=1e-5)
        assert metrics["loss"].count == real.sum()
        found = metrics["perplexity"].compute()
        np.testing.assert_allclose(found, np.exp(plain), rtol=1e-5)
        hits = (logits.argmax(-1) == labels)[real].mean()
        np.testing.assert_allclose(metrics["accuracy"].compute(), hits, rtol=1e-6)


def test_the_decoder_reads_the_right_tokens_so_far():
    batch = make_batch()
    source, target = TASK.inputs(batch)
    assert (target[:, 0] == 1).all() and target.shape == (4, 7)
    np.testing.assert_array_equal(target, batch["target"][:, :-1])
    np.testing.assert_array_equal(source, batch["source"])
    for a, b in zip(TASK.plain_inputs(batch), (source, target), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("task", [TASK, SMOOTHED])
def test_padding_of_any_length_and_rows_of_it_have_no_influence(task):
    batch = {**make_batch(), "mask": np.ones(4, bool)}
    loss, metrics, gradient = measure(batch, task, train=True)
    padded = {
        "source": np.pad(batch["source"], ((0, 2), (0, 5))),
        "target": np.pad(batch["target"], ((0, 2), (0, 3))),
        "mask": np.arange(6) < 4,
    }
    padded["target"][4] = 9
    found, padded_metrics, padded_gradient = measure(padded, task, train=True)
    np.testing.assert_allclose(found, loss, rtol=1e-5)
    for name, metric in metrics.items():
        assert padded_metrics[name].count == metric.count
    assert_trees_close(padded_gradient, gradient)


def test_logits_that_do_not_count_have_no_gradient_even_if_not_finite():
    batch = SMOOTHED.prepare(make_batch(), rng=KEY, train=True)
    real = batch["target"][:, 1:] != 0
    logits = np.where(real[..., None], 0.5, np.inf) * np.ones(V)
    loss, gradient = jax.value_and_grad(lambda x: SMOOTHED.loss(x, batch)[0])(logits)
    np.testing.assert_allclose(loss, np.log(V), rtol=1e-5)
    np.testing.assert_array_equal(gradient[~real], 0)
    assert np.isfinite(gradient).all()


class Packable(Tiny):
    """Tiny's logits for packed rows: the mean is that of the token's own source."""

    @nn.compact
    def __call__(self, source, target, source_segments, target_segments, *, train):
        embed = nn.Embed(self.vocab_size, 8, name="embed")
        own = target_segments[:, :, None] == source_segments[:, None, :]
        own = (own & (source != self.pad_id)[:, None]).astype(jnp.float32)
        mean = own @ embed(source) / jnp.maximum(own.sum(-1, keepdims=True), 1)
        x = jnp.concatenate([embed(target), mean], -1)
        x = nn.relu(nn.Dense(16, name="hidden")(x))
        return nn.Dense(self.vocab_size, name="head")(x)


def packed(batch):
    """All pairs of a batch in one row."""
    row = {}
    for name, tokens in batch.items():
        sizes = (tokens != 0).sum(1)
        segments = np.repeat(np.arange(1, len(tokens) + 1), sizes)
        row[name] = np.pad(tokens[tokens != 0], (0, 3))[None]
        row[f"{name}_segments"] = np.pad(segments, (0, 3))[None].astype(np.int32)
    return row


def test_packed_pairs_lose_what_they_lose_alone():
    batch, task = make_batch(), SequenceToSequence(model=Packable(max_length=32))
    row = packed(batch)
    task.check(row)
    loss, metrics, gradient = measure(row, task)
    expected, expected_metrics, expected_gradient = measure(batch)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert metrics["loss"].count == expected_metrics["loss"].count
    assert_trees_close(gradient, expected_gradient)


def test_packed_pairs_are_refused_where_they_cannot_be_read():
    row = packed(make_batch())
    with pytest.raises(ValueError, match="Tiny cannot read packed pairs"):
        SequenceToSequence(model=Tiny(max_length=32)).check(row)
    task = SequenceToSequence(model=Packable(max_length=32))
    with pytest.raises(ValueError, match="no 'target_segments'; packed"):
        task.check({k: v for k, v in row.items() if k != "target_segments"})
    with pytest.raises(ValueError, match="source_segments has shape"):
        task.check({**row, "source_segments": row["source_segments"][:, 1:]})


def test_padding_alone_and_empty_sources_give_no_nan():
    batch = {k: np.zeros_like(v) for k, v in make_batch().items()}
    loss, metrics, gradient = measure(batch)
    assert loss == 0 and metrics["loss"].count == 0
    assert all((np.asarray(g) == 0).all() for g in jax.tree.leaves(gradient))
    loss, _, gradient = measure({**make_batch(), "source": batch["source"]})
    assert np.isfinite(loss)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))


def test_eight_devices_lose_like_one():
    batch = {**make_batch((1, 2, 3, 4, 5, 6, 1, 2)), "mask": np.arange(8) != 4}
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec("data"))
    one = measure(batch, SMOOTHED, train=True)
    spread = {k: jax.device_put(v, split) for k, v in batch.items()}
    eight = measure(spread, SMOOTHED, train=True)
    np.testing.assert_allclose(eight[0], one[0], rtol=1e-6)
    assert eight[1]["loss"].count == one[1]["loss"].count
    assert_trees_close(eight[2], one[2])


def test_micro_batches_weigh_by_their_tokens():
    batch, optimizer = make_batch((6, 1, 2, 5)), optax.sgd(0.5)
    state = jax.jit(lambda: states.create(TASK, optimizer, batch, seed=0, ema=False))()
    whole, parts = (
        jax.jit(
            functools.partial(
                train_step, task=SMOOTHED, optimizer=optimizer, accumulation_steps=k
            )
        )(state, batch)[0]
        for k in (1, 2)
    )
    assert_trees_close(parts.params, whole.params, 1e-5)


def test_it_learns_to_translate_single_words():
    """The target is the source's word twice; a decoder without the source cannot know."""
    source = np.arange(5, V, dtype=np.int32)[:, None]
    ends = np.ones_like(source), 2 * np.ones_like(source)
    target = np.concatenate([ends[0], source, ends[1]], 1).astype(np.int32)
    batch, optimizer = {"source": source, "target": target}, optax.adam(0.03)
    state = jax.jit(lambda: states.create(TASK, optimizer, batch, seed=0, ema=False))()
    step = jax.jit(functools.partial(train_step, task=SMOOTHED, optimizer=optimizer))
    for _ in range(80):
        state, _ = step(state, batch)
    found = jax.jit(functools.partial(eval_step, task=TASK))(state, batch)
    assert found["accuracy"].compute() == 1


def changed(**changes):
    return {**make_batch(), **changes}


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"source": make_batch()["source"]}, "no 'target'.*set task.target_key"),
        ({"target": make_batch()["target"]}, "no 'source'.*set task.tokens_key"),
        (changed(source=np.full((4, 3), 12)), r"token 12 in 'source'.*\[0, 12\).*13"),
        (changed(target=np.full((4, 3), -2)), "token -2 in 'target' is negative"),
        (changed(target=np.ones((4, 18), int)), "target of length 17.*max_length=16"),
        (changed(source=np.ones((4, 17), int)), "source of length 17.*max_length=16"),
        (changed(source=np.ones((3, 7), int)), "3 sources for 4 targets"),
    ],
)
def test_check_names_the_value_and_the_remedy(batch, message):
    with pytest.raises(ValueError, match=message) as error:
        TASK.check(batch)
    assert "\n" not in str(error.value)


def test_good_batches_pass_and_padding_must_be_the_models():
    TASK.check(make_batch())
    TASK.check(changed(source=np.full((4, 3), 99), mask=np.zeros(4, bool)))
    other = SequenceToSequence(model=Tiny(pad_id=1))
    with pytest.raises(
        ValueError, match="pad_id is 0 for the task and 1 for the model"
    ):
        other.check(make_batch())


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_bad_smoothing(smoothing):
    with pytest.raises(ValueError, match=f"label_smoothing is {smoothing}"):
        SequenceToSequence(model=Tiny(), label_smoothing=smoothing)
