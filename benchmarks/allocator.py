"""What keeping freed memory gains: the same step with and without `training.allocator`.

    python benchmarks/allocator.py [--config=configs/mae_cifar10.py] [--out=FILE.json]

Each measurement is a process of its own on synthetic data, for the allocator is set once;
the two take turns. Prints seconds a step, the processor time the kernel took of it, and
the ratio. CPU only.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def measure(config: str, keep: bool, steps: int) -> dict:
    """In a fresh process: seconds a step, and those of the kernel."""
    from training import allocator

    if keep and not allocator.keep_freed_memory():
        raise SystemExit("the allocator cannot be set here; unset MALLOC_* variables")
    import jax
    import numpy as np

    from training import config as configs
    from training import smoke
    from training.run import Run

    run = Run.from_config(smoke.synthetic(configs.load(config)))
    rng, host = np.random.default_rng(0), {}
    for name, spec in run.batch.items():
        host[name] = rng.integers(0, 4, spec.shape).astype(spec.dtype)
    state, batch = run.init(), run.layout.put(host)
    for _ in range(2):
        state, metrics = run.update(state, batch)
    jax.block_until_ready((state, metrics))
    began, before = time.perf_counter(), os.times()
    for _ in range(steps):
        state, metrics = run.update(state, batch)
    jax.block_until_ready((state, metrics))
    seconds = (time.perf_counter() - began) / steps
    return {"seconds": seconds, "kernel": (os.times().system - before.system) / steps}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/mae_cifar10.py")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contestant", choices=("keep", "plain"), help="internal")
    parser.add_argument("--out", help="JSON file for the figures")
    options = parser.parse_args()
    if options.contestant:
        keep = options.contestant == "keep"
        print(json.dumps(measure(options.config, keep, options.steps)))
        return
    found = {"plain": [], "keep": []}
    for _ in range(options.rounds):
        for name, rows in found.items():
            command = [sys.executable, __file__, f"--contestant={name}"]
            command += [f"--config={options.config}", f"--steps={options.steps}"]
            environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
            done = subprocess.run(
                command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, check=True
            )
            rows.append(json.loads(done.stdout.splitlines()[-1]))
    for name, rows in found.items():
        seconds = " ".join(f"{row['seconds']:.3f}" for row in rows)
        kernel = statistics.median(row["kernel"] for row in rows)
        print(f"{name:5}  {seconds} s a step, of the kernel {kernel:.3f} s")
    ratios = [
        plain["seconds"] / keep["seconds"]
        for plain, keep in zip(found["plain"], found["keep"], strict=True)
    ]
    low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
    print(f"{options.config}: {middle:.2f} times as fast ({low:.2f} to {high:.2f})")
    if options.out:
        pathlib.Path(options.out).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
