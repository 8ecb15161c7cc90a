"""From positions to one batch: read, check, transform, stack.

A transform is any callable `transform(example, rng) -> example`. It raises ValueError on
data that it cannot read, and never writes into the arrays it was given.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from data.features import Image
from data.order import Order, position_rng

Example = dict[str, Any]
Transform = Callable[[Example, np.random.Generator], Example]

# After so many unreadable examples on end the data as a whole is broken.
_MAX_SUBSTITUTES = 1000
# What JAX would make of the host's wide types, done where overflow can still be seen.
_NARROW = {"int64": np.int32, "uint64": np.uint32, "float64": np.float32}


class UnreadableError(ValueError):
    """One example cannot be read; the text names it and the reason."""


class Cached:
    """A source whose examples, once read, stay in memory as they are stored.

    Every process has its own; nothing of it travels to worker processes.
    """

    def __init__(self, source: Any):
        self._source = source
        self._kept: list[Example | None] = [None] * len(source)
        self.features = getattr(source, "features", None)

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int) -> Example:
        example = self._kept[index]
        if example is None:
            example = self._kept[index] = self._source[index]
        return dict(example)

    def __getattr__(self, name: str) -> Any:
        if name == "describe":
            return self._source.describe
        raise AttributeError(name)

    def __reduce__(self):
        return Cached, (self._source,)


@dataclasses.dataclass(frozen=True)
class Reader:
    """Example i of a source, checked and transformed.

    Args:
        source: `len`, `[i]`, optionally `features` and `describe(i)`.
        transforms: applied in this order.
        keys: the fields to keep; None keeps all that are numbers.
    """

    source: Any
    transforms: Sequence[Transform] = ()
    keys: Sequence[str] | None = None

    def __call__(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """The fields that go into a batch.

        Raises:
            UnreadableError: if the source or a transform cannot read it.
            ValueError: if a field is not what the source declares.
            TypeError: if a picture is left encoded.
        """
        try:
            example = self.source[index]
        except (OSError, RuntimeError, ValueError) as error:
            raise UnreadableError(f"{self.name(index)}: {_line(error)}") from error
        features = getattr(self.source, "features", None) or {}
        for field, feature in features.items():
            if field not in example:
                raise ValueError(
                    f"{self.name(index)} has no field {field!r}, which is declared; it "
                    f"has: {', '.join(example)}"
                )
            try:
                feature.check(example[field])
            except ValueError as error:
                raise ValueError(f"{self.name(index)}: {field} {error}") from error
        try:
            for transform in self.transforms:
                example = transform(example, rng)
        except ValueError as error:
            raise UnreadableError(f"{self.name(index)}: {_line(error)}") from error
        return self._numbers(example, features, index)

    def name(self, index: int) -> str:
        """Names a record in an error."""
        describe = getattr(self.source, "describe", None)
        return describe(index) if describe else f"record {index}"

    def _numbers(
        self, example: Example, features: Mapping[str, Any], index: int
    ) -> dict[str, np.ndarray]:
        kept = {}
        for field in example if self.keys is None else self.keys:
            if field not in example:
                raise ValueError(
                    f"{self.name(index)} has no field {field!r} after the transforms; "
                    f"it has: {', '.join(example)}"
                )
            value = example[field]
            if isinstance(value, bytes) and isinstance(features.get(field), Image):
                raise TypeError(
                    f"{field!r} is still encoded after the transforms; add "
                    "dict(type='vision.transforms.Decode') to them"
                )
            array = np.asarray(value)
            if array.dtype.kind in "buif":
                kept[field] = array
            elif self.keys is not None:
                raise ValueError(
                    f"{self.name(index)}: field {field!r} is {array.dtype}, and only "
                    "numbers can go into a batch; take it out of keys"
                )
        if not kept:
            raise ValueError(f"{self.name(index)} has no field of numbers")
        return kept


@dataclasses.dataclass(frozen=True)
class BatchLoader:
    """Part number k of the global batches: the rows at positions k*size, k*size+1, ...

    Args:
        reader: of examples.
        order: position -> index.
        seed: of the random draws.
        size: rows in a part.
        skip: if an example cannot be read, take the next one of the source that can (if
            the order repeats; otherwise its row is masked). If False, raise.
    """

    reader: Reader
    order: Order
    seed: int
    size: int
    skip: bool = False

    def __call__(self, number: int) -> dict[str, Any]:
        """One part.

        Returns:
            'batch': field -> array [size, ...], in memory of its own, with 'mask', bool
            [size], if the order does not repeat; 'skipped': one line for each row whose
            own example could not be read.
        """
        start = number * self.size
        arrays: dict[str, np.ndarray] = {}
        mask = np.zeros(self.size, bool)
        skipped = []
        for row, index in enumerate(self.order(start, self.size)):
            if index is None:
                continue
            try:
                fields = self.reader(index, position_rng(self.seed, start + row))
            except UnreadableError as error:
                if not self.skip:
                    raise
                skipped.append(str(error))
                if not self.order.repeat:
                    continue
                fields = self._substitute(index, start + row)
            if not arrays:
                arrays = self._empty(fields)
            elif any(
                key not in fields or fields[key].shape != array.shape[1:]
                for key, array in arrays.items()
            ):
                self._fail_to_stack(fields, arrays, index)
            for key, array in arrays.items():
                array[row] = fields[key]
            mask[row] = True
        if not arrays:  # only padding: the shapes must come from somewhere
            arrays = self._empty(first_readable(self.reader))
        batch = {key: _narrowed(key, array) for key, array in arrays.items()}
        if not self.order.repeat:
            batch["mask"] = mask
        return {"batch": batch, "skipped": skipped}

    def _empty(self, fields: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        make = np.empty if self.order.repeat else np.zeros
        return {k: make((self.size, *v.shape), v.dtype) for k, v in fields.items()}

    def _substitute(self, index: int, position: int) -> dict[str, np.ndarray]:
        length = self.order.length
        for other in range(index + 1, index + min(length, _MAX_SUBSTITUTES)):
            try:
                return self.reader(other % length, position_rng(self.seed, position))
            except UnreadableError:
                continue
        raise ValueError(
            f"{self.reader.name(index)} and all of the "
            f"{min(length, _MAX_SUBSTITUTES) - 1} examples after it are unreadable"
        )

    def _fail_to_stack(
        self,
        fields: Mapping[str, np.ndarray],
        arrays: Mapping[str, np.ndarray],
        index: int,
    ) -> None:
        name = self.reader.name(index)
        for key, array in arrays.items():
            if key not in fields:
                raise ValueError(
                    f"{name} has no field {key!r}, but the batch's other examples do"
                )
            if fields[key].shape != array.shape[1:]:
                raise ValueError(
                    f"{name}: {key} has shape {list(fields[key].shape)}, the batch's "
                    f"other examples {list(array.shape[1:])}; add a Resize or a crop to "
                    "the transforms"
                )


def first_readable(reader: Reader) -> dict[str, np.ndarray]:
    """The first example that can be read, transformed with fixed draws.

    Raises:
        ValueError: if the first thousand cannot.
    """
    length = min(len(reader.source), _MAX_SUBSTITUTES)
    for index in range(length):
        try:
            return reader(index, position_rng(0, 0))
        except UnreadableError as error:
            reason = str(error)
    raise ValueError(f"none of the first {length} examples can be read: {reason}")


def narrow(fields: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """64-bit numbers as 32-bit ones, as JAX has them.

    Raises:
        ValueError: if an integer does not fit.
    """
    return {key: _narrowed(key, array) for key, array in fields.items()}


def _narrowed(key: str, array: np.ndarray) -> np.ndarray:
    dtype = _NARROW.get(array.dtype.name)
    if dtype is None:
        return array
    if array.dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if array.size and (array.min() < limits.min or array.max() > limits.max):
            raise ValueError(
                f"field {key!r} holds integers up to {array.max()}, which do not fit "
                f"{limits.dtype}; leave it out with the pipeline's keys"
            )
    return array.astype(dtype)


def _line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def load_ahead(
    loader: BatchLoader, numbers: range, num_threads: int, prefetch: int
) -> Any:
    """Iterates over parts in order; without threads, loads each when it is asked for.

    Args:
        num_threads: load different parts.
        prefetch: how many parts they are ahead at most.

    Returns:
        An iterator with a method `close`.
    """
    if num_threads == 0:
        return (loader(number) for number in numbers)
    import grain  # 1 s, for it imports JAX: workers of one thread do without

    dataset = grain.MapDataset.range(numbers.start, numbers.stop, numbers.step)
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=prefetch)
    return iter(dataset.map(loader).to_iter_dataset(options))
