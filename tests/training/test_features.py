"""Features of a split: the right rows in the right order, layers, files."""

import jax
import numpy as np
import pytest
import toy_experiment

from training import features, loop
from training.errors import RunError
from training.run import Run


def config(**changes):
    found = toy_experiment.config(total_steps=1, checkpoint_steps=0, **changes)
    found["task"]["model"] = {"type": "toy_experiment.Encoder"}
    return found


@pytest.fixture(scope="module")
def run_and_state():
    run = Run.from_config(config())
    return run, run.init()


DATA = toy_experiment.Clusters(length=21)


def expected(state):
    x = np.stack([DATA._example(i)["x"] for i in range(21)])
    up = state.params["up"]
    return np.maximum(x @ np.asarray(up["kernel"]) + np.asarray(up["bias"]), 0)


@pytest.mark.parametrize("batch_size", [None, 5, 64])
def test_every_example_once_and_in_order(run_and_state, batch_size):
    run, state = run_and_state
    found = features.extract(run, state, DATA, keys=("label",), batch_size=batch_size)
    assert found.values.dtype == np.float32 and len(found) == 21
    np.testing.assert_allclose(found.values, expected(state), atol=1e-5)
    np.testing.assert_array_equal(found.fields["label"], np.arange(21) % 4)


def test_a_limit_and_a_memory_map(run_and_state, tmp_path):
    run, state = run_and_state
    found = features.extract(
        run, state, DATA, limit=10, file=tmp_path / "f.npy", keys=("label",)
    )
    assert isinstance(found.values, np.memmap) and len(found) == 10
    np.testing.assert_allclose(found.values, expected(state)[:10], atol=1e-5)


def test_a_layer_by_its_path(run_and_state):
    run, state = run_and_state
    found = features.extract(run, state, DATA, layer="up")
    np.testing.assert_allclose(np.maximum(found.values, 0), expected(state), atol=1e-5)
    assert found.values.min() < 0


def test_an_unknown_layer_or_field_is_named(run_and_state):
    run, state = run_and_state
    with pytest.raises(RunError, match=r"no layer 'upp' in this model; near: up"):
        features.extract(run, state, DATA, layer="upp")
    with pytest.raises(RunError, match=r"no 'lable'; it has label, mask, x"):
        features.extract(run, state, DATA, keys=("lable",))


def test_one_device_and_eight_agree():
    found = []
    for devices in (1, 8):
        run = Run.from_config(config(), jax.devices()[:devices])
        found.append(features.extract(run, run.init(), DATA).values)
    np.testing.assert_allclose(*found, atol=1e-6)


def test_export_writes_what_numpy_reads(tmp_path, monkeypatch):
    monkeypatch.setattr(
        toy_experiment.Clusters, "__len__", lambda self: self.length, raising=False
    )
    workdir = tmp_path / "run"
    assert loop.train(config(), workdir) == 0
    features.export(workdir, tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as file:
        assert file["features"].shape == (21, 16)
        np.testing.assert_array_equal(file["label"], np.arange(21) % 4)
    with pytest.raises(RunError, match=r"--split=train: the source .* has no split"):
        features.export(workdir, tmp_path / "out.npz", split="train")
    with pytest.raises(RunError, match="no evaluator 'other'; this run has eval"):
        features.export(workdir, tmp_path / "out.npz", evals=["other"])
    with pytest.raises(RunError, match="cannot write"):
        features.export(workdir, tmp_path / "nowhere" / "out.npz")
