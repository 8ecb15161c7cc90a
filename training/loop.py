"""The loop: data in, state out; logs, evaluations, checkpoints, and how a run ends.

The host stays one step ahead of the device: the metrics of a step are read after the
next one has been dispatched. Nothing else waits, except before an evaluation or a
checkpoint.
"""

import math
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import jax

from training import checkpoint, environment, evaluation, flops, parameters, progress
from training import config as configs
from training import metrics as metric_types
from training.errors import RunError, first_line
from training.run import Run
from training.signals import StopSignal
from training.writer import Writer


def train(
    config: Mapping[str, Any],
    workdir: pathlib.Path,
    *,
    profile: tuple[int, int] | None = None,
) -> int:
    """Trains what `config` describes in `workdir`, from where it stopped if it did.

    Args:
        config: plain data, see `training.config`.
        workdir: the run's folder; made if need be.
        profile: (first, count) of the steps to trace, or None.

    Returns:
        The exit code: 0 when finished, 75 when stopped by SIGTERM (the state is saved;
        run the same command again), 130 by Ctrl-C, likewise.

    Raises:
        RunError: in one line, whatever a person must mend.
    """
    config = configs.plain(config)
    check_workdir(config, workdir)
    run = Run.from_config(config, traced=profile is not None, workdir=workdir)
    prepare_workdir(config, workdir)
    experiment = run.experiment
    checkpointer = checkpoint.Checkpointer(
        workdir,
        keep=experiment.keep,
        best_metric=experiment.best_metric,
        best_mode=experiment.best_mode,
    )
    try:
        trainer = Trainer(config, run, workdir, checkpointer, profile)
        with trainer.writer:
            return trainer.run_to_end()
    except OSError as error:
        raise RunError(
            f"cannot write to {workdir}: {first_line(error)}; "
            f"{checkpointer.describe_latest()}"
        ) from error
    finally:
        checkpointer.close()


def prepare_workdir(config: Mapping[str, Any], workdir: pathlib.Path) -> None:
    """Writes `config.json`, after `check_workdir`."""
    check_workdir(config, workdir)
    if jax.process_index() == 0:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            configs.write(config, workdir)
        except OSError as error:
            raise RunError(f"cannot write to {workdir}: {first_line(error)}") from error


def check_workdir(config: Mapping[str, Any], workdir: pathlib.Path) -> None:
    """Checks that the folder is of no other run.

    One that stopped before its first log or checkpoint (because the run to start from was
    not there, say) is none.

    Raises:
        RunError: it holds a run of another config.
    """
    begun = (workdir / "metrics.jsonl", *(workdir / checkpoint.FOLDER).glob("*"))
    if (workdir / "config.json").exists() and any(path.exists() for path in begun):
        changed = [
            line
            for line in configs.differences(configs.read(workdir), config)
            if not configs.RESUMABLE.search(line)
        ]
        if changed:
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            raise RunError(
                f"{workdir} holds a run of another config ({changed[0]}{more}); choose "
                "another --workdir, or repeat that run's flags to continue it"
            )


