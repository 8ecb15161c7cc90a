"""What every ImageNet architecture costs: parameters, FLOPs, latency, memory, accuracy.

    python benchmarks/zoo.py [--only=REGEX] [--sizes] [--batches=1,32] [--rounds=5]
        [--dtype=bfloat16] [--out=runs/zoo] [--resume]

After A. Canziani, A. Paszke, E. Culurciello, "An Analysis of Deep Neural Network Models for
Practical Applications", 2016, https://arxiv.org/abs/1605.07678. The models are those of
configs/*_imagenet.py at the resolution they are evaluated at; with --sizes, also of the
other sizes that their docstrings name. Accuracy is the published one, as the config's
docstring has it. Each model has a process of its own, and with it its own peak of memory;
one that does not fit says so in its row. Writes OUT.md, OUT.json and OUT.png after every
model; --resume keeps the rows of OUT.json.

A multiplication and an addition are two FLOPs (many papers count one).
"""

import argparse
import ast
import contextlib
import dataclasses
import json
import os
import pathlib
import re
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.zoo_report import cells, headings, write
from training import compilation, flops, parameters, smoke, tables
from training import config as configs
from training.errors import RunError, first_line

CONFIGS = ROOT / "configs"
_SUFFIX = "_imagenet"
_MARK = "row: "  # of the line in which a child reports
_WITHIN = 3600  # seconds for one model


@dataclasses.dataclass(frozen=True)
class Entry:
    """A model of the zoo.

    Args:
        name: 'mixer', or 'mixer:S/32' for another size than the config's own.
        config: 'FILE.py' or 'FILE.py:argument'.
        top1: published, per cent; None where the docstring has none for this size.
    """

    name: str
    config: str
    top1: float | None = None


def entries(folder: pathlib.Path = CONFIGS, *, sizes: bool = False) -> list[Entry]:
    """The classifiers among a folder's *_imagenet.py that start from nothing."""
    found = []
    for path in sorted(folder.glob(f"*{_SUFFIX}.py")):
        config = configs.load(str(path))
        model = classifier(config)
        made_of_another = config.get("init_from") and model is config["task"]["model"]
        if made_of_another or not model.get("num_classes"):
            continue  # Fine-tuned, or pretraining. (A student starts from nothing.)
        text = ast.get_docstring(ast.parse(path.read_text())) or ""
        name = path.stem.removesuffix(_SUFFIX)
        found.append(Entry(name, str(path), published(text)))
        for argument in arguments(text, path.name) if sizes else ():
            with contextlib.suppress(RunError):  # An option, and no size.
                other = configs.load(f"{path}:{argument}")
                configs.build(classifier(other))
                if classifier(other) != model:
                    found.append(Entry(f"{name}:{argument}", f"{path}:{argument}"))
    return found


def classifier(config: dict[str, Any]) -> dict[str, Any]:
    """The node of the model that classifies; of teacher and student, the student's."""
    node = config["task"]["model"]
    return node.get("student", node)


def published(text: str) -> float | None:
    """The first 'N % top-1' of a docstring, of its result before others."""
    _, _, result = text.partition("\nResult:")
    for part in (result, text):
        match = re.search(r"(\d+(?:\.\d+)?)\s*%\s*top-1", part)
        if match:
            return float(match.group(1))
    return None


def arguments(text: str, file: str) -> list[str]:
    """What a docstring offers behind a config's name: '...py:S/16 (S/32 B/32).'"""
    found = []
    pattern = rf"configs/{re.escape(file)}:([\w./,=-]+?)\.?(?=\s|$)(?:\s*\(([^)]*)\))?"
    for match in re.finditer(pattern, text):
        found += [match.group(1), *re.split(r"[\s,]+", match.group(2) or "")]
    return [x for x in dict.fromkeys(found) if x and x != "or"]


def build(entry: Entry, dtype: str | None) -> tuple[Any, tuple[int, ...]]:
    """The model, and the shape [H, W, C] of the images it is evaluated on.

    Raises:
        RunError: the config cannot be built.
    """
    config = configs.load(entry.config)
    node = {**classifier(config), "dtype": dtype}
    evals = [node for node in config["evals"].values() if "data" in node]
    data = configs.build(smoke.synthetic(evals[0]["data"]))
    key = config["task"].get("image_key", "image")
    return configs.build(node), tuple(data.element()[key].shape)


