"""What the loop costs: its steps per second against the bare jitted update's.

    python benchmarks/loop_overhead.py [--config=configs/vit_digits.py] [--out=FILE.json]

All train the same model on the same batches, in turn, several rounds in one process. The
bare update gets batches that already lie on the device. The loop is run twice: on the same
batches, ready on the host, so that what it costs is its own (transfer, checks, metrics,
log, progress); and with its input pipeline, whose reading and transforming shares the
cores with the step where the step runs on a CPU. The model is made deeper (or, with
--grow=batch, the batch larger) until a step takes about 50 ms, the size at which the
project promises at most 3 % for the loop.

By the clock a shared machine says little about a few per cent. So the processor time of the
thread that runs the loop is measured as well, and that of the whole process: what they have
beyond the bare update's is the loop's, wherever the clock stands.
"""

import argparse
import dataclasses
import importlib
import json
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax

from training import compilation, loop
from training import config as configs
from training.run import Run
from training.writer import read_metrics


@dataclasses.dataclass(frozen=True)
class Replay:
    """A pipeline's first batches, read before training begins.

    Args:
        pipeline: where they come from.
        count: how many.
    """

    pipeline: Any
    count: int

    def element(self) -> dict:
        return self.pipeline.element()

    def train_batches(self, **arguments) -> Iterator:
        batches = self.pipeline.train_batches(**arguments)
        found = [next(batches) for _ in range(self.count)]
        batches.close()
        return self._watched(found)

    def _watched(self, batches: list) -> Iterator:
        # The loop's own thread takes the batches.
        MARKS.clear()
        for batch in batches:
            MARKS.append(processor_time())
            yield batch


# Processor time when the loop took each batch of the latest `Replay`.
MARKS: list[tuple[float, float]] = []


def processor_time() -> tuple[float, float]:
    """Seconds of this thread, and of the whole process."""
    return time.thread_time(), time.process_time()


def spent(
    before: tuple[float, float], after: tuple[float, float], steps: int
) -> list[float]:
    """Processor seconds a step between two marks."""
    return [(b - a) / steps for a, b in zip(before, after, strict=True)]


def load(path: str) -> dict:
    """A config file's experiment without evaluations and checkpoints on the way."""
    return {
        **configs.load(path),
        "eval_steps": 0,
        "checkpoint_steps": 0,
        "evals": {},
    } | {"best_metric": None}


def device_batches(run: Run, count: int) -> list:
    """The first `count` batches, on the device."""
    experiment = run.experiment
    batches = experiment.data.train_batches(
        batch_size=experiment.batch_size, seed=experiment.seed
    )
    found = [run.layout.put(next(batches)) for _ in range(count)]
    batches.close()
    return jax.block_until_ready(found)


def bare(config: dict, steps: int) -> tuple[float, list[float]]:
    """Seconds a step of the jitted update alone, in steady state, and processor time."""
    run = Run.from_config(config)
    batches, state = device_batches(run, steps + 2), run.init()
    for batch in batches[:2]:
        state, metrics = run.update(state, batch)
    jax.block_until_ready(metrics)
    began, mark = time.perf_counter(), processor_time()
    for batch in batches[2:]:
        state, metrics = run.update(state, batch)
    jax.block_until_ready((state, metrics))
    return (time.perf_counter() - began) / steps, spent(mark, processor_time(), steps)


def whole(config: dict, steps: int) -> tuple[float, float]:
    """(seconds a step of the loop, share of it spent waiting for data)."""
    # The first window holds the start; only the second is counted.
    config = {**config, "total_steps": 2 * steps, "log_steps": steps}
    with tempfile.TemporaryDirectory() as folder:
        loop.train(config, pathlib.Path(folder))
        last = read_metrics(folder)[-1]
    return 1 / last["train/steps_per_second"], last["train/data_wait"]


def grown(config: dict, factor: float, what: str) -> dict:
    """The config with `factor` times the work a step."""
    if what == "batch":
        size = max(8, round(config["batch_size"] * factor / 8) * 8)
        return {**config, "batch_size": size}
    task, model = config["task"], config["task"]["model"]
    layers = max(1, round(model["num_layers"] * factor))
    return {**config, "task": {**task, "model": {**model, "num_layers": layers}}}


def fit(config: dict, seconds: float, what: str) -> dict:
    """The config grown until a step takes about `seconds`."""
    for _ in range(3):
        took, _ = bare(config, 20)
        if 0.8 < took / seconds < 1.25:
            break
        config = grown(config, seconds / took, what)
    return config


def report(rows: list[dict[str, Any]], batch_size: int, steps: int) -> None:
    """Prints every round, and medians."""
    print(f"batch {batch_size}, {steps} steps a round")
    for row in rows:
        alone = " ".join(f"{seconds * 1e3:.2f}" for seconds in row["bare"])
        print(
            f"bare {alone} ms  loop {row['loop'] * 1e3:.2f} ms {row['overhead']:+.1%}  "
            f"with pipeline {row['with_pipeline'] * 1e3:.2f} ms "
            f"{row['overhead_with_pipeline']:+.1%}  data wait {row['data_wait']:.2%}"
        )
    step = statistics.median(row["bare"][1] for row in rows)
    for i, name in enumerate(("the loop's thread", "the process")):
        ours, alone = (
            statistics.median(row["processor"][which][i] for row in rows)
            for which in ("loop", "bare")
        )
        print(
            f"processor time of {name}: {ours * 1e3:.2f} ms a step, {alone * 1e3:.2f} bare: "
            f"{(ours - alone) / step:+.1%} of a step"
        )
    for name in ("overhead", "overhead_with_pipeline"):
        print(f"median {name} {statistics.median(row[name] for row in rows):+.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/vit_digits.py")
    parser.add_argument("--grow", choices=("depth", "batch"), default="depth")
    parser.add_argument("--step_ms", type=float, default=50)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", help="JSON file for the figures")
    options = parser.parse_args()
    compilation.enable_compilation_cache(None)
    config = fit(load(options.config), options.step_ms / 1000, options.grow)
    replay = {
        "type": "benchmarks.loop_overhead.Replay",
        "pipeline": config["data"],
        "count": 2 * options.steps,
    }
    rows = []
    for _ in range(options.rounds):
        before, _ = bare(config, options.steps)
        looped, _ = whole({**config, "data": replay}, options.steps)
        # The second half: what comes before holds the start.
        processor = spent(MARKS[options.steps], MARKS[-1], options.steps - 1)
        between, processor_bare = bare(config, options.steps)
        piped, wait = whole(config, options.steps)
        after, _ = bare(config, options.steps)
        # The machine's speed drifts: each is compared with what stands around it.
        rows.append(
            {
                "bare": [before, between, after],
                "loop": looped,
                "overhead": 2 * looped / (before + between) - 1,
                "with_pipeline": piped,
                "overhead_with_pipeline": 2 * piped / (between + after) - 1,
                "data_wait": wait,
                "processor": {"bare": processor_bare, "loop": processor},
            }
        )
    report(rows, config["batch_size"], options.steps)
    if options.out:
        result = {"config": options.config, "batch_size": config["batch_size"]}
        pathlib.Path(options.out).write_text(json.dumps(result | {"rounds": rows}))


if __name__ == "__main__":
    # `Replay` is found by the name of its module, and its marks are in that module.
    importlib.import_module("benchmarks.loop_overhead").main()
