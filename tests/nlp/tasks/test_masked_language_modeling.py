"""Masked language modelling: statistics of the masks, losses by hand, what evaluation
repeats, padding, devices, checks, learning."""

import functools
import types

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from nlp.tasks.masked_language_modeling import MaskedLanguageModeling
from training import state as states
from training.step import eval_step, train_step

V = 20
KEY = jax.random.key(0)


@flax.struct.dataclass
class Outputs:
    logits: jax.Array
    next_logits: jax.Array | None


class Tiny(nn.Module):
    """Each token beside its neighbours and the row's mean, one hidden layer."""

    vocab_size: int = V
    max_length: int = 64

    @nn.compact
    def __call__(self, tokens, types=None, valid=None, positions=None, *, train=False):
        x = nn.Embed(self.vocab_size, 8, name="embed")(tokens) * valid[..., None]
        mean = x.sum(1) / jnp.maximum(valid.sum(1, keepdims=True), 1)
        next_logits = nn.Dense(2, name="next")(mean)
        beside = [jnp.roll(x, s, 1) for s in (1, -1)]
        x = nn.relu(nn.Dense(24, name="hidden")(jnp.concatenate([x, *beside], -1)))
        if positions is not None:
            x = jnp.take_along_axis(x, positions[..., None], axis=1)
        return Outputs(nn.Dense(self.vocab_size, name="head")(x), next_logits)

    def represent(self, tokens, types=None, valid=None, *, train=False):
        return tokens * valid


class Words:
    """What a tokenizer tells of its words."""

    vocab_size = V

    def __init__(self, starts):
        self.word_starts = starts


TASK = MaskedLanguageModeling(model=Tiny())


@functools.cache
def preparation(task, train):
    return jax.jit(lambda batch, rng: task.prepare(batch, rng=rng, train=train))


def prepared(batch, *, task=TASK, seed=0, train=False):
    return jax.device_get(preparation(task, train)(batch, jax.random.key(seed)))


def text(*shape, seed=0):
    return np.random.default_rng(seed).integers(5, V, shape).astype(np.int32)


def make_batch(lengths=(30, 12, 1, 24), length=32, seed=0):
    """Rows [cls] text [sep] padding."""
    tokens = np.zeros((len(lengths), length), np.int32)
    for i, n in enumerate(lengths):
        tokens[i, : n + 2] = [1, *text(n, seed=seed + i), 2]
    return {"tokens": tokens}


@functools.cache
def values():
    batch = {**make_batch(), "is_next": np.zeros(4, np.int32)}
    return jax.jit(lambda: TASK.init(KEY, batch)[0])()


@functools.cache
def loss_program(task):
    return jax.jit(task.loss)


def loss_of(outputs, batch, task=TASK):
    return jax.device_get(loss_program(task)(outputs, batch))


@functools.cache
def program(task, train):
    def run(params, batch):
        def loss(params):
            outputs, batch_, _ = task.apply(params, {}, batch, rng=KEY, train=train)
            return task.loss(outputs, batch_)

        return jax.value_and_grad(loss, has_aux=True)(params)

    return jax.jit(run)


def measure(batch, task=TASK, train=False):
    (loss, metrics), gradient = program(task, train)(values(), batch)
    return loss, jax.device_get(metrics), gradient


def assert_trees_close(a, b, rtol=1e-4, atol=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol, atol), a, b)


@pytest.mark.parametrize("train", [True, False])
def test_statistics_of_the_paper(train):
    """Catalogue row 107: 15 % of the tokens; of these 80 % masks, 10 % random, 10 % kept."""
    tokens = np.concatenate([np.ones((400, 1), int), text(400, 100)], 1)
    batch = prepared({"tokens": tokens.astype(np.int32)}, train=train)
    selected, masked = batch["selected"], batch["masked"]
    np.testing.assert_array_equal(selected.sum(1), 15)
    assert not selected[:, 0].any()
    np.testing.assert_array_equal(masked[~selected], tokens[~selected])
    hidden, truth = masked[selected], tokens[selected]
    # Five standard deviations over 6000 tokens.
    assert abs((hidden == 4).mean() - 0.8) < 0.026
    assert abs((hidden == truth).mean() - (0.1 + 0.1 / 15)) < 0.02
    assert not np.isin(hidden, (0, 1, 2, 3)).any()
    share = selected[:, 1:].mean(0)
    np.testing.assert_allclose(share, 0.15, atol=0.09)


