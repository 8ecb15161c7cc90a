"""From a source to batches whose content is a function of (seed, step).

The examples of step s and every random draw made for them depend only on (seed, s, row
of the global batch). So resuming needs the step's number and nothing else, and it does
not matter how many hosts, processes or threads share the work.
"""

import dataclasses
import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np

from data.loading import (
    BatchLoader,
    Cached,
    Reader,
    Transform,
    first_readable,
    load_ahead,
    narrow,
)
from data.order import Order
from data.workers import WorkerPool

# More threads than this contend for Python's lock; worker processes go further.
_MAX_THREADS = 16
_FOREVER = 2**62

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """Examples in, batches out.

    Args:
        source: see `data.sources`.
        transforms: `transform(example, rng) -> example`, applied in this order.
        keys: fields of the batches; None: all that are numbers (text and bytes stay
            behind).
        shuffle: training batches take the examples in a new order every epoch.
        cache: keep the examples in memory as they are stored, once read. (Each worker
            process keeps its own, as long as it lives: until its iterator is closed.)
        on_error: 'raise' stops at an example that cannot be read and names it. 'skip'
            takes the next readable one of the source instead (in evaluation, masks its
            row) and counts it.
        num_threads: per process; None: as many as there are cores for it, at most 16; 0
            loads a batch when it is asked for.
        num_workers: processes; 0 loads in this one, which is enough for photographs up
            to about 16 cores, because decoding releases Python's lock. Small images on a
            fast accelerator want processes, or threads and the loop wait for that lock.
        prefetch: batches that threads load ahead, per process; None: two per thread.

    Raises:
        ValueError: if the source is empty.
    """

    source: Any
    transforms: Sequence[Transform] = ()
    keys: Sequence[str] | None = None
    shuffle: bool = True
    cache: bool = False
    on_error: str = "raise"
    num_threads: int | None = None
    num_workers: int = 0
    prefetch: int | None = None
    _reader: Reader = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self):
        if self.on_error not in ("raise", "skip"):
            raise ValueError(
                f"on_error must be 'raise' or 'skip', not {self.on_error!r}"
            )
        if len(self.source) == 0:
            raise ValueError(f"the source {type(self.source).__name__} has no examples")
        source = Cached(self.source) if self.cache else self.source
        reader = Reader(source, tuple(self.transforms), self.keys)
        object.__setattr__(self, "_reader", reader)

    def __len__(self) -> int:
        return len(self.source)

    @property
    def features(self) -> Any:
        """What the source declares: field name -> feature, or None."""
        return getattr(self.source, "features", None)

    def element(self) -> dict[str, np.ndarray]:
        """The first example, transformed: the shapes and dtypes of a batch's rows."""
        return narrow(first_readable(self._reader))

    def train_batches(
        self,
        *,
        batch_size: int,
        seed: int,
        start_step: int = 0,
        shard: tuple[int, int] = (0, 1),
    ) -> "Batches":
        """Batches without end: those of steps start_step, start_step + 1, ...

        Args:
            batch_size: global.
            seed: of the order and the random draws, 0 <= seed < 2**64.
            start_step: the first step.
            shard: (i, n): this host's i-th of n equal, contiguous parts of each batch.

        Returns:
            An iterator; field -> array [batch_size / n, ...], in memory of its own.

        Raises:
            ValueError: if the parts cannot be equal, or the seed is out of range.
        """
        if not 0 <= seed < 2**64:
            raise ValueError(f"seed must lie in 0..2**64-1, not {seed}")
        size = _part_size(batch_size, shard)
        order = Order(len(self), seed if self.shuffle else None)
        loader = BatchLoader(
            self._reader, order, seed, size, skip=self.on_error == "skip"
        )
        index, count = shard
        return self._batches(loader, range(start_step * count + index, _FOREVER, count))

    def eval_batches(
        self, *, batch_size: int, shard: tuple[int, int] = (0, 1)
    ) -> "Batches":
        """Every example once, in order: ceil(len / batch_size) batches.

        Args and Raises: as for `train_batches`.

        Returns:
            An iterator like that of `train_batches`, with 'mask', bool [batch_size / n]:
            False for rows (of zeros) that are no example.
        """
        size = _part_size(batch_size, shard)
        order = Order(len(self), repeat=False)
        loader = BatchLoader(self._reader, order, 0, size, self.on_error == "skip")
        index, count = shard
        steps = -(-len(self) // batch_size)
        return self._batches(loader, range(index, steps * count, count))

    def _batches(self, loader: BatchLoader, numbers: range) -> "Batches":
        threads = self.num_threads
        if threads is None:
            threads = min(_cores() // max(1, self.num_workers), _MAX_THREADS)
            if threads == 1 and self.num_workers:
                threads = 0  # what a worker sends is taken ahead in any case
        prefetch = self.prefetch or 2 * threads
        if self.num_workers:
            return Batches(
                WorkerPool(loader, numbers, self.num_workers, threads, prefetch)
            )
        return Batches(load_ahead(loader, numbers, threads, prefetch))


class Batches(Iterator):
    """Batches in order; close it, or use it in a `with`, to stop its threads at once."""

    def __init__(self, parts: Any):
        self._parts = parts
        self._named: set[str] = set()
        self._skipped = 0

    @property
    def skipped(self) -> int:
        """Rows so far whose own example could not be read."""
        return self._skipped

    def __next__(self) -> dict[str, np.ndarray]:
        part = next(self._parts)
        self._skipped += len(part["skipped"])
        for reason in part["skipped"]:
            if reason not in self._named:
                self._named.add(reason)
                _log.warning("skipped %s", reason)
        return part["batch"]

    def close(self) -> None:
        """Stops threads and processes."""
        self._parts.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception) -> None:
        self.close()


def _part_size(batch_size: int, shard: tuple[int, int]) -> int:
    index, count = shard
    if not 0 <= index < count:
        raise ValueError(f"shard {index} of {count} does not exist")
    if batch_size <= 0 or batch_size % count:
        raise ValueError(
            f"batch size {batch_size} cannot be split into {count} equal parts; take a "
            f"multiple of {count}"
        )
    return batch_size // count


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
