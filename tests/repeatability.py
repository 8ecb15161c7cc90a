"""Whether a run says the same again: resumed, and on other devices."""

from typing import Any, NamedTuple

import jax
import numpy as np

from training import checkpoint
from training.run import Run


class Unbroken(NamedTuple):
    """A run on one device from its first step on: its losses, and its last state."""

    run: Run
    losses: list[float]
    last: Any


def unbroken(config, steps=6):
    run = Run.from_config(config, jax.devices()[:1])
    losses, state = follow(run, run.init(), 0, steps)
    return Unbroken(run, losses, jax.device_get(state))


def follow(run, state, first, steps):
    """(losses, state) of `steps` steps after `first`."""
    losses = []
    data = run.experiment.data
    with data.train_batches(batch_size=16, seed=0, start_step=first) as batches:
        for _ in range(steps):
            batch = next(batches)
            run.check(batch)
            state, metrics = run.update(state, run.layout.put(batch))
            losses.append(float(metrics["loss"].compute()))
    return losses, state


def assert_resumes(whole, folder):
    """Saved half way and restored, it ends where the unbroken run does, to the last bit."""
    run, half = whole.run, len(whole.losses) // 2
    start, state = follow(run, run.init(), 0, half)
    keeper = checkpoint.Checkpointer(folder)
    keeper.save(half, state)
    keeper.wait()
    restored = keeper.restore(run.target).state
    keeper.close()
    rest, end = follow(run, restored, half, len(whole.losses) - half)
    assert np.isfinite(whole.losses).all() and start + rest == whole.losses
    jax.tree.map(np.testing.assert_array_equal, whole.last, jax.device_get(end))


def assert_devices_agree(config, whole, rtol):
    """On the mesh of this config the losses are those of one device."""
    run = Run.from_config(config)
    losses, _ = follow(run, run.init(), 0, len(whole.losses))
    np.testing.assert_allclose(losses, whole.losses, rtol=rtol)
