"""`--plan`: what an update costs, before anybody waits for a machine.

Compiles the update ahead of time for the devices here, without data or arrays, and says
what would make it fit: accumulation, rematerialisation, sharding of the state.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax

from training import collectives, environment, flops, parameters, smoke, tables
from training.errors import ConfigError
from training.run import Run

GIB = 2**30


def show(config: Mapping[str, Any]) -> int:
    """Prints the plan of a plain config; returns the exit code."""
    config = smoke.synthetic(config)
    run = Run.from_config(config)
    tables.show(
        "plan",
        ("", "value", "remark"),
        [*_facts(run), *_costs(run, compile_update(run))],
    )
    tables.show(
        "what would make it smaller",
        ("change", "arguments", "temporary", "peak a device", "FLOPs a step"),
        list(_alternatives(config, run)),
    )
    return 0


def compile_update(run: Run) -> Any:
    """The update's executable, compiled from shapes alone."""
    return run.update.lower(run.shapes, run.batch).compile()


def _facts(run: Run) -> list[tuple[str, str, str]]:
    devices = run.layout.mesh.devices
    params = parameters.count(run.shapes.params)
    state = sum(
        math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(run.shapes)
    )
    held = device_bytes(run)
    return [
        ("devices", f"{devices.size} x {devices.flat[0].device_kind}", mesh_text(run)),
        ("parameters", f"{params:,}", ""),
        ("batch", f"{run.experiment.batch_size:,}", batch_text(run)),
        ("state", gib(state), "parameters, optimizer, averages, statistics"),
        ("state a device", gib(held), f"{held / state:.3f} of the whole"),
    ]


def _costs(run: Run, compiled: Any) -> list[tuple[str, str, str]]:
    memory = collectives.memory(compiled)
    rows = [
        ("model FLOPs a step", quantity(flops.model_flops(run)), "3 x forward"),
        ("FLOPs a step", quantity(update_flops(run)), "as compiled, with remat"),
        ("arguments a device", gib(memory["argument"]), "state and batch"),
        ("temporary a device", gib(memory["temp"]), "activations"),
        ("peak a device", gib(memory["peak"]), capacity_text(run, memory["peak"])),
    ]
    moved = collectives.bytes_moved(compiled.as_text())
    for kind, count in sorted(moved.items()):
        rows.append((f"{kind} a step", gib(count), "bytes of the messages, a device"))
    if not moved:
        rows.append(("collectives", "none", "one device"))
    return rows


def _alternatives(config: Mapping[str, Any], run: Run) -> Any:
    """Rows for the changes that this config allows, each compiled."""
    for name, changed in variants(config, run):
        try:
            other = Run.from_config(changed)
            memory = collectives.memory(compile_update(other))
        except ConfigError as error:
            yield (name, "-", "-", "-", f"not possible: {error}"[:60])
            continue
        yield (
            name,
            gib(memory["argument"]),
            gib(memory["temp"]),
            gib(memory["peak"]),
            quantity(update_flops(other)),
        )
    held = device_bytes(run)
    for devices in (8, 64):
        yield (
            f"mesh.fsdp={devices} (state by shape)",
            gib(held / devices),
            "",
            "",
            "same, over the devices",
        )


def variants(config: Mapping[str, Any], run: Run) -> list[tuple[str, dict[str, Any]]]:
    """Configs that would need less memory, by name."""
    experiment = run.experiment
    found = []
    for factor in (2, 4):
        steps = experiment.accumulation_steps * factor
        if experiment.batch_size % (steps * run.layout.batch_divisor) == 0:
            name = f"accumulation_steps={steps}"
            found.append((name, {**config, "accumulation_steps": steps}))
    model = config["task"]["model"]
    fields = getattr(experiment.task.model, "__dataclass_fields__", {})
    for policy in ("dots", "block"):
        if (
            "remat" in fields
            and getattr(experiment.task.model, "remat", None) != policy
        ):
            task = {**config["task"], "model": {**model, "remat": policy}}
            found.append((f"task.model.remat={policy}", {**config, "task": task}))
    return found


def update_flops(run: Run) -> float:
    """FLOPs of the update as traced: forward, backward, recomputation."""
    return flops.count(run.update, run.shapes, run.batch)


def device_bytes(run: Run) -> int:
    """Bytes of the state that the fullest device holds."""
    return sum(
        math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize
        for x, s in zip(
            jax.tree.leaves(run.shapes), jax.tree.leaves(run.shardings), strict=True
        )
    )


def mesh_text(run: Run) -> str:
    """The mesh as '4 data x 2 fsdp'."""
    return " x ".join(f"{n} {axis}" for axis, n in run.layout.mesh.shape.items())


def batch_text(run: Run) -> str:
    """The examples a device holds at a time."""
    e, parts = run.experiment, run.layout.batch_divisor
    each = e.batch_size // parts // e.accumulation_steps
    return f"{each} a device and micro-batch, {e.accumulation_steps} micro-batches"


def capacity_text(run: Run, peak: float) -> str:
    """How the peak compares with the device's memory."""
    total = environment.memory_bytes(run.layout.mesh.devices.flat[0])
    if not total:
        return "the device's memory is not known"
    return f"{'fits in' if peak < 0.95 * total else 'DOES NOT FIT in'} {gib(total)}"


def gib(count: float) -> str:
    """Bytes for a person."""
    return f"{count / GIB:.3f} GiB" if count >= GIB / 10 else f"{count / 2**20:.2f} MiB"


def quantity(count: float) -> str:
    """A large number for a person."""
    for unit, size in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count:.0f}"
