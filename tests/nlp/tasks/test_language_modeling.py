"""Language modelling: losses by hand, packing, padding, devices, accumulation, checks."""

import functools
import math
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from nlp.tasks.language_modeling import LanguageModeling
from training import state as states
from training.step import eval_step, train_step

V = 11
KEY = jax.random.key(0)


class Tiny(nn.Module):
    """The mean over what a token may see, and one product."""

    vocab_size: int = V
    max_length: int = 24

    @nn.compact
    def __call__(self, tokens, segments=None, *, train=False):
        x = nn.Embed(self.vocab_size, 8, name="embed")(tokens)
        T = tokens.shape[1]
        mask = jnp.tril(jnp.ones((1, T, T), bool))
        if segments is not None:
            mask &= segments[:, :, None] == segments[:, None, :]
        mean = (mask @ x) / mask.sum(-1, keepdims=True)
        x = nn.Dense(16, name="hidden")(jnp.concatenate([x, mean], -1))
        return nn.Dense(self.vocab_size, name="head")(nn.relu(x))

    def represent(self, tokens, segments=None, *, train=False):
        return tokens.astype(jnp.float32)


TASK = LanguageModeling(model=Tiny())


@functools.cache
def values():
    tokens = np.zeros((2, 3), np.int32)
    return jax.jit(lambda: TASK.init(KEY, {"tokens": tokens})[0])()


@functools.cache
def program(task):
    def run(params, batch):
        def loss(params):
            outputs, prepared, _ = task.apply(params, {}, batch, rng=KEY, train=False)
            return task.loss(outputs, prepared)

        return jax.value_and_grad(loss, has_aux=True)(params)

    return jax.jit(run)


def measure(batch, params=None, task=TASK):
    (loss, metrics), gradient = program(task)(params or values(), batch)
    return loss, jax.device_get(metrics), gradient


def assert_trees_close(a, b, rtol=1e-4, atol=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol, atol), a, b)


def text(*shape, seed=0):
    return np.random.default_rng(seed).integers(5, V, shape).astype(np.int32)


def pack(documents, rows, length):
    """Documents (one list per row) as tokens and segments."""
    tokens, segments = np.zeros((2, rows, length), np.int32)
    for i, row in enumerate(documents):
        place = 0
        for j, document in enumerate(row, 1):
            end = place + len(document)
            tokens[i, place:end], segments[i, place:end] = document, j
            place = end
    return {"tokens": tokens, "segments": segments}


def test_loss_by_hand():
    batch = {"tokens": text(3, 6)}
    logits = np.random.default_rng(1).normal(size=(3, 5, V)).astype(np.float32) * 2
    loss, metrics = TASK.loss(jnp.asarray(logits), batch)
    odds = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    labels = batch["tokens"][:, 1:]
    nll = -np.log(np.take_along_axis(odds, labels[..., None], -1))
    np.testing.assert_allclose(loss, nll.mean(), rtol=1e-6)
    np.testing.assert_allclose(
        metrics["perplexity"].compute(), np.exp(nll.mean()), 1e-5
    )
    hits = (logits.argmax(-1) == labels).mean()
    np.testing.assert_allclose(metrics["accuracy"].compute(), hits, rtol=1e-6)
    assert metrics["loss"].count == 15 and "bits_per_character" not in metrics


def test_bits_per_character():
    batch = {
        "tokens": text(3, 6),
        "characters": np.array([10, 15, 999]),
        "mask": np.array([True, True, False]),
    }
    metrics = TASK.loss(jnp.zeros((3, 5, V)), batch)[1]
    # 10 targets of log2(11) bits for 25 characters.
    found = metrics["bits_per_character"].compute()
    np.testing.assert_allclose(found, 10 * math.log2(V) / 25, rtol=1e-6)


