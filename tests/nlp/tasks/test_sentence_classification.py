"""Sentence classification: losses by hand, the penalty, padding, checks, learning."""

import functools

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from nlp.tasks.sentence_classification import SentenceClassification
from training import state as states
from training.step import eval_step, train_step

V, K = 12, 3
KEY = jax.random.key(0)


@flax.struct.dataclass
class Outputs:
    logits: jax.Array
    penalty: jax.Array | None = None


class Tiny(nn.Module):
    """The mean of a row's tokens, one product; types are added where given."""

    num_classes: int = K
    vocab_size: int = V
    max_length: int = 9
    penalty: bool = False

    @nn.compact
    def __call__(self, tokens, types=None, *, train=False):
        x = nn.Embed(self.vocab_size, 8, name="embed")(tokens)
        if types is not None:
            x = x + nn.Embed(2, 8, name="types")(types)
        valid = (tokens != 0)[..., None]
        mean = (x * valid).sum(1) / jnp.maximum(valid.sum(1), 1)
        logits = nn.Dense(self.num_classes, name="head")(mean)
        return Outputs(logits, (mean**2).sum(-1)) if self.penalty else logits


TASK = SentenceClassification(model=Tiny())
PENALIZED = SentenceClassification(model=Tiny(penalty=True), penalty_weight=0.5)


def make_batch(size=6, length=7):
    rng = np.random.default_rng(0)
    tokens = rng.integers(5, V, (size, length)).astype(np.int32)
    tokens[:, 4:] *= rng.random((size, 1)) < 0.5
    return {"tokens": tokens, "label": rng.integers(0, K, size).astype(np.int32)}


@functools.cache
def program(task):
    params = jax.jit(lambda: task.init(KEY, make_batch())[0])()

    def run(batch):
        def loss(params):
            outputs, prepared, _ = task.apply(params, {}, batch, rng=KEY, train=False)
            return task.loss(outputs, prepared)

        return jax.value_and_grad(loss, has_aux=True)(params)

    return jax.jit(run)


def measure(batch, task=TASK):
    (loss, metrics), gradient = program(task)(batch)
    return loss, jax.device_get(metrics), gradient


def assert_trees_close(a, b, rtol=1e-4, atol=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol, atol), a, b)


LOGITS = np.random.default_rng(1).normal(size=(6, K)).astype(np.float32) * 2


def test_loss_by_hand():
    batch = {**make_batch(), "mask": np.arange(6) != 2}
    loss, metrics = jax.jit(TASK.loss)(LOGITS, batch)
    odds = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
    nll = -np.log(odds[np.arange(6), batch["label"]])[batch["mask"]].mean()
    np.testing.assert_allclose(loss, nll, rtol=1e-5)
    hits = (LOGITS.argmax(-1) == batch["label"])[batch["mask"]].mean()
    np.testing.assert_allclose(metrics["accuracy"].compute(), hits, rtol=1e-6)
    assert metrics["loss"].count == 5 and metrics.keys() == {"loss", "accuracy"}
    # A struct without a penalty is read like its logits.
    same, _ = jax.jit(TASK.loss)(Outputs(LOGITS), batch)
    assert same == loss


def test_the_penalty_is_averaged_and_weighted():
    batch = {**make_batch(), "mask": np.arange(6) != 2}
    penalty = np.array([1, 2, np.nan, 4, 5, 6], np.float32)
    loss, metrics = jax.jit(PENALIZED.loss)(Outputs(LOGITS, penalty), batch)
    np.testing.assert_allclose(metrics["penalty"].compute(), 18 / 5, rtol=1e-6)
    plain, _ = jax.jit(TASK.loss)(LOGITS, batch)
    np.testing.assert_allclose(metrics["cross_entropy"].compute(), plain, rtol=1e-6)
    np.testing.assert_allclose(loss, plain + 0.5 * 18 / 5, rtol=1e-6)
    np.testing.assert_allclose(metrics["loss"].compute(), loss, rtol=1e-6)
    gradient = jax.grad(lambda x: PENALIZED.loss(Outputs(LOGITS, x), batch)[0])(penalty)
    np.testing.assert_allclose(gradient, [0.1, 0.1, 0, 0.1, 0.1, 0.1], rtol=1e-6)


