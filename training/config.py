"""A config is a tree of calls: `build` turns it into objects.

A node is a dict with a `type`, the dotted path of a callable; its other keys are the
keyword arguments, built first; lists become tuples. The run itself is such a node, of
type `Experiment`, whose fields are the top-level keys: constructor signatures are the
only place where defaults live.
"""

import dataclasses
import difflib
import importlib
import importlib.util
import inspect
import json
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from training import errors, sharding


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """A run. Batch sizes are global; durations are steps of the optimizer.

    Args:
        task: the objective, a `training.task.Task`, which holds the model.
        optimizer: an `optax.GradientTransformation`; see `training.optimizer`.
        data: a pipeline with `train_batches`, such as `data.pipeline.Pipeline`.
        batch_size: examples a step.
        total_steps: where the run ends.
        seed: everything random derives from it and the step.
        init_from: where the first values come from, a `training.initialization.FromRun`;
            None draws them all. Read only when the run starts, not when it is resumed.
        evals: evaluators by name; their metrics are `name/metric`.
        eval_steps: evaluate every so many steps, and at the end; 0 only at the end.
        accumulation_steps: micro-batches a step is split into, to save memory.
        ema_decay: keep an exponential moving average of the parameters, and evaluate it.
        update: dotted path of the update function, `training.step.train_step`'s peer.
        mesh: devices per axis out of 'data', 'fsdp' and 'model'; one may be -1, the rest.
        partition_rules: (pattern, axes) pairs for tensor parallelism, see
            `training.sharding`.
        log_steps: metrics are averaged over, and written every, so many steps.
        checkpoint_steps: save every so many steps, and at the end; 0 only at the end.
        keep: how many of the newest checkpoints stay.
        best_metric: also keep the checkpoint that is best by this, 'eval/accuracy' say.
        best_mode: 'max' or 'min'.
        compiler_options: XLA options of the update that replace the backend's own, see
            `training.compilation`.
        matmul_precision: 'default', 'high' or 'highest'; None leaves it to JAX.
    """

    task: Any
    optimizer: Any
    data: Any
    batch_size: int
    total_steps: int
    seed: int = 0
    init_from: Any = None
    evals: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    eval_steps: int = 0
    accumulation_steps: int = 1
    ema_decay: float | None = None
    update: str = "training.step.train_step"
    mesh: Mapping[str, int] = dataclasses.field(default_factory=lambda: {"data": -1})
    partition_rules: tuple = sharding.TRANSFORMER_RULES
    log_steps: int = 100
    checkpoint_steps: int = 1000
    keep: int = 2
    best_metric: str | None = None
    best_mode: str = "max"
    compiler_options: Mapping[str, Any] | None = None
    matmul_precision: str | None = None

    def __post_init__(self):
        for name in ("batch_size", "total_steps", "accumulation_steps", "log_steps"):
            _require(self, name, minimum=1)
        for name in ("eval_steps", "checkpoint_steps", "keep"):
            _require(self, name, minimum=1 if name == "keep" else 0)
        if self.batch_size % self.accumulation_steps:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of accumulation_steps "
                f"{self.accumulation_steps}"
            )
        if self.init_from is not None and not callable(self.init_from):
            raise ValueError(
                f"init_from is {self.init_from!r}; it must be a node of type "
                "'training.initialization.FromRun', whose path names the run"
            )
        if self.best_mode not in ("max", "min"):
            raise ValueError(f"best_mode {self.best_mode!r} is neither 'max' nor 'min'")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay {self.ema_decay} is not between 0 and 1")


def _require(experiment: Experiment, name: str, minimum: int) -> None:
    value = getattr(experiment, name)
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ValueError(f"{name} is {value!r}; it must be an integer >= {minimum}")


# What may change when a run is continued in its workdir: nothing that moves a number.
RESUMABLE = re.compile(
    r"^(total_steps|mesh|partition_rules|evals|eval_steps|log_steps|checkpoint_steps|keep"
    r"|best_metric|best_mode|compiler_options)\b|\b(num_threads|num_workers|cache): "
)


def build(node: Any, path: str = "config") -> Any:
    """Builds a config: nodes become what they call, lists become tuples.

    Args:
        node: JSON-like data.
        path: where the node stands, for messages.

    Raises:
        ConfigError: an unknown `type`, an unknown or missing argument, or a value that
            the callable refuses; names the place and, for typing errors, the nearest
            match.
    """
    if isinstance(node, list | tuple):
        return tuple(build(item, f"{path}[{i}]") for i, item in enumerate(node))
    if not isinstance(node, Mapping):
        return node
    arguments = {k: build(v, f"{path}.{k}") for k, v in node.items() if k != "type"}
    if "type" not in node:
        return arguments
    return call(resolve(node["type"], path), arguments, path, node["type"])


def call(function: Callable, arguments: Mapping[str, Any], path: str, name: str) -> Any:
    """Calls `function`; wrong arguments become one line that names `path`."""
    _check_arguments(function, arguments, path, name)
    try:
        return function(**arguments)
    except errors.RunError:
        raise
    except (TypeError, ValueError, OSError) as error:
        raise errors.ConfigError(f"{path}: {errors.first_line(error)}") from error


