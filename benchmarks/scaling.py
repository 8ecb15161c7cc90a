"""How the cost of a step grows: with devices, batch, length and depth.

    python benchmarks/scaling.py [--parts=devices,batch,length,depth] [--out=FILE.json]

- devices: a ViT-L/16 and a GPT-2 compiled ahead of time for 1, 8, 64 and 256 virtual devices,
  in three layouts: bytes of the state on a device, and bytes of the messages of a step,
  beside what theory says. Nothing is computed; a minute or two on two cores.
- batch, length, depth: seconds a step of a GPT of 384 wide on the device here, the median of
  several rounds in which the cases take turns; with depth also the seconds of compilation,
  as a loop and as a scan.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from functools import partial
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nlp.models.gpt import GPT
from nlp.tasks.language_modeling import LanguageModeling
from training import compilation, flops, tables
from training.state import create
from training.step import train_step

MIB = 2**20
# Heads do not split over more devices than there are of them.
TENSOR = {"vit_l16": (8, 16), "gpt2_124m": (4, 12)}


def device_cases(options: argparse.Namespace) -> list[dict[str, Any]]:
    """What the part 'devices' compiles."""
    counts = [int(n) for n in options.devices.split(",")]
    cases = []
    for model in options.models.split(","):
        for layout in ("data", "fsdp"):
            cases += [(model, layout, n) for n in counts]
        cases += [(model, "tensor", n) for n in TENSOR.get(model, ())]
    names = ("model", "layout", "devices")
    return [{**dict(zip(names, c, strict=True)), "per_device": 1} for c in cases]


def on_devices(case: dict[str, Any]) -> dict[str, Any]:
    """The figures of one case, from a process with that many virtual devices.

    Raises:
        RuntimeError: the process failed; with its last line.
    """
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "benchmarks" / "scaling_devices.py"),
            json.dumps(case),
        ],
        check=False,
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": str(case["devices"]),
        },
        capture_output=True,
        text=True,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise RuntimeError(f"{case}: {last}")
    return json.loads(done.stdout.splitlines()[-1])


def device_row(found: dict[str, Any]) -> tuple[str, ...]:
    """One line of the table: how far state and messages are from theory."""
    share = found["state_per_device"] / found["state"]
    theory = sum(found["theory"].values())
    moved = found["moved_total"]
    ideal = f" (1/N {1 / found['devices']:.5f})" if found["layout"] == "fsdp" else ""
    return (
        found["model"],
        f"{found['devices']} {found['layout']}",
        f"{found['state_per_device'] / MIB:,.1f}",
        f"{share:.5f}",
        f"{found['large_share']:.5f}{ideal}",
        f"{moved / MIB:,.1f}",
        f"{theory / MIB:,.1f}",
        f"{moved / theory - 1:+.2%}" if theory else "-",
        f"{found['compile_seconds']:.0f}",
    )


class Case:
    """A GPT's compiled step and its state."""

    def __init__(self, *, batch: int, length: int, layers: int, scan: bool = False):
        self.fields = {"batch": batch, "length": length, "layers": layers, "scan": scan}
        model = GPT(
            vocab_size=256,
            max_length=length,
            embed_dim=384,
            num_layers=layers,
            num_heads=6,
            scan=scan,
        )
        task, optimizer = LanguageModeling(model=model), optax.adamw(1e-4)
        rows = np.random.default_rng(0).integers(5, 256, (batch, length + 1), np.int32)
        self._batch = {"tokens": jnp.asarray(rows)}
        make = partial(create, task, optimizer, self._batch, seed=0, ema=False)
        step = partial(train_step, task=task, optimizer=optimizer)
        self.flops = flops.count(step, jax.eval_shape(make), self._batch)
        # Of a step, three times a forward pass: two products of [T, T] in every layer.
        self.quadratic = 3 * layers * batch * 4 * length**2 * 384 / self.flops
        self._state = jax.jit(make)()
        options = compilation.compiler_options(None, devices=1, traced=False)
        jitted = jax.jit(step, donate_argnums=0, compiler_options=options or None)
        began = time.perf_counter()
        self._step = jitted.lower(self._state, self._batch).compile()
        self.compile_seconds = time.perf_counter() - began
        self.seconds: list[float] = []
        self._run()

    def _run(self) -> float:
        began = time.perf_counter()
        self._state, metrics = self._step(self._state, self._batch)
        jax.block_until_ready((self._state, metrics))
        return time.perf_counter() - began

    def measure(self) -> None:
        """One more step, timed."""
        self.seconds.append(self._run())

    def result(self) -> dict[str, Any]:
        return {
            **self.fields,
            "flops": self.flops,
            "quadratic_share": self.quadratic,
            "compile_seconds": self.compile_seconds,
            "seconds": self.seconds,
        }


PARTS = {
    "batch": [dict(batch=n, length=128, layers=4) for n in (1, 2, 4, 8, 16)],
    "length": [dict(batch=1, length=n, layers=4) for n in (128, 256, 512, 1024)],
    "depth": [
        dict(batch=2, length=128, layers=n, scan=scan)
        for scan in (False, True)
        for n in (6, 12, 24)
    ],
}


def timed(part: str, rounds: int) -> list[dict[str, Any]]:
    """The cases of a part, which take turns."""
    cases = [Case(**fields) for fields in PARTS[part]]
    for _ in range(rounds):
        for case in cases:
            case.measure()
    return [case.result() for case in cases]


def show_timed(part: str, results: list[dict[str, Any]]) -> None:
    """Seconds and what they come to for a token, a FLOP and a layer."""
    rows = []
    for found in results:
        median = statistics.median(found["seconds"])
        tokens = found["batch"] * found["length"]
        rows.append(
            (
                f"{found['batch']} x {found['length']} tokens, {found['layers']} layers"
                + (", scan" if found["scan"] else ""),
                f"{median:.3f} ({min(found['seconds']):.3f} to {max(found['seconds']):.3f})",
                f"{1e3 * median / tokens:.3f}",
                f"{found['flops'] / median / 1e9:.1f}",
                f"{found['quadratic_share']:.1%}",
                f"{found['compile_seconds']:.1f}",
            )
        )
    title = f"cost against {part}, on {jax.devices()[0].device_kind}"
    columns = ("case", "seconds a step", "ms a token", "GFLOP/s")
    columns += ("FLOPs of attention's squares", "s to compile")
    tables.show(title, columns, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default="devices,batch,length,depth")
    parser.add_argument("--models", default="vit_l16,gpt2_124m")
    parser.add_argument("--devices", default="1,8,64,256")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", help="JSON file for the figures")
    options = parser.parse_args()
    result: dict[str, Any] = {}
    for part in options.parts.split(","):
        if part == "devices":
            result[part] = [on_devices(case) for case in device_cases(options)]
            columns = (
                "model",
                "layout",
                "MiB of state a device",
                "of the whole",
                "large arrays",
            )
            columns += ("MiB sent a step", "theory", "difference", "s to compile")
            rows = [device_row(found) for found in result[part]]
            tables.show("devices, ahead of time", columns, rows)
        elif part in PARTS:
            result[part] = timed(part, options.rounds)
            show_timed(part, result[part])
        else:
            known = ", ".join(("devices", *PARTS))
            raise SystemExit(f"error: no part {part!r}; there are {known}")
    if options.out:
        pathlib.Path(options.out).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