def test_documents_packed_into_rows_lose_as_if_each_had_its_own():
    documents = [text(n, seed=n) for n in (5, 9, 2, 7, 1, 12)]
    alone = pack([[d] for d in documents], 6, 13)
    packed = pack([documents[:3], documents[3:]], 2, 24)
    loss, metrics, gradient = measure(alone)
    packed_loss, packed_metrics, packed_gradient = measure(packed)
    assert (
        metrics["loss"].count == packed_metrics["loss"].count == 4 + 8 + 1 + 6 + 0 + 11
    )
    np.testing.assert_allclose(packed_loss, loss, rtol=1e-5)
    assert packed_metrics["accuracy"].total == metrics["accuracy"].total
    assert_trees_close(packed_gradient, gradient)
    # Without segments the documents would run into each other.
    assert abs(measure({"tokens": packed["tokens"]})[0] - loss) > 1e-3


@pytest.mark.parametrize("junk", [0, 7, V - 1])
def test_rows_of_padding_and_padded_tokens_have_no_influence(junk):
    batch = pack([[text(6)], [text(4), text(3)]], 2, 9)
    loss, metrics, gradient = measure(batch)
    padded = {k: np.pad(v, ((0, 2), (0, 4))) for k, v in batch.items()}
    padded["tokens"][padded["segments"] == 0] = junk
    padded["segments"][2:, :5] = 1
    padded["mask"] = np.array([True, True, False, False])
    padded_loss, padded_metrics, padded_gradient = measure(padded)
    np.testing.assert_allclose(padded_loss, loss, rtol=1e-6)
    assert padded_metrics["loss"].count == metrics["loss"].count == 10
    assert padded_metrics["accuracy"].total == metrics["accuracy"].total
    assert_trees_close(padded_gradient, gradient)


def test_logits_that_do_not_count_have_no_gradient_even_if_not_finite():
    batch = pack([[text(3), text(3)], [text(4)]], 2, 8)
    counted = np.zeros((2, 7), bool)
    counted[0, [0, 1, 3, 4]] = counted[1, :3] = True
    logits = np.where(counted[..., None], 0.5, np.nan) * np.ones(V)
    loss, gradient = jax.value_and_grad(lambda x: TASK.loss(x, batch)[0])(logits)
    np.testing.assert_allclose(loss, np.log(V), rtol=1e-6)
    np.testing.assert_array_equal(gradient[~counted], 0)
    assert (np.abs(gradient[counted]).sum(-1) > 0).all()


def test_padding_alone_gives_zero_and_no_nan():
    for batch in (
        {"tokens": np.zeros((2, 5), np.int32), "segments": np.zeros((2, 5), np.int32)},
        {
            "tokens": text(2, 5),
            "segments": np.ones((2, 5), int),
            "mask": np.zeros(2, bool),
        },
    ):
        loss, metrics, gradient = measure({**batch, "characters": np.zeros(2, int)})
        assert loss == 0 and metrics["loss"].count == 0
        assert metrics["bits_per_character"].compute() == 0
        assert all((np.asarray(g) == 0).all() for g in jax.tree.leaves(gradient))


def test_eight_devices_lose_like_one():
    documents = [[text(n, seed=n), text(15 - n)] for n in range(1, 9)]
    batch = {**pack(documents, 8, 16), "mask": np.arange(8) != 3}
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec("data"))
    one = measure(batch)
    eight = measure({k: jax.device_put(v, split) for k, v in batch.items()})
    np.testing.assert_allclose(eight[0], one[0], rtol=1e-6)
    assert eight[1]["loss"].count == one[1]["loss"].count
    assert_trees_close(eight[2], one[2])


def updated(batch, k):
    optimizer = optax.sgd(0.5)
    state = jax.jit(lambda: states.create(TASK, optimizer, batch, seed=0, ema=False))()
    step = functools.partial(
        train_step, task=TASK, optimizer=optimizer, accumulation_steps=k
    )
    return jax.jit(step)(state, batch)


