"""The training step against plain Linen, torch and torch.compile.

    python benchmarks/train_step.py [--models=vit_ti16,resnet50] [--cores=1] [--out=FILE.json]
        [--torch_python=PATH] [--rounds=5] [--steps=N] [--batch=N] [--together]
        [--device=cpu|gpu] [--dtype=float32|bfloat16] [--torch_mode=max-autotune]

The same architecture, batch, optimizer and precision in every formulation: AdamW for
Transformers, mixers and ConvNeXt, SGD with momentum for ResNets and MobileNet. torch's
models are timm's, and for the masked autoencoder and GPT those of
`benchmarks.train_step_torch_models`. Each contestant is a process of its own that stays
alive over all rounds, and they take turns, so that what else the machine does falls on all
of them; still, measure on an idle one. The first turn of each does not count. Ours runs as
under `train.py`, which on a CPU keeps freed memory (`training.allocator`); the others do
not. Ratios are taken within a round. Seconds are by the clock; memory is the largest
resident set while stepping, libraries included, or on a GPU what arrays took at most;
`compile` is what the first steps took longer than later ones. On two cores and a busy
machine torch's threads wait for each other by spinning, and its figures are worthless.

torch and timm are optional, and may live in another environment (--torch_python).
torchvision is not needed: pip install torch numpy pillow pyyaml safetensors
huggingface_hub, then pip install --no-deps timm.
"""

import argparse
import contextlib
import datetime
import functools
import json
import os
import pathlib
import platform
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from benchmarks.train_step_contestant import Contestant, ContestantError
from benchmarks.train_step_rows import ROWS
from training.tables import show

MODULES = {
    "ours": "benchmarks.train_step_jax",
    "linen": "benchmarks.train_step_jax",
    "torch": "benchmarks.train_step_torch",
    "torch.compile": "benchmarks.train_step_torch",
}
# Without --steps, a turn of the slowest contestant takes about this long.
TURN_SECONDS = 6.0
COLUMNS = (
    *("contestant", "s/step", "spread", "examples/s", "TFLOP/s"),
    *("memory", "compile", "variant"),
)


def compete(
    start: Callable[[str], Contestant],
    names: Sequence[str],
    *,
    rounds: int,
    steps: int | None,
    together: bool = False,
    log: Callable[[str], None] = print,
) -> dict[str, dict[str, Any]]:
    """All contestants in turns on one model.

    Args:
        start: a contestant's process by name.
        names: the contestants.
        rounds: turns of each.
        steps: updates in a turn; None for about `TURN_SECONDS`.
        together: they compile at the same time, and not one after the other.

    Returns:
        By name: what the contestant says of itself and `rounds`, a list; or `absent` or
        `error`, a line that says why it took no part (to the end).
    """
    results: dict[str, dict[str, Any]] = {}
    with contextlib.ExitStack() as stack:
        racing = {}

        def fail(name: str, error: ContestantError) -> None:
            racing.pop(name, None)
            results[name] = {"absent" if error.absent else "error": str(error)}
            log(f"  {name}: {error}")

        begin = functools.cache(lambda name: stack.enter_context(start(name)))
        for name in names if together else ():
            with contextlib.suppress(ContestantError):  # Again, and said, below.
                begin(name)
        for name in names:
            try:
                contestant = begin(name)
                results[name] = {**contestant.ready(), "rounds": []}
                racing[name] = contestant
            except ContestantError as error:
                fail(name, error)
        if steps is None and racing:
            slowest = max(results[name]["step_seconds"] for name in racing)
            steps = min(max(round(TURN_SECONDS / slowest), 2), 100)
        # A round before the first does not count: heaps grow over some steps.
        for i in range(-1, rounds):
            for name in in_turn(list(racing), i):
                try:
                    turn = racing[name].run(steps)
                    if i >= 0:
                        results[name]["rounds"].append({**turn, "steps": steps})
                except ContestantError as error:
                    fail(name, error)
    return results


def in_turn(names: list[str], i: int) -> list[str]:
    """The order of round `i`: each begins one in turn, so that none always follows the
    same neighbour."""
    shift = i % max(len(names), 1)
    return names[shift:] + names[:shift]


def seconds(result: Mapping[str, Any]) -> list[float]:
    """Seconds per step of every round; empty for one that took no part."""
    return [turn["seconds"] for turn in result.get("rounds", [])]


def ratio(result: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, float]:
    """How many times as fast `result` is as `other`: median, least and most of rounds."""
    pairs = zip(seconds(result), seconds(other), strict=True)
    ratios = [theirs / ours for ours, theirs in pairs]
    return {
        "median": statistics.median(ratios),
        "least": min(ratios),
        "most": max(ratios),
    }


