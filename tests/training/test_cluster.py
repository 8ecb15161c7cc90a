"""Two real processes on this machine, joined by `jax.distributed`."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import toy_experiment

from training import cluster, evaluation, loop
from training.errors import RunError
from training.run import Run
from training.writer import read_metrics

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = """
import json, pathlib, sys
import jax
jax.config.update("jax_num_cpu_devices", 2)
from training import cluster, loop
port, count, index, config, workdir = sys.argv[1:]
cluster.initialize(f"localhost:{port}", int(count), int(index))
sys.exit(loop.train(json.loads(config), pathlib.Path(workdir)))
"""


def config(**changes):
    model = {"norm": True, "dropout_rate": 0.1, "width": 64}
    return toy_experiment.config(
        **{"model": model, "ema_decay": 0.9, "log_steps": 1} | changes
    )


def start(config, workdir, count=2):
    """Starts `count` processes of one run with two devices each."""
    import json

    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    env = {**os.environ, "JAX_PLATFORMS": "cpu"}
    env.pop("JAX_NUM_CPU_DEVICES", None)
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "training")])
    arguments = [json.dumps(config), str(workdir)]
    return [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(port), str(count), str(i), *arguments],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(count)
    ]


def finish(processes, timeout=120):
    try:
        outputs = [p.communicate(timeout=timeout)[0] for p in processes]
    finally:
        for process in processes:
            process.kill()
    return [p.returncode for p in processes], outputs


@pytest.mark.parametrize(
    "mesh",
    [pytest.param({"data": -1}, marks=pytest.mark.slow), {"fsdp": -1}],
    ids=str,
)
def test_two_processes_train_to_the_losses_of_one(tmp_path, mesh):
    codes, outputs = finish(start(config(mesh=mesh), tmp_path / "two"))
    assert codes == [0, 0], outputs
    assert "finished" in outputs[0] and "finished" not in outputs[1]
    loop.train(config(mesh={"data": -1}), tmp_path / "one")
    one, two = read_metrics(tmp_path / "one"), read_metrics(tmp_path / "two")
    assert len(one) == len(two) == 7
    for a, b in zip(one, two, strict=True):
        for name in ("train/loss", "eval/loss", "eval/accuracy"):
            if name in a:
                np.testing.assert_allclose(a[name], b[name], atol=1e-5)
    # What two processes saved, one restores.
    run = Run.from_config(config(mesh={"data": 8}))
    states = [
        evaluation.restore(tmp_path / name, run, "last").state
        for name in ("one", "two")
    ]
    for a, b in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_sigterm_to_one_process_stops_both_after_the_same_step(tmp_path):
    processes = start(config(total_steps=100_000, checkpoint_steps=0), tmp_path)
    deadline = time.monotonic() + 60
    while not read_metrics(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.2)
    processes[1].send_signal(signal.SIGTERM)
    codes, outputs = finish(processes)
    assert codes == [75, 75], outputs
    run = Run.from_config(config(mesh={"data": 8}))
    step = evaluation.restore(tmp_path, run, "last").step
    assert f"stopped after {step:,} of 100,000 steps" in outputs[0]


def test_one_process_alone_joins_nothing(monkeypatch):
    for name in ("JAX_COORDINATOR_ADDRESS", "SLURM_NTASKS", "TPU_WORKER_HOSTNAMES"):
        monkeypatch.delenv(name, raising=False)
    assert not cluster.configured()
    cluster.initialize()
    assert jax.process_count() == 1
    monkeypatch.setenv("SLURM_NTASKS", "4")
    assert cluster.configured()


def test_an_incomplete_cluster_is_one_line(monkeypatch):
    def refuse(**_):
        raise ValueError("Number of processes must be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", refuse)
    with pytest.raises(RunError, match="localhost:1234.*must be defined"):
        cluster.initialize("localhost:1234")
