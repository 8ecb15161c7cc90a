"""The scripts as a person runs them: in processes of their own."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from training import config as configs
from training import evaluation, parameters
from training.run import Run
from training.writer import read_metrics

ROOT = pathlib.Path(__file__).resolve().parent.parent
SPEED = ("examples_per_second", "steps_per_second", "data_wait", "mfu")


def command(script, *arguments):
    return [sys.executable, str(ROOT / script), *map(str, arguments)]


def environment():
    return {**os.environ, "JAX_NUM_CPU_DEVICES": "1", "JAX_PLATFORMS": "cpu"}


def run(script, *arguments, code=0, cwd=ROOT):
    done = subprocess.run(
        command(script, *arguments),
        check=False,
        env=environment(),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def digits(name, workdir, *flags):
    """A short training on digits: `name` is a config's."""
    return (
        "train.py",
        f"--config={ROOT}/configs/{name}_digits.py",
        f"--workdir={workdir}",
        "--config.total_steps=24",
        "--config.eval_steps=8",
        "--config.checkpoint_steps=8",
        "--config.log_steps=3",
        "--config.batch_size=32",
        *flags,
    )


def one_line(done):
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    return lines[0]


def records(workdir):
    return [
        {k: v for k, v in line.items() if not k.endswith(SPEED)}
        for line in read_metrics(workdir)
    ]


def last_state(workdir):
    """The arrays of the last checkpoint, by path."""
    run = Run.from_config(configs.read(workdir), jax.devices()[:1])
    state = evaluation.restore(workdir, run, "last").state
    return {
        path: np.asarray(value) for path, value in parameters.leaves_with_paths(state)
    }


def kill_after(arguments, workdir, step, number):
    """Starts training and sends a signal once `step` has been logged."""
    process = subprocess.Popen(
        command(*arguments),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if any(line["step"] >= step for line in read_metrics(workdir)):
            process.send_signal(number)
            break
        time.sleep(0.005)
    output = process.communicate(timeout=120)[0]
    return process.returncode, output


@pytest.mark.parametrize(
    ("name", "kills"),
    [
        ("vit", (9,)),
        pytest.param("vit", (9, 15), marks=pytest.mark.slow),
        pytest.param("resnet", (9, 15), marks=pytest.mark.slow),
    ],
)
def test_killed_and_finished_equals_unbroken(tmp_path, name, kills):
    noise = ("dropout_rate", "attention_dropout_rate", "drop_path_rate")
    flags = []
    if name == "vit":
        flags = [f"--config.task.model.{field}=0.1" for field in noise]
        flags.append(f"--config.task.model.num_layers={len(kills)}")
    run(*digits(name, tmp_path / "unbroken", *flags))
    arguments = digits(name, tmp_path / "killed", *flags)
    for step in kills:
        code, output = kill_after(arguments, tmp_path / "killed", step, signal.SIGKILL)
        assert code == -signal.SIGKILL, output
    run(*arguments)
    assert records(tmp_path / "killed") == records(tmp_path / "unbroken")
    ours, theirs = last_state(tmp_path / "killed"), last_state(tmp_path / "unbroken")
    assert ours.keys() == theirs.keys() and any("ema" in name for name in ours)
    for path, value in ours.items():
        np.testing.assert_array_equal(value, theirs[path], err_msg=path)


def test_sigterm_then_evaluation_reproduces_the_last_metrics(tmp_path):
    arguments = digits("lenet", tmp_path, "--config.total_steps=4000")
    code, output = kill_after(arguments, tmp_path, 12, signal.SIGTERM)
    assert code == 75, output
    assert re.search(r"stopped after \d+ of 4,000 steps", output)
    lines = [m for m in read_metrics(tmp_path) if "eval/accuracy" in m]
    step = lines[-1]["step"]
    done = run("eval.py", f"--workdir={tmp_path}", f"--step={step}")
    for name in ("eval/loss", "eval/accuracy"):
        shown = re.search(rf"{name} +(\S+)", done.stdout).group(1)
        assert shown == repr(lines[-1][name])


def test_smoke_runs_a_config_without_its_dataset_tensorflow_torch_or_pandas():
    flags = ["--config=configs/vit_cifar10.py", "--config.task.model.num_layers=1"]
    script = (
        "import sys, runpy\n"
        f"sys.argv = {['train.py', *flags, '--smoke']!r}\n"
        "try: runpy.run_path('train.py', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "print([m for m in ('tensorflow', 'torch', 'pandas') if m in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        check=False,
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr
    assert "step 2/2" in done.stdout and "eval/accuracy" in done.stdout


def test_plan_prints_the_published_parameter_count():
    done = run("train.py", "--config=configs/lenet_digits.py", "--plan")
    for word in ("parameters", "FLOPs", "temporary", "accumulation_steps=2"):
        assert word in done.stdout


def test_list_and_help_answer_without_jax():
    assert "vit_imagenet" in run("train.py", "--list").stdout
    assert "--workdir" in run("train.py", "--help", code=1).stdout
    script = "import sys; sys.argv = ['x']; import train; print('jax' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "False", done.stderr


VIT = "--config=configs/vit_digits.py"
# One of each stage, as processes; the messages themselves have tests of their own.
MISTAKES = [
    (["--config=configs/nope.py"], ["no config 'configs/nope.py'", "vit_digits"]),
    ([VIT, "--config.batchsize=1"], ["batch_size"]),
    ([VIT, "--config.task.model.num_classes=7"], ["label 9", "num_classes"]),
]
MORE_MISTAKES = [
    ([], ["--config=configs/NAME.py"]),
    ([VIT, "--config.seed=x"], ["seed", "'x'"]),
    ([VIT, "--config.task.type=vision.taks.x"], ["vision.taks.x"]),
    ([VIT, "--config.mesh={'data': 3}"], ["mesh"]),
    (["--config=configs/vit_cifar10.py"], ["cifar10", "tfds build"]),
    ([VIT, "--profile=x"], ["FIRST:COUNT"]),
]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        *MISTAKES,
        *(pytest.param(*case, marks=pytest.mark.slow) for case in MORE_MISTAKES),
    ],
    ids=lambda value: str(value)[-30:],
)
def test_mistakes_are_one_line_and_a_failure(tmp_path, monkeypatch, flags, words):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "nothing"))
    done = run("train.py", f"--workdir={tmp_path / 'run'}", *flags, code=1)
    for word in words:
        assert word in one_line(done)