def measure(entry: Entry, batches: Sequence[int], rounds: int, dtype: str | None):
    """The row of one model: JSON-like."""
    model, shape = build(entry, dtype)

    def image(batch):
        return jax.ShapeDtypeStruct((batch, *shape), jnp.float32)

    def forward(variables, x):
        return model.apply(variables, x, train=False)

    shapes = jax.eval_shape(model.init, jax.random.key(0), image(1))
    row = {
        "name": entry.name,
        "top1": entry.top1,
        "resolution": shape[0],
        "parameters": parameters.count(shapes["params"]),
        "flops": flops.count(forward, shapes, image(1)),
        "device": jax.devices()[0].device_kind,
        "dtype": dtype or "float32",
        "batches": {},
    }
    variables = jax.device_put(jax.tree.map(filler, shapes))
    for batch in batches:
        try:
            row["batches"][str(batch)] = time_batch(
                forward, variables, image(batch), rounds
            )
        except (RuntimeError, MemoryError) as error:  # JAX's are RuntimeErrors
            row["batches"][str(batch)] = {"error": first_line(error)[:200]}
    row["peak_memory"] = peak_memory()
    return row


def time_batch(forward, variables, image, rounds: int) -> dict[str, Any]:
    """Seconds of each round, and the bytes that the program needs.

    Raises:
        MemoryError: more than this machine has free.
    """
    options = compilation.compiler_options(None, devices=1)
    jitted = jax.jit(forward, compiler_options=options or None)
    compiled = jitted.lower(variables, image).compile()
    plan = compiled.memory_analysis()
    needed = plan.temp_size_in_bytes + plan.output_size_in_bytes
    free = free_memory()
    if free is not None and needed > free:
        raise MemoryError(
            f"needs {needed / 1e9:.1f} GB more, {free / 1e9:.1f} are free"
        )
    x = jax.device_put(filler(image))
    seconds = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        jax.block_until_ready(compiled(variables, x))
        seconds.append(time.perf_counter() - began)
    return {
        "seconds": seconds[1:],
        "memory": needed + plan.argument_size_in_bytes,
    }


def filler(spec: jax.ShapeDtypeStruct) -> np.ndarray:
    """Small positive numbers, quickly: speed does not depend on them."""
    values = np.random.default_rng(0).uniform(0.001, 0.02, 4099).astype(spec.dtype)
    return np.resize(values, spec.shape)


def free_memory() -> int | None:
    """Bytes, or None where the device says so itself (or nobody does)."""
    if jax.default_backend() != "cpu":
        return None
    try:
        text = pathlib.Path("/proc/meminfo").read_text()
    except OSError:
        return None
    return 1024 * int(re.search(r"MemAvailable:\s+(\d+)", text).group(1))


def peak_memory() -> int:
    """Bytes on the device; where it does not count (a CPU), of the whole process."""
    found = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return found or 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def in_own_process(entry: Entry, options: argparse.Namespace) -> dict[str, Any]:
    """`measure` in a process of its own; a row with an 'error' where that fails."""
    command = [sys.executable, __file__, "--one", json.dumps(dataclasses.asdict(entry))]
    command += [f"--batches={options.batches}", f"--rounds={options.rounds}"]
    command += [f"--dtype={options.dtype}"] if options.dtype else []
    environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    failed = {"name": entry.name, "top1": entry.top1}
    try:
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            timeout=_WITHIN,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        return failed | {"error": f"not done after {_WITHIN} s"}
    for line in done.stdout.splitlines():
        if line.startswith(_MARK):
            return json.loads(line.removeprefix(_MARK))
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    if done.returncode < 0:
        last = f"ended by signal {-done.returncode}; out of memory, perhaps"
    return failed | {"error": last[:200]}


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every model in turn. Returns the rows."""
    out, batches = pathlib.Path(options.out), options.batches.split(",")
    rows = []
    if options.resume and out.with_suffix(".json").exists():
        rows = json.loads(out.with_suffix(".json").read_text())["rows"]
        rows = [row for row in rows if "error" not in row]
    done = {row["name"] for row in rows}
    for entry in entries(pathlib.Path(options.configs), sizes=options.sizes):
        if entry.name in done or not re.search(options.only, entry.name):
            continue
        rows.append(in_own_process(entry, options))
        print(", ".join(c for c in cells(rows[-1], batches) if c), file=sys.stderr)
        write(rows, out, batches)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="names that this regex is found in")
    parser.add_argument("--sizes", action="store_true", help="other sizes too")
    parser.add_argument("--batches", default="1,32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", help="bfloat16 on accelerators; float32 by default")
    parser.add_argument("--out", default="runs/zoo", help="files without their endings")
    parser.add_argument(
        "--resume", action="store_true", help="keep the rows of OUT.json"
    )
    parser.add_argument("--configs", default=str(CONFIGS), help=argparse.SUPPRESS)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    batches = [int(b) for b in options.batches.split(",")]
    if options.one:
        entry = Entry(**json.loads(options.one))
        row = measure(entry, batches, options.rounds, options.dtype)
        print(_MARK + json.dumps(row))
        return
    rows = run(options)
    if not rows:
        raise SystemExit(
            f"no model of {options.configs} has {options.only!r} in its name"
        )
    names = [str(b) for b in batches]
    tables.show("the zoo", headings(names), [cells(row, names) for row in rows])
    print(f"written: {options.out}.md, .json, .png")


if __name__ == "__main__":
    main()