class Trainer:
    """One run in one workdir. Use `train`."""

    def __init__(
        self,
        config: Mapping[str, Any],
        run: Run,
        workdir: pathlib.Path,
        checkpointer: checkpoint.Checkpointer,
        profile: tuple[int, int] | None = None,
    ):
        self._run, self._experiment = run, run.experiment
        self._config, self._workdir = config, workdir
        self._checkpointer = checkpointer
        self._window = None  # metrics since the last log
        self._unread = []  # (step, metrics) of the window, still on the device
        self._settled = 0  # how many of them are known to be finite
        self._latest = {}  # metrics of the last evaluation
        self._origin = None  # a table of what came from another run
        self._batches = None
        self._learning_rate = learning_rate(config.get("optimizer"))
        self._state, self._start = self._first_state()
        active = jax.process_index() == 0
        self.writer = Writer(workdir, active=active, start_step=self._start)
        self._progress = progress.Progress(
            self._experiment.total_steps,
            self._start,
            self._experiment.batch_size,
            active=active,
            **model_flops(run),
        )
        self._profiler = self._make_profiler(profile, active) if profile else None
        if active:
            self._introduce()

    def _first_state(self) -> tuple[Any, int]:
        restored = self._checkpointer.restore(self._run.target)
        if restored is None:
            state = self._run.init()
            if self._experiment.init_from is not None:
                state, self._origin = self._experiment.init_from(self._run, state)
            return state, 0
        if restored.step > self._experiment.total_steps:
            raise RunError(
                f"{self._workdir} is already at step {restored.step}, beyond total_steps "
                f"{self._experiment.total_steps}"
            )
        try:
            self._window = metric_types.window_from_plain(restored.extra.get("window"))
        except ValueError as error:
            raise RunError(
                f"the checkpoint of {self._workdir} was saved by another version of the "
                f"code ({error}); begin from it in another --workdir, by init_from"
            ) from error
        self._latest = restored.metrics
        return restored.state, restored.step

    def _make_profiler(self, profile: tuple[int, int], active: bool) -> Any:
        from training import profiling  # rarely wanted

        run = self._run
        return profiling.Profiler(
            *profile,
            self._workdir,
            program=lambda: run.update.lower(run.shapes, run.batch).compile().as_text(),
            show=self._progress.message,
            active=active,
        )

    def _introduce(self) -> None:
        environment.write(
            self._workdir,
            environment.describe(self._run.layout.mesh, self._run.compiler_options),
        )
        self._progress.message(
            parameters.parameter_table(
                self._run.shapes.params, shardings=self._run.shardings.params
            )
        )
        if self._origin is not None:
            self._progress.message(self._origin)
        if self._start:
            self._progress.message(f"resumed at step {self._start} of {self._workdir}")

    def run_to_end(self) -> int:
        """Trains to `total_steps` or to a signal; returns the exit code."""
        total = self._experiment.total_steps
        with StopSignal() as stop, self._progress:
            if self._start < total:
                self._batches = self._experiment.data.train_batches(
                    batch_size=self._experiment.batch_size,
                    seed=self._experiment.seed,
                    start_step=self._start,
                    shard=self._run.layout.host_shard(self._experiment.batch_size),
                )
                try:
                    self._steps(self._batches, stop)
                finally:
                    self._batches.close()
                    if self._profiler:
                        self._profiler.close()
            self._checkpointer.wait()
        if jax.process_index() == 0:
            self._summarize(stopped=stop.exit_code is not None)
        return stop.exit_code or 0

    def _summarize(self, *, stopped: bool) -> None:
        step, total = int(self._state.step), self._experiment.total_steps
        title = f"finished after {step:,} steps"
        if stopped:
            title = (
                f"stopped after {step:,} of {total:,} steps; run it again to continue"
            )
        elif self._start == total:
            title = f"already finished: {step:,} steps"
        progress.summary(
            title,
            {
                **{k: progress.number_text(v) for k, v in self._latest.items()},
                "workdir": self._workdir,
                "metrics": self._workdir / "metrics.jsonl",
                "checkpoints": self._workdir / checkpoint.FOLDER,
                "curves": f"tensorboard --logdir {self._workdir}",
                "evaluate": f"python eval.py --workdir={self._workdir}",
            },
        )

    def _steps(self, batches: Any, stop: StopSignal) -> None:
        run, total = self._run, self._experiment.total_steps
        for step in range(self._start + 1, total + 1):
            began = time.perf_counter()
            host_batch = evaluation.next_batch(batches)
            waited = time.perf_counter() - began
            run.check(host_batch)
            batch = run.layout.put(host_batch)
            if self._profiler:
                self._profiler.step(step)
            update = run.update if step > self._start + 1 else self._first_update
            self._state, metrics = update(self._state, batch)
            self._settle()
            self._unread.append((step, metrics))
            self._progress.advance(step, data_wait=waited)
            stopping = stop.after(step)
            self._periodic(step, last=step == total, stopping=stopping)
            if stopping:
                return

    def _first_update(self, state: Any, batch: Any) -> tuple[Any, dict[str, Any]]:
        """Traces and compiles it, too: what only training does may be refused here."""
        try:
            with self._progress.pause("compiling", once=True):
                return self._run.update(state, batch)
        except (ValueError, TypeError) as error:
            raise RunError(
                f"the model cannot be trained like this: {first_line(error)}"
            ) from error

    def _periodic(self, step: int, *, last: bool, stopping: bool) -> None:
        """Evaluation, then checkpoint, where the step calls for them."""
        e = self._experiment
        evaluate = e.evals and (last or (e.eval_steps and step % e.eval_steps == 0))
        save = (
            last or stopping or (e.checkpoint_steps and not step % e.checkpoint_steps)
        )
        if not (evaluate or save):
            return
        self._settle()
        self._read()
        if last:
            self._log(step)
        if evaluate:
            with self._progress.pause("evaluating"):
                self._evaluate(step)
        if save:
            with self._progress.pause("saving"):
                self._save(step, self._latest if evaluate else {})

    def _settle(self) -> None:
        """Waits for the step before, not for the one just dispatched, and looks at its
        loss; writes the log if that step calls for it.

        Only this one number is read at every step. Fetching all metrics as well would
        take the processor from a step that runs on it.
        """
        for step, metrics in self._unread[self._settled :]:
            self._require_finite(step, "loss", float(metrics["loss"].total))
            self._settled += 1
            if step % self._experiment.log_steps == 0:
                self._read()
                self._log(step)

    def _read(self) -> None:
        """Fetches the metrics of the settled steps into the window."""
        taken, self._unread = (
            self._unread[: self._settled],
            self._unread[self._settled :],
        )
        self._settled = 0
        found = metric_types.on_host([metrics for _, metrics in taken])
        for (step, _), metrics in zip(taken, found, strict=True):
            for name in ("loss", "gradient_norm"):
                if name in metrics:
                    self._require_finite(step, name, float(metrics[name].total))
            self._window = metric_types.merge(self._window, metrics)

    def _require_finite(self, step: int, name: str, value: float) -> None:
        if not math.isfinite(value):
            raise RunError(
                f"{name} is {value} at step {step}; "
                f"{self._checkpointer.describe_latest()}; lower the learning rate, "
                "clip gradients, or change the seed, in another --workdir"
            )

    def _log(self, step: int) -> None:
        if self._window is None:
            return
        values = metric_types.compute(self._window)
        values = {"loss": values.pop("loss"), **values}  # what people look for first
        self._window = None
        if self._learning_rate is not None:
            values["learning_rate"] = float(self._learning_rate(step - 1))
        if skipped := getattr(self._batches, "skipped", 0):
            values["skipped"] = skipped
        values.update(self._progress.report(step, values))
        self.writer.scalars(step, {f"train/{k}": v for k, v in values.items()})

    def _evaluate(self, step: int) -> None:
        self._latest = {}
        for name, evaluator in self._experiment.evals.items():
            report = evaluator(self._run, self._state)
            metrics = {f"{name}/{k}": v for k, v in report.metrics.items()}
            if report.skipped:
                metrics[f"{name}/skipped"] = report.skipped
            self._latest.update(metrics)
            self.writer.images(
                step, {f"{name}/{k}": v for k, v in report.pictures.items()}
            )
            self.writer.text(step, {f"{name}/{k}": v for k, v in report.texts.items()})
        self.writer.scalars(step, self._latest)
        shown = "  ".join(f"{k} {v:.4g}" for k, v in self._latest.items())
        self._progress.message(f"step {step}  {shown}")

    def _save(self, step: int, metrics: Mapping[str, float]) -> None:
        window = metric_types.plain_window(self._window)
        self._checkpointer.save(
            step, self._state, extra={"window": window}, metrics=metrics
        )


def learning_rate(node: Any) -> Any:
    """The first `learning_rate` in an optimizer's config, as a function of the step."""
    if isinstance(node, list | tuple):
        node = dict(enumerate(node))
    if not isinstance(node, Mapping):
        return None
    if "learning_rate" in node:
        rate = configs.build(node["learning_rate"], "optimizer.learning_rate")
        return jax.jit(rate) if callable(rate) else lambda step: rate
    found = (learning_rate(child) for child in node.values())
    return next((rate for rate in found if rate is not None), None)


def model_flops(run: Run) -> dict[str, float]:
    """FLOPs of a step and the devices' peak, where the peak is known."""
    devices = run.layout.mesh.devices.flat
    peak = environment.peak_flops(devices[0].device_kind)
    if peak is None:
        return {}
    return {
        "flops_per_step": flops.model_flops(run),
        "peak_flops": peak * len(list(devices)),
    }
