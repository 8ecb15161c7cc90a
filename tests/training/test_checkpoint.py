import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_experiment

from training import checkpoint
from training.checkpoint import Checkpointer
from training.errors import RunError
from training.run import Run

MODEL = {"norm": True, "width": 2048}


def make_run(devices=8, mesh=None, **changes):
    config = toy_experiment.config(
        model={**MODEL, **changes.pop("model", {})},
        ema_decay=0.9,
        mesh=mesh or {"data": devices},
        **changes,
    )
    return Run.from_config(config, jax.devices()[:devices])


@pytest.fixture(scope="module")
def run():
    return make_run()


@pytest.fixture(scope="module")
def states(run):
    """The states after 1, 2 and 3 steps, as numpy."""
    batches = run.experiment.data.train_batches(batch_size=8, seed=0)
    state, found = run.init(), {}
    for step in (1, 2, 3):
        state, _ = run.update(state, run.layout.put(next(batches)))
        found[step] = jax.tree.map(np.array, state)
    return found


def save(folder, run, states, steps=(1, 2, 3), **kwargs):
    keeper = Checkpointer(folder, keep=kwargs.pop("keep", 5), **kwargs)
    for step in steps:
        state = jax.device_put(states[step], run.shardings)
        keeper.save(step, state, extra={"n": step}, metrics={"eval/accuracy": -step})
    keeper.close()


def restore(folder, run, step=None, **kwargs):
    keeper = Checkpointer(folder, keep=5, **kwargs)
    try:
        return keeper.restore(run.target, step)
    finally:
        keeper.close()


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def data_files(folder: pathlib.Path, step: int) -> list[pathlib.Path]:
    files = (folder / checkpoint.FOLDER / str(step) / "state").rglob("d/*")
    files = [f for f in files if f.stat().st_size > 10_000]  # arrays, not the index
    return list(files)


def test_round_trip_is_exact(tmp_path, run, states):
    save(tmp_path, run, states)
    found = restore(tmp_path, run)
    assert (found.step, found.extra) == (3, {"n": 3})
    assert found.metrics == {"eval/accuracy": -3}
    assert_equal(found.state, states[3])
    assert_equal(restore(tmp_path, run, step=1).state, states[1])


@pytest.mark.parametrize(
    ("devices", "mesh"),
    [
        (1, {"data": 1}),
        (2, {"data": 2}),
        (8, {"fsdp": 8}),
        (4, {"data": 2, "model": 2}),
    ],
)
def test_restores_onto_other_devices(tmp_path, run, states, devices, mesh):
    save(tmp_path, run, states, steps=(2,))
    other = make_run(devices, mesh)
    found = restore(tmp_path, other)
    assert_equal(found.state, states[2])
    assert jax.tree.leaves(found.state)[0].sharding.mesh.size == devices


def test_keeps_the_newest_and_the_best(tmp_path, run, states):
    save(tmp_path, run, states, keep=1, best_metric="eval/accuracy")
    keeper = Checkpointer(tmp_path, keep=1, best_metric="eval/accuracy")
    assert keeper.steps() == [1, 3] and keeper.best() == 1
    keeper.close()


def test_a_metric_that_is_missing_is_not_the_best(tmp_path, run, states):
    keeper = Checkpointer(tmp_path, keep=1, best_metric="eval/loss", best_mode="min")
    for step, metrics in ((1, {"eval/loss": 2.0}), (2, {}), (3, {"eval/loss": 3.0})):
        keeper.save(step, jax.device_put(states[step], run.shardings), metrics=metrics)
    keeper.wait()
    assert keeper.steps() == [1, 3] and keeper.best() == 1
    keeper.close()


def flip(path: pathlib.Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) * 3 // 4] ^= 0x10
    path.write_bytes(bytes(data))


