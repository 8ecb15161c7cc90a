import dataclasses
import json
import os
import signal

import jax
import numpy as np
import pytest
import toy_experiment

from training import checkpoint, evaluation, loop
from training.errors import RunError
from training.run import Run
from training.writer import read_metrics

SPEED = ("examples_per_second", "steps_per_second", "data_wait", "mfu")


def experiment(**changes):
    model = {"norm": True, "dropout_rate": 0.2}
    return toy_experiment.config(
        **{"model": model, "ema_decay": 0.9, "total_steps": 9, "eval_steps": 3}
        | {"log_steps": 4, "checkpoint_steps": 3, "keep": 3}
        | changes
    )


def final_state(config, workdir):
    run = Run.from_config(config)
    return jax.device_get(evaluation.restore(workdir, run, "last").state)


def records(workdir):
    """What the run wrote, without what depends on the clock."""
    return [
        {k: v for k, v in line.items() if not k.endswith(SPEED)}
        for line in read_metrics(workdir)
    ]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("unbroken")
    assert loop.train(experiment(), workdir) == 0
    return workdir


def assert_same_run(workdir, unbroken, config=None):
    config = config or experiment()
    assert records(workdir) == records(unbroken)
    jax.tree.map(
        np.testing.assert_array_equal,
        final_state(config, workdir),
        final_state(config, unbroken),
    )


class Crash(Exception):
    pass


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interrupted(toy_experiment.Clusters):
    """Data that does something to the process before a step."""

    before_step: int
    action: str

    def train_batches(self, *, start_step=0, **kwargs):
        batches = super().train_batches(start_step=start_step, **kwargs)
        for step, batch in enumerate(batches, start_step + 1):
            if step == self.before_step and self.action == "crash":
                raise Crash
            if step == self.before_step and self.action == "terminate":
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch


@pytest.fixture(autouse=True)
def interrupted_data(monkeypatch):
    monkeypatch.setattr(toy_experiment, "Interrupted", Interrupted, raising=False)


def interrupt(workdir, step, action):
    """Runs `experiment()` until `action`; the folder then looks as if it were intact."""
    data = {"type": "toy_experiment.Interrupted", "before_step": step, "action": action}
    config = experiment()
    changed = {**config, "data": data}
    if (workdir / "config.json").exists():
        (workdir / "config.json").write_text(json.dumps(changed))
    try:
        return loop.train(changed, workdir)
    finally:
        (workdir / "config.json").write_text(json.dumps(config))


def test_twice_interrupted_equals_unbroken(tmp_path, unbroken):
    for step in (6, 8):
        with pytest.raises(Crash):
            interrupt(tmp_path, step, "crash")
    assert loop.train(experiment(), tmp_path) == 0
    assert_same_run(tmp_path, unbroken)


def test_sigterm_saves_says_so_by_its_exit_code_and_resumes(tmp_path, unbroken, capfd):
    assert interrupt(tmp_path, 5, "terminate") == 75
    assert "stopped after 5 of 9 steps" in capfd.readouterr().out
    keeper = checkpoint.Checkpointer(tmp_path, read_only=True)
    assert keeper.latest() == 5
    keeper.close()
    assert loop.train(experiment(), tmp_path) == 0
    assert_same_run(tmp_path, unbroken)


def test_a_finished_run_says_so_and_changes_nothing(tmp_path, unbroken, capfd):
    before = records(unbroken)
    assert loop.train(experiment(), unbroken) == 0
    assert "already finished" in capfd.readouterr().out
    assert records(unbroken) == before


def test_files_of_a_run(unbroken):
    lines = read_metrics(unbroken)
    assert [line["step"] for line in lines if "train/loss" in line] == [4, 8, 9]
    assert [line["step"] for line in lines if "eval/accuracy" in line] == [3, 6, 9]
    assert "train/learning_rate" in lines[1]
    assert {"versions", "devices", "git"} <= json.loads(
        (unbroken / "environment.json").read_text()
    ).keys()
    assert list(unbroken.glob("events.out.tfevents*"))
    assert list((unbroken / "pictures").glob("*.png"))


