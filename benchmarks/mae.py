"""What masking saves: MAE's pretraining step against the same model fed every patch.

    python benchmarks/mae.py [--models=B/16x8,B/16x4] [--batch_size=8] [--out=FILE.json]

A model is a ViT's size and the number of blocks of the decoder, 512 wide. The two steps
(forward, backward, AdamW) take turns in one process, several rounds; the one that is fed
every patch has the same encoder and decoder and the same loss on the same hidden patches.
Prints FLOPs as traced, seconds a step, and the ratios of both.
"""

import argparse
import json
import pathlib
import statistics
import sys
import time
from functools import partial

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax
import numpy as np
import optax

from training import compilation, flops, tables
from training.state import create
from training.step import train_step
from vision.models import vit
from vision.models.mae import MAE, MAEOutput
from vision.ops.masking import num_kept, permute, shuffling
from vision.tasks.masked_autoencoding import MaskedAutoencoding


class EveryPatch(MAE):
    """MAE whose encoder sees all patches; the decoder and the loss stay as they are."""

    def encode(self, image, noise, *, train=False):
        tokens = self.backbone.embed(image, train=train)
        prefix = self.backbone.num_prefix
        order, restore = shuffling(noise)
        patches = permute(tokens[:, prefix:], order, restore)
        tokens = jax.numpy.concatenate([tokens[:, :prefix], patches], axis=1)
        return self.backbone.encode(tokens, train=train), (order, restore)

    def __call__(self, image, noise, *, train=False):
        latents, orders = self.encode(image, noise, train=train)
        prediction = self.decode(latents, orders, image.shape, train=train)
        kept = num_kept(noise.shape[1], self.mask_ratio)
        return MAEOutput(prediction, orders[1] >= kept, orders[1])


def build(kind, size: str, depth: int, ratio: float, dtype: str | None):
    """The task of one contestant."""
    backbone = getattr(vit, f"ViT_{size.replace('/', '')}")
    model = kind(
        backbone=backbone(num_classes=0, positions="sincos2d_mae", dtype=dtype),
        mask_ratio=ratio,
        decoder_num_layers=depth,
        dtype=dtype,
    )
    return MaskedAutoencoding(model=model, normalize_target=True)


OPTIMIZER = optax.adamw(1.5e-4, b2=0.95, weight_decay=0.05)


def initializer(task: MaskedAutoencoding, batch: dict) -> partial:
    """() -> the state at step 0."""
    return partial(create, task, OPTIMIZER, batch, seed=0, ema=False)


def step_flops(task: MaskedAutoencoding, batch: dict) -> int:
    """FLOPs of an update, from its trace."""
    step = partial(train_step, task=task, optimizer=OPTIMIZER)
    return flops.count(step, jax.eval_shape(initializer(task, batch)), batch)


class Contestant:
    """A compiled step and its state."""

    def __init__(self, task: MaskedAutoencoding, batch: dict):
        step = partial(train_step, task=task, optimizer=OPTIMIZER)
        options = compilation.compiler_options(None, devices=1, traced=False)
        self._step = jax.jit(step, donate_argnums=0, compiler_options=options or None)
        self._state, self._batch = jax.jit(initializer(task, batch))(), batch
        self.flops = step_flops(task, batch)
        self.seconds: list[float] = []
        self._run()

    def _run(self) -> float:
        began = time.perf_counter()
        self._state, metrics = self._step(self._state, self._batch)
        jax.block_until_ready((self._state, metrics))
        if not np.isfinite(float(metrics["loss"].compute())):
            raise RuntimeError("the loss is not finite")
        return time.perf_counter() - began

    def measure(self) -> None:
        """One more step, timed."""
        self.seconds.append(self._run())


def compare(name: str, options: argparse.Namespace) -> dict:
    """The figures of one model, 'B/16x8' say."""
    size, _, depth = name.partition("x")
    image = np.random.default_rng(0).integers(
        0, 256, (options.batch_size, 224, 224, 3), np.uint8
    )
    batch = {"image": jax.numpy.asarray(image)}
    pair = {}
    for label, kind in (("masked", MAE), ("every patch", EveryPatch)):
        task = build(kind, size, int(depth), options.mask_ratio, options.dtype)
        pair[label] = Contestant(task, batch)
    for _ in range(options.rounds):
        for contestant in pair.values():
            contestant.measure()
    masked, every = pair["masked"], pair["every patch"]
    ratios = [e / m for e, m in zip(every.seconds, masked.seconds, strict=True)]
    return {
        "model": name,
        "flops": [masked.flops, every.flops],
        "flops_ratio": every.flops / masked.flops,
        "seconds": [masked.seconds, every.seconds],
        "seconds_ratio": statistics.median(ratios),
        "seconds_ratio_range": [min(ratios), max(ratios)],
    }


def show(rows: list[dict], options: argparse.Namespace) -> None:
    """The figures as a table."""
    cells = []
    for row in rows:
        for i, label in enumerate(("masked", "every patch")):
            last = i == 1
            low, high = row["seconds_ratio_range"]
            cells.append(
                (
                    f"{row['model']} {label}",
                    f"{row['flops'][i] / 1e9:.1f}",
                    f"{statistics.median(row['seconds'][i]):.3f}",
                    f"{row['flops_ratio']:.2f}" if last else "",
                    f"{row['seconds_ratio']:.2f} ({low:.2f} to {high:.2f})"
                    if last
                    else "",
                )
            )
    tables.show(
        f"a step of {options.batch_size} images, {options.mask_ratio:.0%} hidden, on "
        f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        ("model", "GFLOP", "seconds", "x fewer FLOPs", "x less time"),
        cells,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="B/16x8,B/16x4,L/16x8")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mask_ratio", type=float, default=0.75)
    parser.add_argument("--dtype", help="bfloat16 on accelerators")
    parser.add_argument("--out", help="JSON file for the figures")
    options = parser.parse_args()
    rows = []
    for name in options.models.split(","):
        rows.append(compare(name, options))
        print(f"{name}: {rows[-1]['seconds_ratio']:.2f} x less time", file=sys.stderr)
        jax.clear_caches()
    show(rows, options)
    if options.out:
        result = {"batch_size": options.batch_size, "rows": rows}
        pathlib.Path(options.out).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