def truncate(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize("damage", [flip, truncate])
def test_falls_back_over_a_damaged_checkpoint_and_keeps_it(
    tmp_path, run, states, damage, caplog
):
    save(tmp_path, run, states)
    for file in data_files(tmp_path, 3):
        damage(file)
    found = restore(tmp_path, run)
    assert found.step == 2
    assert_equal(found.state, states[2])
    assert "checkpoint 3 is damaged" in caplog.text
    assert (tmp_path / checkpoint.ASIDE / "3").is_dir()
    # The run goes on and may save step 3 again.
    save(tmp_path, run, states, steps=(3,))
    assert restore(tmp_path, run).step == 3


def test_reading_only_moves_nothing(tmp_path, run, states):
    save(tmp_path, run, states)
    for file in data_files(tmp_path, 3):
        flip(file)
    assert restore(tmp_path, run, read_only=True).step == 2
    assert (tmp_path / checkpoint.FOLDER / "3").is_dir()
    with pytest.raises(RunError, match="checkpoint 3 is damaged"):
        restore(tmp_path, run, step=3, read_only=True)


@pytest.mark.parametrize("inside", [None, "notes.txt"])
def test_a_stray_folder_with_a_number_is_set_aside(tmp_path, run, states, inside):
    save(tmp_path, run, states)
    stray = tmp_path / checkpoint.FOLDER / "99"
    stray.mkdir()
    if inside:
        (stray / inside).write_text("not a checkpoint")
    assert restore(tmp_path, run).step == 3
    assert (tmp_path / checkpoint.ASIDE / "99").is_dir()


def test_nothing_readable_is_an_error_and_nothing_saved_is_none(tmp_path, run, states):
    assert restore(tmp_path, run) is None
    save(tmp_path, run, states, steps=(1,))
    for file in data_files(tmp_path, 1):
        truncate(file)
    with pytest.raises(RunError, match=r"none of the checkpoints \[1\]"):
        restore(tmp_path, run)


def test_a_missing_step_is_an_error_that_lists_what_there_is(tmp_path, run, states):
    save(tmp_path, run, states)
    with pytest.raises(RunError, match=r"no checkpoint of step 7 .*\[1, 2, 3\]"):
        restore(tmp_path, run, step=7)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"width": 32}, "is .*2048.*, this run needs .*32"),
        ({"norm": False}, "lacks 'ema/up/bias'"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(tmp_path, run, states, model, words):
    save(tmp_path, run, states)
    with pytest.raises(RunError, match=words):
        restore(tmp_path, make_run(model=model))


def test_a_state_that_is_not_finite_is_not_saved(tmp_path, run, states):
    save(tmp_path, run, states, steps=(1,))
    keeper = Checkpointer(tmp_path)
    bad = jax.tree.map(np.copy, states[2])
    bad.opt_state[0].nu["head"]["bias"][0] = np.inf
    with pytest.raises(RunError, match="not saved; the last good checkpoint is step 1"):
        keeper.save(2, jax.device_put(bad, run.shardings))
    keeper.close()
    assert restore(tmp_path, run).step == 1


def test_fingerprint_sees_every_kind_of_change():
    tree = {
        "f": jnp.arange(12, dtype=jnp.float32).reshape(3, 4),
        "h": jnp.arange(5, dtype=jnp.bfloat16),
        "i": jnp.int32(3),
        "b": jnp.array([True, False]),
    }
    sums, finite = checkpoint.fingerprint(tree)
    assert finite
    for name, value in tree.items():
        flat = np.array(value).reshape(-1)
        for place in range(flat.size):
            raw = flat.copy()
            raw.view(np.uint8)[place * raw.itemsize] ^= 1
            changed, _ = checkpoint.fingerprint(
                {**tree, name: jnp.asarray(raw.reshape(value.shape))}
            )
            assert changed[name] != sums[name], (name, place)
    swapped = tree["f"].at[0, 0].set(tree["f"][1, 1]).at[1, 1].set(tree["f"][0, 0])
    assert checkpoint.fingerprint({"f": swapped})[0]["f"] != sums["f"]
