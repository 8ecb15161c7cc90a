import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy_experiment
from toy_experiment import Classify, Net

from training import state as states
from training import step as steps

BATCH = next(toy_experiment.Clusters().train_batches(batch_size=12, seed=0))


def create(task, optimizer, ema=False):
    return states.create(task, optimizer, BATCH, seed=0, ema=ema)


def run(task, optimizer, batch=BATCH, count=1, ema=None, **kwargs):
    state = create(task, optimizer, ema is not None)
    step = jax.jit(
        functools.partial(
            steps.train_step, task=task, optimizer=optimizer, ema_decay=ema, **kwargs
        )
    )
    for _ in range(count):
        state, metrics = step(state, batch)
    return state, metrics


def distance(a, b):
    return max(jax.tree.leaves(jax.tree.map(lambda x, y: np.abs(x - y).max(), a, b)))


@pytest.mark.parametrize("k", [2, 3, 6])
def test_accumulation_equals_the_large_batch(k):
    task, optimizer = Classify(model=Net()), optax.sgd(1.0)
    whole, whole_metrics = run(task, optimizer)
    parts, metrics = run(task, optimizer, accumulation_steps=k)
    assert distance(whole.params, parts.params) < 1e-6
    for name in ("loss", "accuracy"):
        np.testing.assert_allclose(
            metrics[name].compute(), whole_metrics[name].compute(), rtol=1e-6
        )


def test_accumulation_weighs_micro_batches_by_what_they_count():
    task, optimizer = Classify(model=Net()), optax.sgd(1.0)
    mask = np.array([True, False] * 2 + [True] * 3 + [False] * 5)
    batch = {**BATCH, "mask": mask}
    whole, _ = run(task, optimizer, batch)
    parts, _ = run(task, optimizer, batch, accumulation_steps=3)
    assert distance(whole.params, parts.params) < 1e-6
    dropped = {k: v[mask] for k, v in BATCH.items()}
    alone, _ = run(task, optimizer, dropped)
    assert distance(whole.params, alone.params) < 1e-6


def test_accumulation_of_a_batch_that_is_all_padding_moves_nothing():
    task, optimizer = Classify(model=Net()), optax.sgd(1.0)
    batch = {**BATCH, "mask": np.zeros(12, bool)}
    state, metrics = run(task, optimizer, batch, accumulation_steps=2)
    assert distance(state.params, create(task, optimizer).params) == 0
    assert float(metrics["loss"].compute()) == 0


def test_dropout_differs_between_steps_and_repeats_for_the_same_step():
    task = Classify(model=Net(dropout_rate=0.5))
    state = create(task, optax.sgd(0.0))
    losses = []
    for step in (0, 1, 1):
        state = dataclasses.replace(state, step=jnp.int32(step))
        _, metrics = steps.train_step(state, BATCH, task=task, optimizer=optax.sgd(0.0))
        losses.append(float(metrics["loss"].compute()))
    assert losses[0] != losses[1] and losses[1] == losses[2]


def test_ema_follows_its_formula_and_is_what_is_evaluated():
    task, optimizer = Classify(model=Net()), optax.sgd(0.5)
    first = create(task, optimizer)
    state, _ = run(task, optimizer, ema=0.9)
    expected = jax.tree.map(lambda e, p: 0.9 * e + 0.1 * p, first.params, state.params)
    assert distance(state.ema, expected) < 1e-6
    mean = steps.eval_step(state, BATCH, task=task)["loss"].compute()
    swapped = dataclasses.replace(state, params=state.ema, ema=None)
    assert mean == steps.eval_step(swapped, BATCH, task=task)["loss"].compute()


def test_statistics_move_in_training_and_rest_in_evaluation():
    task, optimizer = Classify(model=Net(norm=True)), optax.sgd(0.1)
    first = create(task, optimizer)
    state, _ = run(task, optimizer)
    stats = lambda s: s.collections["batch_stats"]["norm"]["mean"]
    assert np.abs(stats(state) - stats(first)).max() > 1e-4
    before = jax.tree.map(np.array, state.collections)
    steps.eval_step(state, BATCH, task=task)
    assert distance(before, state.collections) == 0


def test_padding_rows_do_not_change_the_evaluation():
    task = Classify(model=Net())
    state = create(task, optax.sgd(0.1))
    padded = {
        "x": np.concatenate([BATCH["x"], np.full((4, 6), np.nan, np.float32)]),
        "label": np.concatenate([BATCH["label"], np.zeros(4, np.int32)]),
        "mask": np.arange(16) < 12,
    }
    for name, metric in steps.eval_step(state, BATCH, task=task).items():
        other = steps.eval_step(state, padded, task=task)[name]
        assert float(metric.count) == float(other.count)
        np.testing.assert_allclose(metric.total, other.total, rtol=1e-6)