def resolve(name: Any, path: str = "config") -> Callable:
    """The callable at a dotted path, 'optax.lion' say.

    Raises:
        ConfigError: nothing is there; names the nearest match.
    """
    if not isinstance(name, str) or "." not in name:
        raise errors.ConfigError(
            f"{path}: type {name!r} is not a dotted path such as 'optax.adamw'"
        )
    parts = name.split(".")
    for split in range(len(parts) - 1, 0, -1):
        module_name = ".".join(parts[:split])
        try:
            found = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name and module_name.startswith(error.name):
                continue
            raise
        for i, part in enumerate(parts[split:]):
            if not hasattr(found, part):
                near = _nearest(part, [n for n in dir(found) if n[0] != "_"])
                where = ".".join(parts[: split + i])
                raise errors.ConfigError(
                    f"{path}: unknown type {name!r}: {where} has no {part!r}{near}"
                )
            found = getattr(found, part)
        if not callable(found):
            raise errors.ConfigError(f"{path}: type {name!r} is not callable")
        return found
    raise errors.ConfigError(f"{path}: unknown type {name!r}: no module {parts[0]!r}")


def _check_arguments(
    function: Callable, arguments: Mapping[str, Any], path: str, name: str
) -> None:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # a few builtins have no signature
        return
    kinds = {p.kind for p in parameters.values()}
    # Linen adds `parent` and `name` to every module; neither belongs in a config.
    named = [n for n in parameters if n not in ("parent", "name")] + ["name"] * (
        "name" in parameters and "parent" not in parameters
    )
    if inspect.Parameter.VAR_KEYWORD not in kinds:
        for key in arguments:
            if key not in named:
                raise errors.ConfigError(
                    f"{path}: {name} has no argument {key!r}{_nearest(key, named)}"
                )
    for key, parameter in parameters.items():
        plain = parameter.kind not in (
            inspect.Parameter.VAR_KEYWORD,
            inspect.Parameter.VAR_POSITIONAL,
        )
        if plain and parameter.default is parameter.empty and key not in arguments:
            raise errors.ConfigError(f"{path}: {name} needs {key!r}")


def _nearest(word: str, candidates: list[str]) -> str:
    close = difflib.get_close_matches(word, candidates, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    if len(candidates) <= 24:
        return f"; it has {', '.join(sorted(candidates))}"
    return ""


def experiment(config: Mapping[str, Any]) -> Experiment:
    """Builds the run that a whole config describes."""
    arguments = {key: build(value, key) for key, value in config.items()}
    return call(Experiment, arguments, "config", "config")


def plain(config: Any) -> Any:
    """The config as JSON-like data: references resolved, tuples as lists.

    Accepts an `ml_collections.ConfigDict`.

    Raises:
        ConfigError: a value that JSON cannot hold.
    """
    if hasattr(config, "to_dict"):
        config = config.to_dict()
    try:
        return json.loads(json.dumps(config, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise errors.ConfigError(
            f"a config holds plain data only: {errors.first_line(error)}"
        ) from error


def load(argument: str, changes: Sequence[tuple[str, Any]] = ()) -> dict[str, Any]:
    """The plain config that 'FILE.py' or 'FILE.py:argument' stands for.

    Args:
        changes: (dotted path, value) pairs, made before references are resolved: what
            follows `total_steps` follows its new value, as with `--config.total_steps`.

    Raises:
        ConfigError: there is no such file, it refuses the argument, or there is no place
            of a change's name.
    """
    name, _, rest = argument.partition(":")
    root = pathlib.Path(__file__).resolve().parent.parent
    path = next((p for p in (pathlib.Path(name), root / name) if p.is_file()), None)
    if path is None:
        raise errors.ConfigError(f"no config {name!r}; write configs/NAME.py")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config(*([rest] if rest else []))
    except Exception as error:  # a config file may raise anything
        raise errors.ConfigError(f"{argument}: {errors.first_line(error)}") from error
    for place, value in changes:
        _change(config, place, value)
    return plain(config)


def _change(config: Any, place: str, value: Any) -> None:
    *parents, last = place.split(".")
    node = config
    for name in parents:
        if not isinstance(node, Mapping) and not hasattr(node, "to_dict"):
            node = {}
        if name not in node:
            raise errors.ConfigError(
                f"changes: the config has no {place!r}; it ends at {name!r}"
            )
        node = node[name]
    if not hasattr(node, "to_dict"):
        node[last] = value
        return
    with node.unlocked(), node.ignore_type():
        node[last] = value


def write(config: Mapping[str, Any], workdir: pathlib.Path) -> None:
    """Writes `config.json` in one motion."""
    target = workdir / "config.json"
    temporary = target.with_suffix(".tmp")
    temporary.write_text(json.dumps(config, indent=2) + "\n")
    temporary.replace(target)


def read(workdir: pathlib.Path) -> dict[str, Any]:
    """Reads a run's config.

    Raises:
        ConfigError: there is none, or it is not JSON.
    """
    path = workdir / "config.json"
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise errors.ConfigError(
            f"{workdir} is not a run: it has no config.json"
        ) from error
    except ValueError as error:
        raise errors.ConfigError(
            f"{path} is not JSON: {errors.first_line(error)}"
        ) from error


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Where two configs differ, one 'path: old -> new' each."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = sorted(old.keys() | new.keys())
        missing = "(none)"
        return [
            line
            for key in keys
            for line in differences(
                old.get(key, missing), new.get(key, missing), f"{path}.{key}".strip(".")
            )
        ]
    return [] if old == new else [f"{path}: {old!r} -> {new!r}"]
