"""Starting from another run: which of its arrays are taken, and which stay fresh.

    init_from = dict(
        type="training.initialization.FromRun",
        path="runs/mae_cifar10",
        rules=(("^(backbone/)?", ""),),
        fresh=("^head/",),
    )

`path` is a run's folder, also one that `python -m training.import_weights` made of a
published file. Every array of the new model is either found there or named by `fresh`;
what the other run has beyond that is skipped. A table says what became of each.
"""

import collections
import dataclasses
import math
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from rich.table import Table

from training import artifacts, checkpoint, parameters, tables
from training import config as configs
from training.errors import RunError, first_line
from training.run import Run

Adapter = Callable[[str, np.ndarray, tuple[int, ...]], np.ndarray | None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FromRun:
    """Takes parameters and statistics from another run.

    Args:
        path: its folder.
        step: of the checkpoint, or 'last'.
        rules: (pattern, replacement) pairs. The first pattern that is found (`re.search`)
            in an array's path there gives, by `re.sub`, its path here; what none is found
            in is skipped. The default takes everything by its own name.
        fresh: patterns of arrays here that keep their initial values: a new head.
        adapters: `adapter(path, array, shape)` returns the array in another shape, or
            None if it is not about this path: `layers.positions.ResizePositions` say.
            Asked in turn for arrays whose shapes differ; without one they are refused.
        ema: take the moving average of the parameters where the run kept one.
        other_tokenizer: the run may have been trained with another tokenizer, because its
            embeddings are not taken, say.
    """

    path: str
    step: int | str = "last"
    rules: tuple[tuple[str, str], ...] = (("^", ""),)
    fresh: tuple[str, ...] = ()
    adapters: tuple[Adapter, ...] = ()
    ema: bool = True
    other_tokenizer: bool = False

    def __post_init__(self):
        for pattern, replacement in [*self.rules, *((p, "") for p in self.fresh)]:
            try:
                re.sub(pattern, replacement, "")
            except re.error as error:
                raise ValueError(
                    f"pattern {pattern!r} and replacement {replacement!r}: {error}"
                ) from None

    def __call__(self, run: Run, state: Any) -> tuple[Any, Table]:
        """The state of a new run with what the other one has to give.

        Returns:
            (state, a table of what was loaded, skipped and left fresh).

        Raises:
            RunError: in one line: no such run; a rule that matches nothing; arrays that
                are missing there, or of another shape; another tokenizer.
        """
        if not self.other_tokenizer:
            self._check_tokenizer(run)
        step, source = read_arrays(pathlib.Path(self.path), self.step, ema=self.ema)
        target = flatten(state)
        self._check_patterns(source, target)
        taken, skipped = self._assign(source, target)
        missing = [
            path
            for path in target
            if path not in taken and not parameters.match(self.fresh, path[1])
        ]
        if missing:
            raise RunError(
                f"init_from: {self.path} has nothing for {_listed(missing)} of this model; "
                "is it of another architecture? (rules rename, fresh leaves out)"
            )
        values = self._adapted(taken, source, target)
        table = self._table(step, taken, skipped, source, target)
        return _replace(run, state, values), table

    def _check_tokenizer(self, run: Run) -> None:
        folder = pathlib.Path(self.path)
        here = artifacts.fingerprints(run.config)
        if not here or not (folder / "config.json").is_file():
            return
        there = artifacts.fingerprints(configs.read(folder), folder)
        if there and not here <= there:
            raise RunError(
                f"init_from: {self.path} was trained with tokenizer "
                f"{', '.join(sorted(there))} and this run has {', '.join(sorted(here))}; "
                "take that run's, by dict(type='nlp.tokenizers.FromRun', "
                f"path={self.path!r}), or set init_from.other_tokenizer=True"
            )

    def _check_patterns(self, source: Mapping, target: Mapping) -> None:
        for kind, patterns, paths in (
            ("rules", [pattern for pattern, _ in self.rules], source),
            ("fresh", self.fresh, target),
        ):
            for pattern in patterns:
                if not any(re.search(pattern, path) for _, path in paths):
                    where = f"in {self.path}" if kind == "rules" else "of this model"
                    example = next(iter(paths))[1]
                    raise RunError(
                        f"init_from.{kind}: {pattern!r} matches no array {where}, where "
                        f"paths look like {example!r}"
                    )

    def _assign(self, source: Mapping, target: Mapping) -> tuple[dict, list]:
        """({path here: path there}, paths there that are not taken)."""
        taken, skipped = {}, []
        for kind, path in source:
            new = kind, self._renamed(path)
            fresh = new[1] is None or parameters.match(self.fresh, new[1])
            if fresh or new not in target:
                skipped.append((kind, path))
            elif new in taken:
                raise RunError(
                    f"init_from.rules: {taken[new][1]!r} and {path!r} of {self.path} both "
                    f"become {new[1]!r}"
                )
            else:
                taken[new] = kind, path
        return taken, skipped

    def _renamed(self, path: str) -> str | None:
        for pattern, replacement in self.rules:
            if re.search(pattern, path):
                return re.sub(pattern, replacement, path, count=1)
        return None

    def _adapted(self, taken: Mapping, source: Mapping, target: Mapping) -> dict:
        values, wrong = {}, []
        for new, old in taken.items():
            value, shape = source[old], tuple(target[new].shape)
            if value.shape != shape:
                try:
                    value = self._adapt(new[1], value, shape)
                except ValueError as error:
                    raise RunError(
                        f"init_from: {new[1]}: {first_line(error)}"
                    ) from error
            if value is None or value.shape != shape:
                wrong.append(
                    f"{new[1]} is {source[old].shape} there and {shape} in this model"
                )
            else:
                values[new] = value.astype(target[new].dtype)
        if wrong:
            more = f" ({len(wrong)} such)" if len(wrong) > 1 else ""
            raise RunError(
                f"init_from: {self.path} is of another size: {wrong[0]}{more}; change this "
                "model, or name it in init_from.fresh or an adapter"
            )
        return values

    def _adapt(self, path: str, value: np.ndarray, shape: tuple) -> np.ndarray | None:
        for adapter in self.adapters:
            changed = adapter(path, value, shape)
            if changed is not None:
                return np.asarray(changed)
        return None

    def _table(self, step, taken, skipped, source, target) -> Table:
        rows = [
            (
                "loaded" if source[old].shape == target[new].shape else "resized",
                *new,
                old[1],
                target[new],
            )
            for new, old in taken.items()
        ]
        fresh = {new: x for new, x in target.items() if new not in taken}
        rows += [("fresh", *new, "", x) for new, x in fresh.items()]
        rows += [("skipped", k, "", p, source[k, p]) for k, p in skipped]
        return tables.table(
            f"initial values from {self.path}, step {step}",
            ("", "here", "there", "arrays", "numbers"),
            _grouped(rows),
        )


def read_arrays(
    workdir: pathlib.Path, step: int | str = "last", *, ema: bool = True
) -> tuple[int, dict[tuple[str, str], np.ndarray]]:
    """Parameters and statistics of a run's checkpoint, without its optimizer.

    Args:
        workdir: the run's folder; nothing is written to it.
        step: a number, or 'last'.
        ema: take the moving average of the parameters if there is one.

    Returns:
        (step, {(collection, path): array}), the collection 'params' or 'batch_stats' say.

    Raises:
        RunError: no such run or checkpoint, or it is damaged.
    """
    if workdir.is_file():
        raise RunError(
            f"init_from: {workdir} is a file; make a run of it first: python -m "
            f"training.import_weights --config=... --weights={workdir} --workdir=..."
        )
    folder = workdir.absolute() / checkpoint.FOLDER
    if not folder.is_dir():
        raise RunError(
            f"init_from: {workdir} is no run with checkpoints; train it first, or give "
            "the path of one that is"
        )
    checkpointer = checkpoint.Checkpointer(workdir, read_only=True)
    steps = checkpointer.steps()
    checkpointer.close()
    chosen = max(steps, default=None) if step == "last" else step
    if chosen not in steps:
        raise RunError(
            f"init_from: no checkpoint of step {step} in {folder}, only {steps}"
        )
    found = _restore(folder, chosen)
    averages = found.pop("ema")
    params = averages if ema and averages else found["params"]
    parts = {"params": params, **(found["collections"] or {})}
    return chosen, {
        (kind, path): np.asarray(leaf)
        for kind, tree in parts.items()
        for path, leaf in parameters.leaves_with_paths(tree)
    }


def _restore(folder: pathlib.Path, step: int) -> dict[str, Any]:
    """params, ema and collections as trees of numpy arrays, checked by fingerprint."""
    manager = ocp.CheckpointManager(
        folder,
        options=ocp.CheckpointManagerOptions(read_only=True),
        item_handlers={
            "state": ocp.PyTreeCheckpointHandler(),
            "extra": ocp.JsonCheckpointHandler(),
        },
    )
    try:
        saved = manager.item_metadata(step)["state"]
        saved = saved.tree if hasattr(saved, "tree") else saved
        wanted = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype),
            {name: saved[name] for name in ("params", "ema", "collections")},
            is_leaf=lambda x: hasattr(x, "shape"),
        )
        as_numpy = ocp.RestoreArgs(restore_type=np.ndarray)
        found = manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeRestore(
                    item=wanted,
                    restore_args=jax.tree.map(lambda _: as_numpy, wanted),
                    partial_restore=True,
                ),
                extra=ocp.args.JsonRestore(),
            ),
        )
        state, expected = dict(found["state"]), found["extra"]["fingerprint"]
        sums, _ = jax.jit(checkpoint.fingerprint)(state)
        wrong = [name for name, value in sums.items() if int(value) != expected[name]]
    except Exception as error:
        raise RunError(
            f"init_from: checkpoint {step} in {folder} is damaged "
            f"({first_line(error)[:120]}); choose another with init_from.step"
        ) from error
    finally:
        manager.close()
    if wrong:
        raise RunError(
            f"init_from: checkpoint {step} in {folder} is damaged (contents of "
            f"{', '.join(wrong[:3])} differ from what was saved); choose another with "
            "init_from.step"
        )
    return state


