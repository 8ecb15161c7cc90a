"""What a trained model makes of every example of a split, as arrays on the host.

Probes, nearest neighbours, exports and pictures of a representation start here.
"""

import copy
import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from training import config as configs
from training import evaluation
from training.errors import RunError, first_line
from training.run import Run

# Fields of examples with at most so many numbers go along with their features.
_SMALL = 16


@dataclasses.dataclass(frozen=True)
class Features:
    """The features of N examples, in the order of the split.

    Args:
        values: float32 [N, D], or [N, ...] of a layer; perhaps a memory map.
        fields: what was kept of the examples: name -> [N, ...]; labels say.
    """

    values: np.ndarray
    fields: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.values)


def extract(
    run: Run,
    state: Any,
    data: Any,
    *,
    layer: str | None = None,
    keys: Sequence[str] = (),
    batch_size: int | None = None,
    limit: int | None = None,
    file: pathlib.Path | None = None,
) -> Features:
    """Computes the features of a split; every process gets all of them.

    Args:
        run: the model's run.
        state: its `TrainState`; the moving average counts where there is one.
        data: a pipeline with `eval_batches`.
        layer: see `Task.represent`.
        keys: fields of the batches to keep.
        batch_size: examples a step; None takes the training batch size.
        limit: stop after so many examples.
        file: an .npy file to hold the values instead of memory.

    Raises:
        RunError: an unknown layer or field, or unreadable data.
    """
    keys = tuple(keys)

    def represent(state, batch, *, task):
        values = task.represent(
            state.eval_params, state.collections, batch, layer=layer
        )
        return values.astype("float32"), {k: batch[k] for k in keys}, batch["mask"]

    step = run.compile(represent, key=("features", layer, keys))
    store = _Store(min(len(data), limit or len(data)), file)
    size = batch_size or run.experiment.batch_size
    pending = None
    with evaluation.Batches(data, run, size) as batches:
        for batch in batches:
            _check_keys(keys, batch)
            found = _call(step, state, batch)
            store.add(pending)  # read one step behind the device
            pending = found
            if store.coming(pending) >= store.length:
                break
    store.add(pending)
    return store.features()


class _Store:
    """Rows of several batches, one after the other, without those of the padding."""

    def __init__(self, length: int, file: pathlib.Path | None):
        self.length = length
        self._file, self._filled = file, 0
        self._values, self._fields = None, {}

    def coming(self, found: Any) -> int:
        """Rows there will be with a batch that is still on the device, at most."""
        return self._filled + found[0].shape[0]

    def add(self, found: Any) -> None:
        if found is None:
            return
        values, fields, mask = jax.device_get(found)
        values = values[mask][: self.length - self._filled]
        if self._values is None:
            self._values = self._allocate(values)
            self._fields = {
                k: np.empty((self.length, *v.shape[1:]), v.dtype)
                for k, v in fields.items()
            }
        rows = slice(self._filled, self._filled + len(values))
        self._values[rows] = values
        for name, value in fields.items():
            self._fields[name][rows] = value[mask][: len(values)]
        self._filled = rows.stop

    def _allocate(self, values: np.ndarray) -> np.ndarray:
        shape = (self.length, *values.shape[1:])
        if self._file is None:
            return np.empty(shape, np.float32)
        return np.lib.format.open_memmap(self._file, "w+", np.float32, shape)

    def features(self) -> Features:
        fields = {k: v[: self._filled] for k, v in self._fields.items()}
        return Features(self._values[: self._filled], fields)


def _check_keys(keys: Sequence[str], batch: Any) -> None:
    for key in keys:
        if key not in batch:
            raise RunError(
                f"the batch has no {key!r}; it has {', '.join(sorted(batch))}"
            )


def _call(step: Any, state: Any, batch: Any) -> Any:
    try:
        return step(state, batch)
    except ValueError as error:  # raised while tracing: an unknown layer
        raise RunError(first_line(error)) from error


def export(
    workdir: pathlib.Path,
    file: pathlib.Path,
    *,
    step: int | str = "last",
    split: str | None = None,
    layer: str | None = None,
    evals: Sequence[str] | None = None,
    evals_from: str | None = None,
) -> Features:
    """Writes the features of a run's examples as `.npz`: `features` and small fields.

    The examples are those of the first evaluator that has `data`, through its transforms.

    Args:
        workdir: the run's folder.
        file: the file to write.
        step: of the checkpoint: a number, 'last' or 'best'.
        split: another split of the same source, 'train[:10%]' say.
        layer: see `Task.represent`.
        evals: the evaluator whose data to take, if not the first.
        evals_from: 'FILE.py[:argument]' of a config whose evaluators to take.

    Raises:
        RunError: no such run, evaluator, split or layer.
    """
    config = evaluation.read_config(workdir, evals_from)
    node = _data_node(config["evals"], evals)
    if split is not None:
        _set_split(node, split)
    run = Run.from_config(config)
    restored = evaluation.restore(workdir, run, step)
    data = configs.build(node, "data")
    shapes = {k: np.asarray(v) for k, v in data.element().items()}
    keys = [k for k, v in shapes.items() if v.size <= _SMALL and k != "mask"]
    found = extract(run, restored.state, data, layer=layer, keys=keys)
    if jax.process_index() == 0:
        try:
            with file.open("wb") as stream:
                np.savez(stream, features=found.values, **found.fields)
        except OSError as error:
            raise RunError(f"cannot write {file}: {first_line(error)}") from error
    return found


def _data_node(evals: Mapping[str, Any], names: Sequence[str] | None) -> dict[str, Any]:
    for name in names or evals:
        if name not in evals:
            raise RunError(f"no evaluator {name!r}; this run has {', '.join(evals)}")
        if "data" in evals[name]:
            return copy.deepcopy(evals[name]["data"])
    raise RunError("no evaluator of this run has data; name others with --evals_from")


def _set_split(node: dict[str, Any], split: str) -> None:
    source = node.get("source", {})
    while "split" not in source and "source" in source:
        source = source["source"]
    if "split" not in source:
        raise RunError(
            f"--split={split}: the source {source.get('type')} has no split; name a config "
            "with other data by --evals_from"
        )
    source["split"] = split
