"""Evaluators: what is measured on a state, and shown of it.

An evaluator is any callable `(run, state) -> Report`, a config node under `evals`; the
domains bring their own (nearest neighbours, BLEU). `Evaluation` below is the ordinary
one: the task's metrics over every example of a split, each exactly once.
"""

import dataclasses
import math
import pathlib
from collections.abc import Sequence
from typing import Any, Self

import jax
import numpy as np

from training import artifacts, checkpoint, tables, writer
from training import config as configs
from training import metrics as metric_types
from training import step as steps
from training.errors import RunError, first_line
from training.run import Run


@dataclasses.dataclass(frozen=True)
class Report:
    """What an evaluator found.

    Args:
        metrics: name -> value.
        pictures: name -> uint8 [H, W, 3].
        skipped: examples that could not be read.
        texts: name -> text; one whose name ends in '.html' is a page of HTML.
    """

    metrics: dict[str, float]
    pictures: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    skipped: int = 0
    texts: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The task's metrics over a whole split.

    Args:
        data: a pipeline with `eval_batches`.
        batch_size: examples a step, rounded up to a multiple of the devices; None takes
            the training batch size. The result does not depend on it but for rounding.
        pictures: how many examples `Task.pictures` shows; 0 none.
    """

    data: Any
    batch_size: int | None = None
    pictures: int = 16

    def __call__(self, run: Run, state: Any) -> Report:
        step = run.compile(steps.eval_step)
        size = self.batch_size or run.experiment.batch_size
        totals, images, pending = None, {}, None
        with Batches(self.data, run, size) as batches:
            for i, batch in enumerate(batches):
                metrics = step(state, batch)
                if i == 0 and self.pictures:
                    images = _pictures(run, state, batch, self.pictures)
                if pending is not None:  # read one step behind the device
                    totals = metric_types.merge(totals, metric_types.on_host(pending))
                pending = metrics
            totals = metric_types.merge(totals, metric_types.on_host(pending))
        return Report(metric_types.compute(totals), images, batches.skipped)


class Batches:
    """Every example of a pipeline once, as global device batches with a 'mask'.

    Args:
        data: a pipeline with `eval_batches`.
        run: the `training.run.Run`.
        batch_size: rounded up to a multiple of the devices.
    """

    def __init__(self, data: Any, run: Run, batch_size: int):
        self._run = run
        divisor = run.layout.batch_divisor
        size = math.ceil(batch_size / divisor) * divisor
        self._iterator = data.eval_batches(
            batch_size=size, shard=run.layout.host_shard(size)
        )

    @property
    def skipped(self) -> int:
        """Examples that could not be read so far."""
        return getattr(self._iterator, "skipped", 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_):
        self._iterator.close()

    def __iter__(self):
        return self

    def __next__(self) -> dict[str, jax.Array]:
        batch = next_batch(self._iterator)
        self._run.check(batch)
        return self._run.layout.put(batch)


def next_batch(iterator: Any) -> dict[str, np.ndarray]:
    """The next host batch. Raises RunError, in one line, if the data is at fault."""
    try:
        return next(iterator)
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        raise RunError(f"data: {first_line(error)}") from error


def _pictures(run: Run, state: Any, batch: Any, count: int) -> dict[str, np.ndarray]:
    """`Task.pictures` of the first `count` real examples, or of all if there are fewer."""

    def head(state, batch, *, task):
        found = steps.predict_step(state, batch, task=task)
        return jax.tree.map(lambda x: x[:count] if x.ndim else x, found)

    outputs, prepared = jax.device_get(
        run.compile(head, key=("pictures", count))(state, batch)
    )
    real = prepared["mask"]
    cut = lambda x: x[real] if np.ndim(x) and len(x) == len(real) else x
    return run.experiment.task.pictures(
        jax.tree.map(cut, outputs), jax.tree.map(cut, dict(prepared))
    )


def evaluate(
    workdir: pathlib.Path,
    *,
    step: int | str = "last",
    names: Sequence[str] | None = None,
    pictures: pathlib.Path | None = None,
    evals_from: str | None = None,
) -> dict[str, float]:
    """Runs a finished (or running) run's evaluators on one of its checkpoints.

    Args:
        workdir: the run's folder; nothing is written to it.
        step: a step, 'last' or 'best'.
        names: which evaluators; None all.
        pictures: where to write what they show, pictures as PNG and texts; None nowhere.
        evals_from: 'FILE.py[:argument]' of a config whose evaluators to run instead.

    Returns:
        The metrics, 'eval/accuracy' say; also printed by process 0.

    Raises:
        RunError: no such run, checkpoint or evaluator.
    """
    run = Run.from_config(read_config(workdir, evals_from))
    evals = run.experiment.evals
    for name in names or ():
        if name not in evals:
            raise RunError(f"no evaluator {name!r}; this run has {', '.join(evals)}")
    restored = restore(workdir, run, step)
    found, shown, texts = {}, {}, {}
    for name in names or evals:
        report = evals[name](run, restored.state)
        found |= {f"{name}/{k}": v for k, v in report.metrics.items()}
        shown |= {f"{name}/{k}": v for k, v in report.pictures.items()}
        texts |= {f"{name}/{k}": v for k, v in report.texts.items()}
        if report.skipped:
            found[f"{name}/skipped"] = report.skipped
    if jax.process_index() == 0:
        tables.show_metrics(restored.step, found)
        if pictures:
            writer.write_pictures(pictures, restored.step, shown)
            writer.write_texts(pictures, restored.step, texts)
    return found


def read_config(workdir: pathlib.Path, evals_from: str | None = None) -> dict[str, Any]:
    """A run's config, for the devices here, perhaps with the evaluators of another;
    artifacts are read from its folder."""
    config = fit_mesh(configs.read(workdir))
    if evals_from:
        config["evals"] = configs.load(evals_from).get("evals", {})
    return artifacts.materialize(config, workdir, read_only=True)


def restore(workdir: pathlib.Path, run: Run, step: int | str) -> checkpoint.Restored:
    """Reads a checkpoint of a run without writing to its folder."""
    experiment = run.experiment
    if not (workdir / checkpoint.FOLDER).is_dir():
        raise RunError(f"{workdir} has no checkpoints yet")
    checkpointer = checkpoint.Checkpointer(
        workdir,
        best_metric=experiment.best_metric,
        best_mode=experiment.best_mode,
        read_only=True,
    )
    try:
        if step == "best":
            if experiment.best_metric is None:
                raise RunError("the run names no best_metric, so no checkpoint is best")
            step = checkpointer.best()
        restored = checkpointer.restore(run.target, None if step == "last" else step)
    finally:
        checkpointer.close()
    if restored is None:
        raise RunError(f"{workdir} has no checkpoints yet")
    return restored


def fit_mesh(config: dict[str, Any]) -> dict[str, Any]:
    """The config, with its mesh replaced by all devices here if it wants another number.

    A checkpoint restores onto any mesh, and an evaluation does not need the one that
    trained.
    """
    sizes = list(config.get("mesh", {"data": -1}).values())
    wanted = math.prod(sizes)
    if wanted > 0 and wanted != jax.device_count():
        return {**config, "mesh": {"data": -1}}
    return config
