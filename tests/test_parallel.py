"""Real models on any mesh follow one device; accumulation follows the large batch."""

import jax
import numpy as np
import optax
import pytest
from test_configs import load

from training import collectives, plan
from training.run import Run

STEPS = 8


def config(name, **changes):
    config = {**load(f"{name}_digits"), "batch_size": 32, "evals": {}} | changes
    config["best_metric"] = None
    model = config["task"]["model"]
    if name == "vit":
        model.update(num_layers=2, drop_path_rate=0.1, dropout_rate=0.1)
    else:
        model.update(stage_sizes=[1, 1], stage_widths=[16, 32])
    return config


def train(config, devices, steps=STEPS):
    run = Run.from_config(config, jax.devices()[:devices])
    state, losses = run.init(), []
    batches = run.experiment.data.train_batches(batch_size=32, seed=0)
    for _ in range(steps):
        state, metrics = run.update(state, run.layout.put(next(batches)))
        losses.append(float(metrics["loss"].compute()))
    batches.close()
    return np.array(losses), state, run


@pytest.fixture(scope="module")
def single():
    cache = {}

    def losses(name):
        if name not in cache:
            cache[name] = train(config(name, mesh={"data": 1}), 1)[0]
        return cache[name]

    return losses


@pytest.mark.parametrize(
    ("name", "mesh"),
    [
        pytest.param("vit", {"data": 8}, marks=pytest.mark.slow),
        pytest.param("vit", {"fsdp": 8}, marks=pytest.mark.slow),
        ("vit", {"fsdp": 4, "model": 2}),
        pytest.param("resnet", {"data": 8}, marks=pytest.mark.slow),
        ("resnet", {"data": 2, "fsdp": 4}),
    ],
    ids=str,
)
def test_eight_devices_follow_one(single, name, mesh):
    losses, _, run = train(config(name, mesh=mesh), 8)
    np.testing.assert_allclose(losses, single(name), atol=1e-5)
    specs = {str(s.spec) for s in jax.tree.leaves(run.shardings.params)}
    for axis in ("fsdp", "model"):
        assert any(axis in spec for spec in specs) == (axis in mesh)


def test_fsdp_holds_a_sixth_or_less_of_the_state():
    run = Run.from_config(config("vit", mesh={"fsdp": 8}))
    pairs = zip(
        jax.tree.leaves(run.shapes), jax.tree.leaves(run.shardings), strict=True
    )
    sizes = [(np.prod(s.shard_shape(x.shape)), np.prod(x.shape)) for x, s in pairs]
    held, whole = np.sum(sizes, axis=0)
    assert held <= whole / 6


def test_fsdp_sends_parameters_and_gradients_once_and_no_activations():
    """All that travels: each split parameter, every gradient, and some numbers."""
    plain = config("vit", mesh={"fsdp": 8})
    plain["task"]["mixing"] = None
    plain["task"]["model"]["num_layers"] = 1
    run = Run.from_config(plain)
    moved = collectives.bytes_moved(plan.compile_update(run).as_text())
    split = whole = 0
    for shape, sharding in zip(
        jax.tree.leaves(run.shapes.params),
        jax.tree.leaves(run.shardings.params),
        strict=True,
    ):
        whole += 4 * shape.size
        split += 4 * shape.size * ("fsdp" in sharding.spec)
    assert moved.pop("all-gather") == split > 0.9 * whole
    gradients = moved.pop("all-reduce") + moved.pop("reduce-scatter", 0)
    assert whole <= gradients <= whole + 4096 and not moved


@pytest.mark.parametrize("k", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_accumulation_equals_the_full_batch_of_a_vit(k):
    """In loss and update, to 1e-6: without noise, and by SGD so that updates compare."""
    found = {}
    for steps in (1, k):
        plain = config("vit", mesh={"data": 1}, accumulation_steps=steps)
        plain["task"]["mixing"] = None
        plain["task"]["model"].update(
            num_layers=1, drop_path_rate=0.0, dropout_rate=0.0
        )
        plain["optimizer"] = {"type": "optax.sgd", "learning_rate": 0.1}
        losses, state, _ = train(plain, 1, steps=3)
        found[steps] = losses, state.params
    np.testing.assert_allclose(found[1][0], found[k][0], atol=1e-6)
    difference = jax.tree.map(lambda a, b: a - b, found[1][1], found[k][1])
    assert optax.tree.norm(difference, ord="inf") < 1e-6