def test_positions_list_the_selected_tokens():
    batch = prepared(make_batch(), train=True)
    counts = batch["selected"].sum(1)
    np.testing.assert_array_equal(counts, [4, 2, 1, 4])  # round(0.15 * 30, 12, 1, 24)
    assert batch["positions"].shape == batch["predicted"].shape == (4, 5)
    np.testing.assert_array_equal(batch["predicted"].sum(1), counts)
    for row in range(4):
        found = batch["positions"][row][batch["predicted"][row]]
        np.testing.assert_array_equal(found, np.flatnonzero(batch["selected"][row]))


def test_specials_are_never_selected():
    row = np.zeros(32, np.int32)
    row[:7] = [1, 3, 4, 7, 3, 3, 2]
    selected = prepared({"tokens": np.tile(row, (4, 1))}, train=True)["selected"]
    np.testing.assert_array_equal(selected, np.tile(np.arange(32) == 3, (4, 1)))


def test_training_draws_anew_each_step_and_for_each_row():
    batch = {"tokens": np.tile(text(1, 32), (4, 1))}
    first, again, other = (
        prepared(batch, seed=s, train=True)["masked"] for s in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any(1).all()
    assert len(np.unique(first, axis=0)) == 4


def test_evaluation_masks_depend_on_the_row_alone():
    batch = make_batch()
    found = prepared(batch)
    other = prepared(batch, seed=5)
    wide = prepared({"tokens": np.pad(batch["tokens"][::-1], ((0, 3), (0, 9)))})
    for key in ("masked", "selected"):
        np.testing.assert_array_equal(other[key], found[key])
        np.testing.assert_array_equal(wide[key][:4, :32][::-1], found[key])
        assert not wide[key][:, 32:].any() and not wide[key][4:].any()


def test_eight_devices_mask_and_lose_like_one():
    batch = {**make_batch((30, 1, 5, 9, 20, 13, 28, 3)), "mask": np.arange(8) != 2}
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec("data"))
    spread = {k: jax.device_put(v, split) for k, v in batch.items()}

    @jax.jit
    def run(params, batch):
        def loss(params):
            outputs, trained, _ = TASK.apply(params, {}, batch, rng=KEY, train=True)
            return TASK.loss(outputs, trained)[0], trained["masked"]

        evaluated = TASK.prepare(batch, rng=KEY, train=False)["masked"]
        return jax.value_and_grad(loss, has_aux=True)(params), evaluated

    ((one, masked), gradient), evaluated = run(values(), batch)
    ((eight, spread_masked), spread_gradient), spread_evaluated = run(values(), spread)
    np.testing.assert_array_equal(spread_masked, masked)
    np.testing.assert_array_equal(spread_evaluated, evaluated)
    np.testing.assert_allclose(eight, one, rtol=1e-6)
    assert_trees_close(spread_gradient, gradient)


def test_whole_words():
    """Tokens 10 and above continue a word."""
    starts = np.arange(V) < 10
    tokenizer = Words(starts)
    task = MaskedLanguageModeling(model=Tiny(), tokenizer=tokenizer, whole_words=True)
    tokens = np.concatenate([np.ones((200, 1), np.int32), text(200, 60)], 1)
    selected = prepared({"tokens": tokens}, task=task, train=True)["selected"]
    continues = ~starts[tokens[:, 1:]]
    continues[:, 0] = False  # after a special token a word begins in any case
    pairs = selected[:, 1:] == selected[:, :-1]
    assert pairs[continues].all()
    assert (selected.sum(1) <= 9).all() and selected.sum(1).mean() > 8
    assert np.isin(tokens[selected], np.arange(10, V)).mean() > 0.4