@pytest.mark.parametrize("task", [TASK, PENALIZED])
def test_padding_has_no_influence(task):
    batch = {**make_batch(), "mask": np.ones(6, bool)}
    loss, metrics, gradient = measure(batch, task)
    padded = {
        "tokens": np.pad(batch["tokens"], ((0, 2), (0, 2))),
        "label": np.append(batch["label"], [77, -1]),
        "mask": np.arange(8) < 6,
    }
    padded["tokens"][7] = 5
    found, padded_metrics, padded_gradient = measure(padded, task)
    np.testing.assert_allclose(found, loss, rtol=1e-5)
    for name, metric in metrics.items():
        assert padded_metrics[name].count == metric.count == 6
    assert_trees_close(padded_gradient, gradient)
    loss, _, gradient = measure({**padded, "mask": np.zeros(8, bool)}, task)
    assert loss == 0
    assert all((np.asarray(g) == 0).all() for g in jax.tree.leaves(gradient))


def test_eight_devices_lose_like_one():
    batch = {**make_batch(8), "mask": np.arange(8) != 3}
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec("data"))
    one = measure(batch, PENALIZED)
    spread = {k: jax.device_put(v, split) for k, v in batch.items()}
    eight = measure(spread, PENALIZED)
    np.testing.assert_allclose(eight[0], one[0], rtol=1e-6)
    assert_trees_close(eight[2], one[2])


def test_types_go_to_the_model():
    batch = {**make_batch(), "types": np.ones((6, 7), np.int32)}
    assert len(TASK.inputs(make_batch())) == 1
    np.testing.assert_array_equal(TASK.inputs(batch)[1], batch["types"])
    params, _ = jax.jit(lambda: TASK.init(KEY, batch))()
    assert "types" in params


def test_it_learns_which_word_is_in_a_sentence():
    rng = np.random.default_rng(0)
    label = rng.integers(0, K, 60).astype(np.int32)
    tokens = rng.integers(8, V, (60, 7)).astype(np.int32)
    tokens[np.arange(60), rng.integers(0, 7, 60)] = 5 + label
    batch, optimizer = {"tokens": tokens, "label": label}, optax.adam(0.1)
    state = jax.jit(lambda: states.create(TASK, optimizer, batch, seed=0, ema=False))()
    step = jax.jit(functools.partial(train_step, task=TASK, optimizer=optimizer))
    for _ in range(60):
        state, _ = step(state, batch)
    found = jax.jit(functools.partial(eval_step, task=TASK))(state, batch)
    assert found["accuracy"].compute() > 0.98


def changed(**changes):
    return {**make_batch(), **changes}


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (changed(label=np.array([0, 1, 3, 0, 0, 0])), r"label 3 .*\[0, 3\).*least 4"),
        (changed(label=np.array([0, 1, -1, 0, 0, 0])), "label -1 .*count from 0"),
        (changed(label=np.zeros(6)), "labels are float64"),
        (changed(label=np.zeros((6, 3), int)), r"shape \(6, 3\).* each of 6 rows"),
        (changed(tokens=np.full((6, 7), 12)), "token 12 .*at least 13"),
        (
            changed(tokens=np.ones((6, 10), int)),
            "length 10 for a model with max_length=9",
        ),
        (changed(types=np.ones((6, 8), int)), r"types has shape \(6, 8\)"),
        ({"tokens": make_batch()["tokens"]}, "no 'label'.*set task.label_key"),
        ({"label": make_batch()["label"]}, "no 'tokens'.*set task.tokens_key"),
    ],
)
def test_check_names_the_value_and_the_remedy(batch, message):
    with pytest.raises(ValueError, match=message) as error:
        TASK.check(batch)
    assert "\n" not in str(error.value)


def test_good_batches_pass_and_padding_is_ignored():
    TASK.check(make_batch())
    label = np.array([0, 1, 2, 0, 99, -1])
    TASK.check(changed(label=label, mask=np.arange(6) < 4))
    with pytest.raises(ValueError, match="Embed has no num_classes"):
        SentenceClassification(model=nn.Embed(V, 3)).check(make_batch())
    with pytest.raises(ValueError, match="penalty_weight is -1"):
        SentenceClassification(model=Tiny(), penalty_weight=-1)
