"""A contestant of `benchmarks/train_step`: a process that makes steps when it is told to.

    python -m benchmarks.train_step_contestant MODULE SPEC

MODULE's `build(spec)` gives a `Trainer`; SPEC is JSON. The process answers in lines of
JSON on its standard output: once when it is ready, then for every line `{"steps": k}` that
it reads. It ends with its standard input. `Contestant` is the other end of the pipe.
"""

import contextlib
import gc
import importlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, Self

ROOT = pathlib.Path(__file__).resolve().parent.parent


class Trainer(Protocol):
    """A model, its optimizer and a batch, ready to train in one framework."""

    description: dict[str, Any]

    def step(self) -> Any:
        """One update. May return before it is done; returns what `wait` takes."""

    def wait(self, handle: Any) -> float:
        """Blocks until all updates are done; the loss of the last."""

    def device_peak(self) -> int | None:
        """Largest number of bytes on the accelerator; None on a CPU."""

    def reset_device_peak(self) -> None:
        """Forgets the peak so far, where that is possible."""


def timed(trainer: Trainer, steps: int) -> dict[str, float]:
    """Makes `steps` updates; 'seconds' by the clock and 'cpu_seconds' are of one step."""
    began, cpu_began = time.perf_counter(), time.process_time()
    for _ in range(steps):
        handle = trainer.step()
    loss = trainer.wait(handle)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu_began
    return {"seconds": seconds / steps, "cpu_seconds": cpu / steps, "loss": loss}


def fastest(
    variants: Iterable[Mapping[str, Any]],
    build: Callable[[Mapping[str, Any]], Trainer],
) -> Trainer:
    """The trainer whose step is shortest, warmed up.

    Its description gets `variant`, `variants` (seconds of each, or why it failed) and
    `compile_seconds`: how much longer than two others the first two steps took, which is
    tracing and compilation.
    """
    variants = list(variants)
    best, best_seconds, tried = None, float("inf"), {}
    for variant in variants:
        name = ", ".join(str(value) for value in variant.values())
        try:
            trainer = build(variant)
            # A second program, for the second step's layouts say, counts as well.
            start = [timed(trainer, 1)["seconds"] for _ in range(2)]
            rest = [timed(trainer, 1)["seconds"] for _ in range(min(len(variants), 3))]
        except Exception as error:
            if len(variants) == 1:
                raise
            tried[name] = first_line(error)
            continue
        tried[name] = seconds = min(rest)
        if seconds < best_seconds:
            best, best_seconds = trainer, seconds
            best.description |= {
                "variant": name,
                "step_seconds": seconds,
                "compile_seconds": max(sum(start) - 2 * seconds, 0.0),
            }
        del trainer
        gc.collect()
    if best is None:
        raise RuntimeError(f"no variant runs: {tried}")
    best.description["variants"] = tried
    return best


def first_line(error: BaseException) -> str:
    """An error's type and first line."""
    text = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {text}"


def peak_resident() -> int | None:
    """Largest resident memory of this process in bytes since `reset_peak_resident`."""
    try:
        status = pathlib.Path("/proc/self/status").read_text()
    except OSError:
        return None
    lines = [line.split() for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(lines[0][1]) * 1024 if lines else None


def reset_peak_resident() -> None:
    """Forgets the peak of imports and compilation; Linux only."""
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


def serve(module: str, spec: Mapping[str, Any]) -> None:
    """The contestant's side of the pipe."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # Whatever libraries print must not get into the answers.

    def answer(message: Mapping[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")

    if spec.get("cores"):
        usable = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, usable[: spec["cores"]])
    try:
        trainer = importlib.import_module(module).build(spec)
        trainer.reset_device_peak()
        reset_peak_resident()
        answer(trainer.description)
        for line in sys.stdin:
            result = timed(trainer, json.loads(line)["steps"])
            memory = trainer.device_peak() or peak_resident()
            answer({**result, "peak_bytes": memory})
    except ModuleNotFoundError as error:
        answer({"absent": f"{error.name} is not installed"})
    except Exception as error:  # noqa: BLE001, the other end of the pipe reports it
        traceback.print_exc()
        answer({"error": first_line(error)})


class ContestantError(Exception):
    """A contestant cannot take part; the text says why in one line.

    Args:
        absent: it is merely not installed.
    """

    def __init__(self, text: str, *, absent: bool = False):
        super().__init__(text)
        self.absent = absent


class Contestant:
    """A contestant's process, seen from the benchmark; a context manager.

    Args:
        python: the interpreter, in whose environment the contestant's packages are.
        module: has `build(spec)`.
        spec: JSON-like.
        environment: variables of the process.

    Raises:
        ContestantError: the interpreter cannot be started.
    """

    def __init__(
        self,
        python: str,
        module: str,
        spec: Mapping[str, Any],
        environment: Mapping[str, str],
    ):
        command = (python, "-m", f"benchmarks.{pathlib.Path(__file__).stem}")
        self._stack = contextlib.ExitStack()
        errors = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115, the stack closes it
        self._errors = self._stack.enter_context(errors)
        try:
            self._process = subprocess.Popen(
                [*command, module, json.dumps(spec)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                cwd=ROOT,
                env=dict(environment),
            )
        except OSError as error:
            self._stack.close()
            raise ContestantError(
                f"cannot start {python!r}: {error.strerror}"
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ready(self) -> dict[str, Any]:
        """Waits until the model is compiled and warm; the trainer's description."""
        line = self._process.stdout.readline()
        if not line:
            raise ContestantError(self._last_words())
        message = json.loads(line)
        if "absent" in message:
            raise ContestantError(message["absent"], absent=True)
        if "error" in message:
            raise ContestantError(message["error"])
        return message

    def run(self, steps: int) -> dict[str, float]:
        """Has the contestant make steps: 'seconds', 'cpu_seconds', 'loss', 'peak_bytes'."""
        try:
            self._process.stdin.write(json.dumps({"steps": steps}) + "\n")
            self._process.stdin.flush()
        except OSError:
            raise ContestantError(self._last_words()) from None
        return self.ready()

    def close(self) -> None:
        """Ends the process."""
        try:
            self._process.stdin.close()
        except OSError:
            pass  # It has ended by itself.
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._stack.close()

    def _last_words(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        lines: Sequence[str] = self._errors.read().strip().splitlines() or [""]
        return f"ended with code {code}: {lines[-1]}"


if __name__ == "__main__":
    serve(sys.argv[1], json.loads(sys.argv[2]))