def outputs_of(batch, logits, seed=0):
    shape = (len(batch["tokens"]), 2)
    return Outputs(logits, np.random.default_rng(seed).normal(size=shape))


def test_loss_by_hand():
    batch = prepared(make_batch())
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(4, 32, V)).astype(np.float32)
    loss, metrics = loss_of(outputs_of(batch, logits), batch)
    at, truth = batch["selected"], batch["tokens"]
    odds = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    nll = -np.log(np.take_along_axis(odds, truth[..., None], -1)[..., 0])[at]
    np.testing.assert_allclose(loss, nll.mean(), rtol=1e-5)
    assert metrics["loss"].count == 11
    np.testing.assert_allclose(
        metrics["perplexity"].compute(), np.exp(nll.mean()), 1e-5
    )
    hits = (logits.argmax(-1) == truth)[at].mean()
    np.testing.assert_allclose(metrics["accuracy"].compute(), hits, rtol=1e-6)
    assert metrics.keys() == {"loss", "accuracy", "perplexity"}


def test_is_next_by_hand():
    batch = {**prepared(make_batch()), "is_next": np.array([1, 0, 1, 1])}
    batch["mask"] = np.array([True, True, True, False])
    logits = np.zeros((4, 32, V), np.float32)
    outputs = outputs_of(batch, logits)
    loss, metrics = loss_of(outputs, batch)
    score = np.asarray(outputs.next_logits, np.float32)
    truth = score[np.arange(4), 1 - batch["is_next"]]  # yes is class 0
    expected = (np.log(np.exp(score).sum(-1)) - truth)[:3].mean()
    np.testing.assert_allclose(metrics["next_loss"].compute(), expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["token_loss"].compute(), np.log(V), rtol=1e-5)
    np.testing.assert_allclose(loss, np.log(V) + expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"].compute(), loss, rtol=1e-6)
    right = (score.argmax(-1) == 1 - batch["is_next"])[:3].mean()
    np.testing.assert_allclose(metrics["next_accuracy"].compute(), right, rtol=1e-6)


def test_gathering_first_gives_the_same_loss_and_gradient():
    batch = {
        **make_batch(),
        "is_next": np.array([1, 0, 1, 1]),
        "mask": np.ones(4, bool),
    }
    gather = MaskedLanguageModeling(model=Tiny(), gather=True)
    plain, gathered = measure(batch), measure(batch, gather)
    np.testing.assert_allclose(gathered[0], plain[0], rtol=1e-6)
    assert_trees_close(gathered[2], plain[2])


def test_padding_has_no_influence():
    batch = {
        **make_batch(),
        "is_next": np.array([1, 0, 1, 1]),
        "mask": np.ones(4, bool),
    }
    loss, metrics, gradient = measure(batch)
    padded = {
        "tokens": np.pad(batch["tokens"], ((0, 2), (0, 9))),
        "is_next": np.pad(batch["is_next"], (0, 2)),
        "mask": np.arange(6) < 4,
    }
    padded["tokens"][5] = 11
    found, padded_metrics, padded_gradient = measure(padded)
    np.testing.assert_allclose(found, loss, rtol=1e-5)
    assert padded_metrics["loss"].count == metrics["loss"].count == 11
    assert padded_metrics["next_loss"].count == 4
    assert_trees_close(padded_gradient, gradient)


def test_logits_that_do_not_count_have_no_gradient_even_if_not_finite():
    batch = prepared(make_batch())
    batch["mask"] = np.array([True, True, True, False])
    counted = batch["selected"] & batch["mask"][:, None]
    logits = np.where(counted[..., None], 0.5, np.nan) * np.ones(V)
    gradient = jax.jit(jax.grad(lambda x: TASK.loss(outputs_of(batch, x), batch)[0]))(
        logits
    )
    np.testing.assert_array_equal(gradient[~counted], 0)
    assert (np.abs(gradient[counted]).sum(-1) > 0).all()


def test_padding_alone_gives_zero_and_no_nan():
    batch = {"tokens": np.zeros((6, 41), np.int32), "is_next": np.ones(6, np.int32)}
    loss, metrics, gradient = measure({**batch, "mask": np.zeros(6, bool)})
    assert loss == 0 and metrics["loss"].count == 0
    assert all((np.asarray(g) == 0).all() for g in jax.tree.leaves(gradient))


def test_it_learns_what_follows_what():
    tokens = np.stack([np.roll(np.arange(5, V), k) for k in range(15)]).astype(np.int32)
    task = MaskedLanguageModeling(model=Tiny())
    batch, optimizer = {"tokens": tokens}, optax.adam(0.02)
    state = jax.jit(lambda: states.create(task, optimizer, batch, seed=0, ema=False))()
    step = jax.jit(functools.partial(train_step, task=task, optimizer=optimizer))
    for _ in range(200):
        state, _ = step(state, batch)
    found = jax.jit(functools.partial(eval_step, task=task))(state, batch)
    assert found["accuracy"].compute() > 0.9  # now and then a neighbour is hidden too


def test_represent_sees_the_text_unmasked():
    batch = make_batch()
    np.testing.assert_array_equal(TASK.represent({}, {}, batch), batch["tokens"])


BATCH = make_batch()


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (
            {"tokens": BATCH["tokens"] + 9},
            r"token \d+ in 'tokens' is outside \[0, 20\)",
        ),
        ({"tokens": BATCH["tokens"] - 1}, "token -1 in 'tokens' is negative"),
        ({"text": 1}, "no 'tokens'"),
        ({"tokens": text(2, 65)}, "length 65 for a model with max_length=64"),
        ({**BATCH, "types": np.zeros((4, 3))}, r"types has shape \(4, 3\)"),
        ({**BATCH, "is_next": np.zeros(3)}, r"is_next has shape \(3,\)"),
        ({**BATCH, "is_next": np.array([0, 1, 2, 0])}, "is_next holds 2; use 0 for no"),
    ],
)
def test_check_names_the_value_and_the_remedy(batch, message):
    with pytest.raises(ValueError, match=message) as error:
        TASK.check(batch)
    assert "\n" not in str(error.value)


