"""One update and one evaluation step, for every objective.

`train_step` is the only place that differentiates. Another update (federated averaging,
say) is a second function of this signature, named by `config.update`.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from training import metrics as metric_types
from training.state import TrainState
from training.task import Batch, Task


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    task: Task,
    optimizer: Any,
    accumulation_steps: int = 1,
    ema_decay: float | None = None,
) -> tuple[TrainState, dict[str, Any]]:
    """One optimizer update on one global batch.

    Returns:
        The next state and the batch's metrics: the task's, and 'gradient_norm'.
    """
    rng = state.step_rng
    if accumulation_steps == 1:
        grads, collections, metrics = _gradients(task, state, batch, rng)
    else:
        grads, collections, metrics = _accumulate(
            task, state, batch, rng, accumulation_steps
        )
    norm = optax.tree.norm(grads)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if ema_decay is not None:
        ema = jax.tree.map(lambda e, p: e + (1 - ema_decay) * (p - e), ema, params)
    state = dataclasses.replace(
        state,
        step=state.step + 1,
        params=params,
        collections=collections,
        opt_state=opt_state,
        ema=ema,
    )
    return state, {**metrics, "gradient_norm": metric_types.Mean.of(norm)}


def _gradients(task: Task, state: TrainState, batch: Batch, rng: jax.Array):
    def loss_fn(params):
        outputs, prepared, collections = task.apply(
            params, state.collections, batch, rng=rng, train=True
        )
        loss, metrics = task.loss(outputs, prepared)
        return loss, (collections, metrics)

    grads, (collections, metrics) = jax.grad(loss_fn, has_aux=True)(state.params)
    return grads, collections, metrics


def _accumulate(task: Task, state: TrainState, batch: Batch, rng: jax.Array, k: int):
    """Gradients over k micro-batches, each weighted by what it really counted.

    Micro-batch i takes rows i, i+k, i+2k, ..., so that rows stay on their devices.
    """

    def micro(x):
        return x.reshape(x.shape[0] // k, k, *x.shape[1:]).swapaxes(0, 1)

    def body(carry, xs):
        collections, total, weight = carry
        part, key = xs
        grads, collections, metrics = _gradients(
            task, dataclasses.replace(state, collections=collections), part, key
        )
        count = metrics["loss"].count
        total = jax.tree.map(lambda t, g: t + count * g, total, grads)
        return (collections, total, weight + count), metrics

    keys = jax.random.split(rng, k)
    zeros = jax.tree.map(jnp.zeros_like, state.params)
    start = (state.collections, zeros, jnp.float32(0))
    (collections, total, weight), stacked = jax.lax.scan(
        body, start, (jax.tree.map(micro, dict(batch)), keys)
    )
    grads = jax.tree.map(lambda t: t / jnp.maximum(weight, 1e-12), total)
    return grads, collections, jax.tree.map(lambda x: x.sum(0), stacked)


def eval_step(state: TrainState, batch: Batch, *, task: Task) -> dict[str, Any]:
    """The metrics of one batch; rows whose `batch['mask']` is False do not count."""
    outputs, prepared = predict_step(state, batch, task=task)
    return task.loss(outputs, prepared)[1]


def predict_step(state: TrainState, batch: Batch, *, task: Task) -> tuple[Any, Batch]:
    """The model's outputs on one batch, and the batch as the model saw it."""
    outputs, prepared, _ = task.apply(
        state.eval_params, state.collections, batch, rng=state.step_rng, train=False
    )
    return outputs, prepared