def test_evaluation_reproduces_the_last_metrics_to_the_bit(unbroken):
    last = [line for line in read_metrics(unbroken) if "eval/loss" in line][-1]
    found = evaluation.evaluate(unbroken)
    assert found == {k: v for k, v in last.items() if k.startswith("eval/")}
    early = evaluation.evaluate(unbroken, step=3)
    assert early["eval/loss"] == read_metrics(unbroken)[0]["eval/loss"]


def test_evaluation_names_what_is_wrong(tmp_path, unbroken):
    with pytest.raises(RunError, match="no evaluator 'test'; this run has eval"):
        evaluation.evaluate(unbroken, names=["test"])
    with pytest.raises(RunError, match="not a run"):
        evaluation.evaluate(tmp_path)
    with pytest.raises(RunError, match="no best_metric"):
        evaluation.evaluate(unbroken, step="best")


def test_a_training_metric_is_the_mean_over_its_window(tmp_path, unbroken):
    loop.train(experiment(log_steps=1), tmp_path)
    every = [m["train/loss"] for m in read_metrics(tmp_path) if "train/loss" in m]
    window = [m["train/loss"] for m in read_metrics(unbroken) if "train/loss" in m]
    np.testing.assert_allclose(
        window, [np.mean(every[:4]), np.mean(every[4:8]), every[8]]
    )


def test_nan_stops_with_the_last_good_checkpoint_intact(tmp_path):
    config = experiment(data={"poison": 5})
    with pytest.raises(RunError) as caught:
        loop.train(config, tmp_path)
    for word in ("loss is nan at step 5", "last good checkpoint is step 3"):
        assert word in str(caught.value)
    assert int(final_state(config, tmp_path).step) == 3


def test_nan_in_the_step_of_a_checkpoint_is_not_saved(tmp_path):
    config = experiment(data={"poison": 6})
    with pytest.raises(RunError, match="loss is nan at step 6"):
        loop.train(config, tmp_path)
    assert int(final_state(config, tmp_path).step) == 3


def test_a_workdir_of_another_config_is_refused(tmp_path, unbroken):
    config = experiment(optimizer={"type": "optax.sgd", "learning_rate": 0.1})
    with pytest.raises(RunError) as caught:
        loop.train(config, unbroken)
    assert "optimizer" in str(caught.value) and "--workdir" in str(caught.value)


def test_a_run_can_be_made_longer_and_logged_otherwise(tmp_path):
    loop.train(experiment(total_steps=3), tmp_path)
    assert loop.train(experiment(total_steps=9, log_steps=1), tmp_path) == 0
    assert read_metrics(tmp_path)[-1]["step"] == 9


def test_labels_out_of_range_are_one_line(tmp_path):
    config = experiment(model={"num_classes": 3})
    with pytest.raises(RunError, match="data: label 3 is out of range"):
        loop.train(config, tmp_path)


def test_what_only_training_refuses_is_one_line(tmp_path, monkeypatch):
    def prepare(task, batch, *, rng, train):
        if train:
            raise ValueError("no dropout here\nand more")
        return batch

    monkeypatch.setattr(toy_experiment.Classify, "prepare", prepare)
    with pytest.raises(RunError, match="cannot be trained like this: no dropout here$"):
        loop.train(experiment(), tmp_path)


def test_a_batch_that_does_not_divide_is_one_line(tmp_path):
    with pytest.raises(RunError, match="batch_size 12 does not divide by 8 devices"):
        loop.train(experiment(batch_size=12), tmp_path)


def test_a_full_disk_is_one_line_and_keeps_what_was_saved(tmp_path, monkeypatch):
    class Full:
        def scalars(self, step, values):
            if step == 8:
                raise OSError(28, "No space left on device")

        def __getattr__(self, name):
            return lambda *_: None

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(loop, "Writer", lambda *_, **__: Full())
    with pytest.raises(
        RunError, match=r"No space left.*last good checkpoint is step 6"
    ):
        loop.train(experiment(), tmp_path)
    assert int(final_state(experiment(), tmp_path).step) == 6
