"""How much simple classifiers make of a frozen representation: nearest neighbours, linear
ones, and those of a few examples per class.

A *head* is a callable `(train: Split, test: Split, num_classes: int) -> dict[str, float]`:
it learns from the training split alone, its own choices (k, strength of regularisation)
included, and measures on the test split. Features are extracted once for all heads.
"""

import contextlib
import dataclasses
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from training.errors import RunError
from training.evaluation import Report
from training.features import Features, extract

_CHUNK_VALUES = 2**24  # float32 numbers that are looked at together: 64 MiB


@dataclasses.dataclass(frozen=True)
class Split:
    """Features and classes of N examples.

    Args:
        features: float32 [N, D], finite; what a memory map can do, `shape` and slices, as
            it may be larger than memory.
        labels: int [N]; from 0.
    """

    features: Any
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def chunks(self, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Features [n, D] and labels [n] of all examples in order, n <= size at a time."""
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            yield self.features[part], self.labels[part]

    def select(self, rows: np.ndarray) -> "Split":
        """The examples `rows`, int [M], in that order; no features are copied."""
        return Split(_Rows(self.features, rows), self.labels[rows])

    def divide(self, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows to fit on and rows to choose by: two ascending int arrays.

        A function of the labels and the seed alone. The second has max(1, round(share * N))
        rows, at equal distances in a random order of the examples in which classes are
        contiguous: each class has its share, give or take one.

        Raises:
            RunError: nothing is left to fit on.
        """
        count = max(1, round(share * len(self)))
        if count >= len(self):
            raise RunError(
                f"validation takes {count} of {len(self)} training examples and leaves "
                "none; use more examples, or a single candidate"
            )
        order = np.random.default_rng(seed).permutation(len(self))
        order = order[np.argsort(self.labels[order], kind="stable")]
        chosen = np.zeros(len(self), bool)
        chosen[order[((np.arange(count) + 0.5) * len(self) / count).astype(int)]] = True
        return np.flatnonzero(~chosen), np.flatnonzero(chosen)


class _Rows:
    """Rows of an array, read when they are asked for: a memory map stays on disk."""

    def __init__(self, array: Any, rows: np.ndarray):
        self._array, self._rows = array, rows
        self.shape = (len(rows), *array.shape[1:])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> np.ndarray:
        return self._array[self._rows[index]]


Head = Callable[[Split, Split, int], dict[str, float]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Representation:
    """Heads on the features of two splits; metrics are `<head>_<metric>`.

    Args:
        train: a pipeline with `eval_batches` that heads learn from; best without
            augmentation.
        test: the one that is measured on.
        heads: name -> head.
        layer: None takes the model's `represent`; the path of a module takes its output
            [B, ..., D], averaged over the axes between (see `Task.represent`).
        label_key: the field with one class per example.
        batch_size: examples a step; None takes the training batch size.
        spill: a folder, made if there is none, to hold features instead of memory while
            this runs.
        train_limit: learn from the first so many examples; of a source sorted by class
            these are the first classes. None takes all.
    """

    train: Any
    test: Any
    heads: Mapping[str, Head]
    layer: str | None = None
    label_key: str = "label"
    batch_size: int | None = None
    spill: str | None = None
    train_limit: int | None = None

    def __post_init__(self):
        if not self.heads:
            raise ValueError("heads is empty; name at least one")
        for name in ("batch_size", "train_limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be positive, or None")

    def __call__(self, run: Any, state: Any) -> Report:
        """Extracts, learns, measures.

        Raises:
            RunError: in one line, for labels or features that no head can learn from, and
                what a head refuses.
        """
        with self._folder() as folder:
            train, lost = self._split(run, state, "train", folder)
            test, lost_too = self._split(run, state, "test", folder)
            num_classes = int(max(train.labels.max(), test.labels.max())) + 1
            metrics = {
                f"{name}_{metric}": float(value)
                for name, head in self.heads.items()
                for metric, value in head(train, test, num_classes).items()
            }
        return Report(metrics, skipped=lost + lost_too)

    def _folder(self) -> Any:
        """A context manager: a temporary folder, or None to stay in memory."""
        if self.spill is None:
            return contextlib.nullcontext()
        parent = pathlib.Path(self.spill).expanduser()
        try:
            parent.mkdir(parents=True, exist_ok=True)
            return tempfile.TemporaryDirectory(prefix="features-", dir=parent)
        except OSError as error:
            raise RunError(
                f"spill folder {str(parent)!r} cannot be written: {error.strerror}; "
                "name another, or None to stay in memory"
            ) from error

    def _split(
        self, run: Any, state: Any, name: str, folder: str | None
    ) -> tuple[Split, int]:
        """A split and how many of its examples could not be read."""
        data = getattr(self, name)
        limit = self.train_limit if name == "train" else None
        file = None if folder is None else pathlib.Path(folder) / f"{name}.npy"
        found = extract(
            run,
            state,
            data,
            layer=self.layer,
            keys=(self.label_key,),
            batch_size=self.batch_size,
            limit=limit,
            file=file,
        )
        lost = min(len(data), limit or len(data)) - len(found)
        labels = self._labels(found, name)
        features = _averaged(found.values, file)
        _check_finite(features, name)
        return Split(features, labels), lost

    def _labels(self, found: Features, name: str) -> np.ndarray:
        """int64 [N], checked."""
        key, labels = self.label_key, found.fields[self.label_key]
        if not len(found):
            raise RunError(
                f"no example of the {name} split could be read; look at its source"
            )
        if labels.ndim != 1 or labels.dtype.kind not in "iu":
            raise RunError(
                f"{key!r} of the {name} split is {labels.dtype} of shape {labels.shape}; "
                "heads need one integer class per example: set label_key to such a field"
            )
        if labels.min() < 0:
            raise RunError(
                f"{key!r} of the {name} split has the class {labels.min()}; classes count "
                "from 0: leave examples without a class out of the source"
            )
        return labels.astype(np.int64)


def _averaged(values: np.ndarray, file: pathlib.Path | None) -> np.ndarray:
    """[N, ..., D] averaged over the axes between: float32 [N, D]."""
    if values.ndim == 2:
        return values
    if values.ndim < 2:
        raise RunError(
            f"the layer gives {values.shape[1:]} numbers per example; name one that gives "
            "a vector, a sequence or a map"
        )
    shape = (len(values), values.shape[-1])
    if file is None:
        pooled = np.empty(shape, np.float32)
    else:
        pooled = np.lib.format.open_memmap(
            file.with_suffix(".pooled.npy"), "w+", np.float32, shape
        )
    between = tuple(range(1, values.ndim - 1))
    for rows in _slices(values):
        pooled[rows] = values[rows].mean(between)
    if file is not None:
        file.unlink()
    return pooled


def _check_finite(values: np.ndarray, name: str) -> None:
    bad = np.concatenate(
        [
            rows.start + np.flatnonzero(~np.isfinite(values[rows]).all(1))
            for rows in _slices(values)
        ]
    )
    if bad.size:
        raise RunError(
            f"features of {bad.size} of {len(values)} {name} examples are not finite, the "
            f"first those of example {bad[0]}; lower the learning rate if the model "
            "diverged, or compute it in float32 (model.dtype)"
        )


def _slices(values: np.ndarray) -> Iterator[slice]:
    """The rows of `values`, as many at a time as are cheap to hold."""
    size = max(1, _CHUNK_VALUES // max(1, int(np.prod(values.shape[1:]))))
    for start in range(0, len(values), size):
        yield slice(start, min(start + size, len(values)))
