"""All parallelism: `jax.jit` over a mesh, with a sharding for every array.

Mesh axes: 'data' splits the batch; 'fsdp' splits the batch and, by shape, the state
(ZeRO; Rajbhandari et al. 2019, https://arxiv.org/abs/1910.02054): parameters are gathered
once a step and their gradients go back split; 'model' splits parameters by path rules
(tensor parallelism; Shoeybi et al. 2019, "Megatron-LM", https://arxiv.org/abs/1909.08053).
Models carry no annotation. The moments of the
optimizer and the moving average end in the parameter's path, so that the same rules
place them beside it.
"""

import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from training.parameters import path_string

AXES = ("data", "fsdp", "model")
BATCH_AXES = ("data", "fsdp")

# Pattern of the end of a parameter's path -> mesh axis of its trailing dimensions.
TRANSFORMER_RULES = (
    (r"(query|key|value)/kernel", (None, "model", None)),
    (r"(query|key|value)/bias", ("model", None)),
    (r"out/kernel", ("model", None, None)),
    (r"up/kernel", (None, "model")),
    (r"up/bias", ("model",)),
    (r"down/kernel", ("model", None)),
)

# A leaf smaller than this costs more in messages than it saves in memory.
FSDP_MIN_BYTES = 4096


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where every array of a run lives.

    Args:
        mesh: from `make_mesh`.
        rules: (pattern, axes) pairs; see `TRANSFORMER_RULES`.
    """

    mesh: jax.sharding.Mesh
    rules: tuple = TRANSFORMER_RULES

    @property
    def replicated(self) -> NamedSharding:
        """The whole array on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def batch(self) -> NamedSharding:
        """The first dimension split over the data axes."""
        axes = tuple(a for a in BATCH_AXES if a in self.mesh.axis_names)
        return NamedSharding(self.mesh, PartitionSpec(axes or None))

    @property
    def batch_divisor(self) -> int:
        """How many parts a (micro-)batch is split into."""
        return math.prod(self.mesh.shape.get(a, 1) for a in BATCH_AXES)

    def state(self, shapes: Any) -> Any:
        """A sharding for every leaf of a state given as a tree of shapes."""
        return jax.tree_util.tree_map_with_path(
            lambda path, x: self._leaf(path_string(path), x), shapes
        )

    def gather(self, tree: Any, shardings: Any) -> Any:
        """What 'fsdp' splits, whole on every device; its gradient goes back split.

        Left alone, the partitioner may split the products along with their kernels and
        send activations around, which are larger. Inside a jitted function only.

        Args:
            tree: of arrays.
            shardings: of the same structure, by `state`.
        """
        if self.mesh.shape.get("fsdp", 1) == 1:
            return tree
        return jax.tree.map(self._gather, tree, shardings)

    def _gather(self, x: jax.Array, split: NamedSharding) -> jax.Array:
        spec = PartitionSpec(*(a if a != "fsdp" else None for a in split.spec))
        if spec == split.spec:
            return x
        return _resharded(x, split, NamedSharding(self.mesh, spec))

    def _leaf(self, path: str, x: Any) -> NamedSharding:
        spec = self._by_rule(path, x.shape)
        size = self.mesh.shape.get("fsdp", 1)
        if size > 1 and math.prod(x.shape) * 4 >= FSDP_MIN_BYTES:
            for i in np.argsort(x.shape, kind="stable")[::-1]:
                if spec[i] is None and x.shape[i] % size == 0:
                    spec[i] = "fsdp"
                    break
        return NamedSharding(self.mesh, PartitionSpec(*spec))

    def _by_rule(self, path: str, shape: tuple[int, ...]) -> list[str | None]:
        """The rule's axes on the trailing dimensions; leading ones are stacked layers."""
        for pattern, axes in self.rules:
            if len(axes) <= len(shape) and re.search(f"(^|/)({pattern})$", path):
                spec = [None] * (len(shape) - len(axes)) + list(axes)
                return [
                    axis if axis and self._divides(axis, n) else None
                    for axis, n in zip(spec, shape, strict=True)
                ]
        return [None] * len(shape)

    def _divides(self, axis: str, n: int) -> bool:
        size = self.mesh.shape.get(axis, 1)
        return size > 1 and n % size == 0

    def host_shard(self, batch_size: int) -> tuple[int, int]:
        """Which part of a global batch this process reads: (i, n), the i-th of n parts.

        Processes that hold the same rows (a 'model' axis across hosts) read the same
        part.

        Raises:
            ValueError: the process's rows are not one of n equal contiguous parts.
        """
        rows = self.batch.addressable_devices_indices_map((batch_size,)).values()
        spans = sorted({r[0].indices(batch_size)[:2] for r in rows})
        start, stop = spans[0][0], spans[-1][1]
        size = stop - start
        contiguous = all(a[1] == b[0] for a, b in itertools.pairwise(spans))
        if not contiguous or batch_size % size or start % size:
            raise ValueError(
                f"mesh {dict(self.mesh.shape)} gives process {jax.process_index()} rows "
                f"{spans} of {batch_size}; order the axes so that its rows are contiguous"
            )
        return start // size, batch_size // size

    def put(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """Makes this process's rows its part of a global batch, without waiting."""
        return {
            name: jax.make_array_from_process_local_data(self.batch, np.asarray(value))
            for name, value in batch.items()
        }

    def check_batch(self, batch_size: int, accumulation_steps: int = 1) -> None:
        """Raises ValueError if a global batch does not split over devices."""
        if batch_size % (accumulation_steps * self.batch_divisor):
            raise ValueError(
                f"batch_size {batch_size} does not divide by {self.batch_divisor} devices "
                f"x {accumulation_steps} accumulation_steps; take a multiple of "
                f"{self.batch_divisor * accumulation_steps}"
            )


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _resharded(x, split, whole):
    return jax.lax.with_sharding_constraint(x, whole)


def _resharded_forward(x, split, whole):
    return _resharded(x, split, whole), None


def _resharded_backward(split, whole, residuals, cotangent):
    """Summed over the devices, of which each keeps its part: a reduce-scatter.

    Said in two steps, or an embedding's scatter would be split by its rows, for which
    every device needs the whole batch's activations.
    """
    cotangent = jax.lax.with_sharding_constraint(cotangent, whole)
    return (jax.lax.with_sharding_constraint(cotangent, split),)


_resharded.defvjp(_resharded_forward, _resharded_backward)


def make_mesh(
    axes: Mapping[str, int], devices: list[jax.Device] | None = None
) -> jax.sharding.Mesh:
    """A mesh over all devices (or the given ones).

    Args:
        axes: devices per axis, {'data': -1} or {'data': 2, 'fsdp': 4} say; -1 takes what
            the others leave.

    Raises:
        ValueError: unknown axis, or sizes that do not multiply to the device count.
    """
    devices = jax.devices() if devices is None else devices
    unknown = [a for a in axes if a not in AXES]
    if unknown or not axes:
        raise ValueError(f"mesh {dict(axes)}: the axes are {', '.join(AXES)}")
    names, sizes = list(axes), [axes[a] for a in axes]
    free = [i for i, n in enumerate(sizes) if n == -1]
    known = math.prod(n for n in sizes if n != -1)
    if len(free) == 1 and known > 0 and len(devices) % known == 0:
        sizes[free[0]] = len(devices) // known
    if math.prod(sizes) != len(devices) or min(sizes) < 1:
        raise ValueError(
            f"mesh {dict(axes)} does not multiply to the {len(devices)} devices here; "
            f"change it, for example --config.mesh=\"{{'{names[0]}': -1}}\""
        )
    # Auto, because Linen's gathers refuse the Explicit axes that are today's default.
    kinds = (AxisType.Auto,) * len(names)
    return jax.make_mesh(tuple(sizes), tuple(names), axis_types=kinds, devices=devices)