def test_micro_batches_weigh_by_their_tokens():
    documents = [[text(2)], [text(12)], [text(5)], [text(1)]]
    batch = pack(documents, 4, 13)
    (whole, metrics), (parts, part_metrics) = (updated(batch, k) for k in (1, 2))
    assert part_metrics["loss"].count == metrics["loss"].count == 16
    assert_trees_close(parts.params, whole.params, 1e-5)
    np.testing.assert_allclose(
        part_metrics["perplexity"].compute(), metrics["perplexity"].compute(), 1e-5
    )


def test_it_learns_a_text_by_heart():
    batch = {"tokens": np.tile(np.arange(5, V, dtype=np.int32), (2, 4))[:, :23]}
    optimizer = optax.adam(0.02)
    state = jax.jit(lambda: states.create(TASK, optimizer, batch, seed=0, ema=False))()
    step = jax.jit(functools.partial(train_step, task=TASK, optimizer=optimizer))
    for _ in range(80):
        state, _ = step(state, batch)
    found = jax.jit(functools.partial(eval_step, task=TASK))(state, batch)
    assert found["accuracy"].compute() == 1 and found["perplexity"].compute() < 1.1


def test_represent_sees_what_the_model_reads():
    batch = pack([[text(6)]], 1, 7)
    found = TASK.represent({}, {}, batch)
    np.testing.assert_array_equal(found, batch["tokens"][:, :-1])


BATCH = {"tokens": text(2, 9)}


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (
            {"tokens": BATCH["tokens"] + 5},
            r"token 15 in 'tokens'.*\[0, 11\).*at least 16",
        ),
        ({"tokens": BATCH["tokens"] - 9}, r"token -4 in 'tokens' is negative"),
        (
            {"text": BATCH["tokens"]},
            r"no 'tokens', only \['text'\]; set task.tokens_key",
        ),
        ({"tokens": text(2, 26)}, "length 25 for a model with max_length=24; cut"),
        ({"tokens": text(9)}, r"shape \(9,\)"),
        ({"tokens": np.ones((2, 9))}, "float64"),
        ({"tokens": text(2, 1)}, "at least 2 tokens"),
        ({**BATCH, "segments": np.ones((2, 8), int)}, r"segments has shape \(2, 8\)"),
        ({**BATCH, "characters": np.ones((2, 9))}, r"characters has shape \(2, 9\)"),
    ],
)
def test_check_names_the_value_and_the_remedy(batch, message):
    with pytest.raises(ValueError, match=message) as error:
        TASK.check(batch)
    assert "\n" not in str(error.value)


def test_check_of_the_tokenizer():
    tokenizer = lambda **fields: types.SimpleNamespace(**{"vocab_size": V, **fields})
    known = LanguageModeling(model=Tiny(), tokenizer=tokenizer(pad_id=0))
    known.check(BATCH)
    padded = {"tokens": np.where(np.arange(9) < 6, BATCH["tokens"], 0)}
    with pytest.raises(
        ValueError, match="padding .token 0. and the batch has no 'segm"
    ):
        known.check(padded)
    known.check({**padded, "segments": (padded["tokens"] != 0).astype(np.int32)})
    known.check({**padded, "mask": np.zeros(2, bool)})
    with pytest.raises(ValueError, match="tokenizer has 12 tokens, the model 11; set"):
        LanguageModeling(model=Tiny(), tokenizer=tokenizer(vocab_size=12)).check(BATCH)
    with pytest.raises(ValueError, match="pad_id is 0 for the task and 1 for the tok"):
        LanguageModeling(model=Tiny(), tokenizer=tokenizer(pad_id=1)).check(BATCH)


def test_check_ignores_rows_of_padding():
    tokens = np.concatenate([text(2, 9), np.full((1, 9), V + 3, np.int32)])
    TASK.check({"tokens": tokens, "mask": np.array([True, True, False])})
    TASK.check({"tokens": tokens, "mask": np.zeros(3, bool)})