def ratios(results: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Ours against plain Linen and against the better torch, where they took part."""
    found = {}
    if not seconds(results.get("ours", {})):
        return found
    if seconds(results.get("linen", {})):
        found["plain Linen"] = ratio(results["ours"], results["linen"])
    torches = [
        name for name in ("torch", "torch.compile") if seconds(results.get(name, {}))
    ]
    if torches:
        better = min(
            torches, key=lambda name: statistics.median(seconds(results[name]))
        )
        found["the better torch"] = {
            **ratio(results["ours"], results[better]),
            "contestant": better,
        }
    return found


def table_row(
    name: str, result: Mapping[str, Any], batch_size: int, reference: Mapping[str, Any]
) -> list[str]:
    """One contestant's line of the table; `reference` knows the model's FLOPs."""
    times = seconds(result)
    if not times:
        why = "not installed" if "absent" in result else "failed"
        return [name, why, *[""] * (len(COLUMNS) - 2)]
    median = statistics.median(times)
    speed = utilisation = ""
    if reference.get("flops"):
        rate = reference["flops"] / median
        speed = f"{rate / 1e12:.3g}"
        if reference.get("peak_flops"):
            utilisation = f" ({rate / reference['peak_flops']:.0%})"
    peaks = [turn["peak_bytes"] or 0 for turn in result["rounds"]]
    return [
        name,
        f"{median:.4f}",
        f"{(max(times) - min(times)) / median:.1%}",
        f"{batch_size / median:.1f}",
        speed + utilisation,
        f"{max(peaks) / 2**30:.2f} GiB",
        f"{result['compile_seconds']:.1f} s",
        result["variant"],
    ]


def report(model: str, results: Mapping[str, Any], batch_size: int) -> None:
    """Prints one model's table, and what it means."""
    reference = results.get("ours", {})
    rows = [
        table_row(name, result, batch_size, reference)
        for name, result in results.items()
    ]
    show(f"{model}, batch {batch_size}", COLUMNS, rows)
    for other, found in ratios(results).items():
        named = f" ({found['contestant']})" if "contestant" in found else ""
        print(
            f"  {found['median']:.2f} times as fast as {other}{named}"
            f" ({found['least']:.2f} to {found['most']:.2f})"
        )
    counts = {n: r["parameters"] for n, r in results.items() if "parameters" in r}
    if len(set(counts.values())) > 1:
        print(f"  the architectures differ in their number of parameters: {counts}")


def environment(options: argparse.Namespace, cache: str) -> dict[str, str]:
    """Variables of the contestants' processes."""
    variables = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache}
    # Whatever was compiled before would hide the time that it takes.
    variables.pop("JAX_COMPILATION_CACHE_DIR", None)
    # Parameters are made on the CPU, for which that compiles in less time.
    variables["JAX_PLATFORMS"] = "cuda,cpu" if options.device == "gpu" else "cpu"
    variables["JAX_NUM_CPU_DEVICES"] = "1"
    # The contestants share one accelerator.
    variables["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    if options.cores:
        variables["OMP_NUM_THREADS"] = str(options.cores)
    return variables


def measure(model: str, options: argparse.Namespace) -> dict[str, Any]:
    """Everything about one model; prints its table."""
    batch_size = options.batch or ROWS[model].batch_size[options.device]
    spec = {
        "model": model,
        "batch_size": batch_size,
        "device": options.device,
        "dtype": options.dtype,
        "cores": options.cores,
        "torch_mode": options.torch_mode,
    }
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as cache:
        variables = environment(options, cache)

        def start(name: str) -> Contestant:
            torch = name.startswith("torch")
            python = options.torch_python if torch else sys.executable
            print(f"  {model}: {name} starts", file=sys.stderr)
            return Contestant(
                python, MODULES[name], {**spec, "contestant": name}, variables
            )

        results = compete(
            start,
            options.contestants,
            rounds=options.rounds,
            steps=options.steps,
            together=options.together,
        )
    report(model, results, batch_size)
    return {
        **spec,
        "load_before": load,
        "ratios": ratios(results),
        "contestants": results,
    }


def chosen(text: str, known: Sequence[str], what: str) -> list[str]:
    """The names in a comma-separated list.

    Raises:
        ValueError: one is unknown.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise ValueError(f"unknown {what} {name!r}; known: {', '.join(known)}")
    return names


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, with lists for `models` and `contestants`.

    Raises:
        ValueError: a model, contestant or interpreter is unknown.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(ROWS))
    parser.add_argument("--contestants", default=",".join(MODULES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, help="a turn; default: about 6 s")
    parser.add_argument("--batch", type=int, help="default: the model's own")
    parser.add_argument("--cores", type=int, help="default: all")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"))
    parser.add_argument("--torch_python", default=sys.executable)
    parser.add_argument(
        "--together",
        action="store_true",
        help="all compile at once: sooner, but the choice of variants is less sure",
    )
    parser.add_argument("--torch_mode", default="default", help="of torch.compile")
    parser.add_argument("--out", help="JSON file for the figures")
    options = parser.parse_args(arguments)
    for name in ("rounds", "steps", "batch", "cores"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name}={value} must be at least 1")
    options.models = chosen(options.models, list(ROWS), "model")
    options.contestants = chosen(options.contestants, list(MODULES), "contestant")
    options.dtype = options.dtype or (
        "bfloat16" if options.device == "gpu" else "float32"
    )
    if shutil.which(options.torch_python) is None:
        raise ValueError(f"--torch_python={options.torch_python} is no interpreter")
    options.torch_python = os.path.abspath(shutil.which(options.torch_python))
    return options


def main() -> int:
    try:
        options = parse()
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    result = {
        "command": ["benchmarks/train_step.py", *sys.argv[1:]],
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "host": {"system": platform.platform(), "cpus": os.cpu_count()},
        "models": {},
    }
    for model in options.models:
        result["models"][model] = measure(model, options)
        if options.out:  # After every model: an interrupted run is not lost.
            text = json.dumps(result, indent=1) + "\n"
            pathlib.Path(options.out).write_text(text)
    measured = any(
        seconds(contestant)
        for model in result["models"].values()
        for contestant in model["contestants"].values()
    )
    where = f"CPU, cores: {options.cores or os.cpu_count()}; not measured on a GPU"
    if options.device == "gpu":
        where = "one GPU" if measured else "not measured on a GPU"
    print(f"\n{options.dtype}, {where}")
    if not measured:
        print("no contestant made a step", file=sys.stderr)
    return 0 if measured else 1


if __name__ == "__main__":
    sys.exit(main())