def test_check_of_the_mask_token():
    TASK.check({**BATCH, "is_next": np.array([True, False, True, True])})
    with pytest.raises(ValueError, match=r"mask_id 103 is outside \[0, 20\)"):
        MaskedLanguageModeling(model=Tiny(), mask_id=103).check(BATCH)
    tokenizer = types.SimpleNamespace(mask_id=7, vocab_size=V)
    with pytest.raises(
        ValueError, match="4 for the task and 7 for the tokenizer; set ta"
    ):
        MaskedLanguageModeling(model=Tiny(), tokenizer=tokenizer).check(BATCH)
    with pytest.raises(
        ValueError, match="neither model nor tokenizer has a vocab_size"
    ):
        MaskedLanguageModeling(model=nn.Dense(3)).check(BATCH)


def test_a_model_without_the_second_answer():
    batch = {**prepared(make_batch()), "is_next": np.ones(4, np.int32)}
    with pytest.raises(ValueError, match="is_next and the model no next_logits; set"):
        TASK.loss(Outputs(jnp.zeros((4, 32, V)), None), batch)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"select_share": 0.0}, "select_share is 0.0"),
        ({"mask_share": 0.9, "random_share": 0.2}, "are 0.9 and 0.2"),
        ({"random_share": -0.1}, "are 0.8 and -0.1"),
        ({"whole_words": True}, "needs a tokenizer with word_starts, not NoneType"),
    ],
)
def test_bad_fields(fields, message):
    with pytest.raises(ValueError, match=message):
        MaskedLanguageModeling(model=Tiny(), **fields)
