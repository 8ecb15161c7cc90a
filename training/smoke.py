"""Any config without its dataset: the same model, objective and transforms on synthetic
examples of the same spec. For `--smoke`, `--plan` and the tests of configs."""

from collections.abc import Mapping
from typing import Any

import jax

from training.config import Experiment, resolve
from training.errors import ConfigError, first_line


def synthetic(node: Any, path: str = "config") -> Any:
    """The config with every data source replaced by its synthetic counterpart.

    A source is a node whose type has a `synthetic_node(arguments) -> node`.

    Raises:
        ConfigError: a source does not say what its examples look like.
    """
    if isinstance(node, list | tuple):
        return [synthetic(item, f"{path}[{i}]") for i, item in enumerate(node)]
    if not isinstance(node, Mapping):
        return node
    if "type" in node:
        source = resolve(node["type"], path)
        if hasattr(source, "synthetic_node"):
            arguments = {key: value for key, value in node.items() if key != "type"}
            try:
                return source.synthetic_node(arguments)
            except (ValueError, TypeError) as error:
                raise ConfigError(f"{path}: {first_line(error)}") from error
    return {key: synthetic(value, f"{path}.{key}") for key, value in node.items()}


def shrink(config: Mapping[str, Any]) -> dict[str, Any]:
    """A smoke run of a plain config: synthetic data, two steps, one evaluation, the
    smallest batch that splits over this machine's devices, and no other run to start from.
    """
    config = dict(synthetic(config))
    accumulation = Experiment.__dataclass_fields__["accumulation_steps"].default
    unit = jax.device_count() * config.get("accumulation_steps", accumulation)
    batch_size = unit * -(-2 // unit)
    evals = {
        name: {**node, "batch_size": batch_size} if "batch_size" in node else node
        for name, node in config.get("evals", {}).items()
    }
    return {
        **_few_examples(config, batch_size),
        "evals": _few_examples(evals, batch_size),
        "init_from": None,
        "batch_size": batch_size,
        "total_steps": 2,
        "eval_steps": 0,
        "log_steps": 1,
        "checkpoint_steps": 0,
    }


def _few_examples(node: Any, length: int) -> Any:
    """Synthetic sources of one batch and a bit, so that padding is met too, without the
    nodes that need more: those whose type has a true `needs_every_class`."""
    if isinstance(node, list | tuple):
        return [_few_examples(item, length) for item in node]
    if not isinstance(node, Mapping):
        return node
    node = {
        key: _few_examples(value, length)
        for key, value in node.items()
        if not _needs_every_class(value)
    }
    if str(node.get("type", "")).endswith(".Synthetic"):
        node["length"] = length + 1
    return node


def _needs_every_class(node: Any) -> bool:
    if not isinstance(node, Mapping) or "type" not in node:
        return False
    return getattr(resolve(node["type"]), "needs_every_class", False)