def flatten(state: Any) -> dict[tuple[str, str], Any]:
    """{(collection, path): leaf} of a state's parameters and other collections."""
    parts = {"params": state.params, **state.collections}
    return {
        (kind, path): leaf
        for kind, tree in parts.items()
        for path, leaf in parameters.leaves_with_paths(tree)
    }


def _replace(run: Run, state: Any, values: Mapping[tuple[str, str], np.ndarray]) -> Any:
    """The state with these arrays, in its sharding, and an optimizer that starts there."""

    def filled(kind: str, tree: Any) -> Any:
        def leaf(path: str, old: jax.Array) -> jax.Array:
            value = values.get((kind, path))
            if value is None:
                return old
            return jax.make_array_from_callback(
                old.shape, old.sharding, lambda index: value[index]
            )

        return parameters.map_with_paths(leaf, tree)

    params = filled("params", state.params)
    opt_state = jax.jit(
        run.experiment.optimizer.init, out_shardings=run.shardings.opt_state
    )(params)
    return dataclasses.replace(
        state,
        params=params,
        collections={k: filled(k, tree) for k, tree in state.collections.items()},
        opt_state=opt_state,
        # A copy: two names for one buffer could not both be donated.
        ema=None if state.ema is None else jax.tree.map(jax.numpy.copy, params),
    )


def _grouped(rows: Sequence[tuple]) -> list[tuple[str, ...]]:
    """Rows of one outcome and module as one: (outcome, here, there, arrays, numbers)."""

    def module(kind: str, path: str) -> str:
        names = [re.sub(r"_\d+$", "_*", name) for name in path.split("/")]
        name = "/".join(names[:3])
        return f"{kind}: {name}" if path and kind != "params" else name

    groups = collections.defaultdict(list)
    for outcome, kind, here, there, leaf in rows:
        groups[outcome, module(kind, here), module(kind, there)].append(leaf)
    return [
        (*key, str(len(leaves)), f"{sum(math.prod(x.shape) for x in leaves):,}")
        for key, leaves in groups.items()
    ]


def _listed(paths: Sequence[tuple[str, str]], most: int = 3) -> str:
    names = ", ".join(path for _, path in paths[:most])
    return names + (f" and {len(paths) - most} more" if len(paths) > most else "")
