"""Published weight files to our parameter trees, without torch.

    weights = load_file("vit_base_patch16_224.safetensors")
    template = jax.eval_shape(model.init, jax.random.key(0), image)
    params, collections = convert(weights, template, namings)
    tensors = export(params, collections, naming_for(params, collections, namings))

Every leaf of the template must be filled and every tensor of the file used: what is missing,
unexpected, of the wrong shape or not finite is named, all in one error. The tables of names
(`training.weight_naming`) lie in the domains, `vision.weights` and `nlp.weights`, one file
per architecture.
"""

import importlib
import pkgutil
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from training.errors import RunError
from training.tensor_files import load_file, save_file
from training.weight_naming import Layout, Naming

__all__ = [
    "convert",
    "export",
    "load_file",
    "naming_for",
    "namings_in",
    "save_file",
]

# (path, array, shape) -> the array in that shape, or None: not about this path.
Adapter = Callable[[str, np.ndarray, tuple[int, ...]], np.ndarray | None]


def namings_in(package: str) -> tuple[Naming, ...]:
    """The tables of a package: what its modules call NAMINGS, if they have any."""
    folder = importlib.import_module(package).__path__
    names = sorted(module.name for module in pkgutil.iter_modules(folder))
    modules = [importlib.import_module(f"{package}.{name}") for name in names]
    tables = (getattr(module, "NAMINGS", ()) for module in modules)
    return tuple(naming for table in tables for naming in table)


def room_of(config: Mapping[str, Any]) -> Any:
    """The module `import_weights` of the room that a config's model is from.

    Raises:
        RunError: the config names no model.
    """
    try:
        room = config["task"]["model"]["type"].split(".")[0]
    except (KeyError, TypeError, AttributeError) as error:
        raise RunError("the config has no task.model.type; is it a run's?") from error
    return importlib.import_module(f"{room}.import_weights")


def convert(
    weights: Mapping[str, np.ndarray],
    template: Mapping[str, Any],
    namings: Sequence[Naming],
    naming: str = "auto",
    *,
    fresh: Sequence[str] = (),
    adapters: Sequence[Adapter] = (),
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters and other collections from the tensors of a published file.

    Args:
        weights: the file's tensors by name.
        template: what `model.init` returns, as arrays or their shapes: 'params' and
            perhaps 'batch_stats'. Layers stacked for a scan are understood.
        namings: the tables known.
        naming: whose names they are, a `Naming.name` or its first word; 'auto' finds out.
        fresh: patterns of paths, 'head/' say, that are left out of the result, whatever
            the file has for them.
        adapters: `adapter(path, array, shape)` returns an array of another shape as one of
            `shape`, or None if it is not about this path. Asked in turn for what is of the
            wrong shape and lies in the file as it does here; nothing else is adapted.

    Returns:
        (params, other collections by name), numpy arrays of the template's dtypes.

    Raises:
        ValueError: naming every tensor that is missing, unexpected, of the wrong shape or
            not finite; or a pattern of `fresh` that matches nothing.
    """
    stacked = _flatten(template)
    left_out = _matched(fresh, stacked)
    unneeded = _unstack({path: stacked.pop(path) for path in left_out})
    leaves = _unstack(stacked)
    table = _find_naming(weights, leaves, namings, naming)
    tensors = _without_prefix(weights, table)
    sources = {path: table.find(path) for path in leaves}
    for path, (name, layout) in sources.items():
        if name in tensors and type(layout) is Layout:
            full_name, tensor = tensors[name]
            tensors[name] = full_name, _adapt(path, tensor, leaves[path], adapters)
    used = {name for name, _ in sources.values()}
    used |= {found[0] for path in unneeded if (found := table.find(path))}
    _check(tensors, leaves, sources, used, table)
    filled = {}
    for path, leaf in leaves.items():
        name, layout = sources[path]
        filled[path] = _fill(tensors[name][1], layout, leaf)
    tree = {"params": {}, **_unflatten(_stack(filled, stacked))}
    return tree.pop("params"), tree


def export(
    params: Mapping[str, Any], collections: Mapping[str, Any], naming: Naming
) -> dict[str, np.ndarray]:
    """The tensors of a published file from parameters and other collections.

    Undoes `convert` bit for bit, with two limits: a prefix that the file's names had is
    not put back, and of the tensors that `convert` ignores only the counters of
    BatchNorm are made again (as zeros: torch asks for them and hardly uses them).

    Args:
        params, collections: trees of arrays; layers stacked for a scan come apart.
        naming: the table, from `naming_for` say.

    Returns:
        {name: tensor}, of the leaves' dtypes.

    Raises:
        ValueError: the table does not know a leaf, a value is not finite, or a tensor
            would be filled only in part.
    """
    leaves = _unstack(_flatten({"params": params, **collections}))
    tensors, filled, parts, broken = {}, {}, set(), []
    for path, leaf in leaves.items():
        if not (found := naming.find(path)):
            raise ValueError(
                f"the table {naming.name!r} has no name for {path}; add a rule for it"
            )
        (name, layout), leaf = found, np.asarray(leaf)
        if not np.isfinite(leaf.astype(np.float32)).all():
            broken.append(path)
        if name not in tensors:
            tensors[name] = np.zeros(layout.theirs(leaf.shape), leaf.dtype)
        layout.store(leaf, tensors[name])
        # A part that comes twice counts for nothing, so that the other one is missed.
        filled[name] = filled.get(name, 0) + leaf.size * (found not in parts)
        parts.add(found)
    if broken:
        raise ValueError(
            f"not finite: {_listed(broken)}; the run broke down, take an earlier step"
        )
    uneven = sorted(name for name, size in filled.items() if size != tensors[name].size)
    if uneven:
        raise ValueError(
            f"the model fills {_listed(uneven)} of the table {naming.name!r} only in part"
        )
    return tensors | _counters(tensors, naming)


def _counters(tensors: Iterable[str], naming: Naming) -> dict[str, np.ndarray]:
    """torch's BatchNorm counts its updates, for a kind of average that nobody asks for."""
    norms = [
        name.removesuffix("running_mean")
        for name in tensors
        if name.endswith(".running_mean")
    ]
    names = [f"{norm}num_batches_tracked" for norm in norms]
    return {name: np.zeros((), np.int64) for name in names if naming.ignores(name)}


def naming_for(
    params: Mapping[str, Any],
    collections: Mapping[str, Any],
    namings: Sequence[Naming],
    name: str = "timm",
) -> Naming:
    """The table to export these by.

    Args:
        params, collections: trees of arrays.
        namings: the tables known.
        name: a `Naming.name` or its first word. Of several the one that is about this
            architecture most narrowly.

    Raises:
        ValueError: no table of that name covers every leaf.
    """
    leaves = _unstack(_flatten({"params": params, **collections}))
    able = _able(leaves, namings, name)
    return max(able, key=lambda n: (n.name == name, _narrowness(n, leaves)))


def _able(leaves: Iterable[str], namings: Sequence[Naming], name: str) -> list[Naming]:
    """The tables that are called `name` and know every leaf. Raises if there are none."""
    able = [n for n in namings if all(n.rule(path) for path in leaves)]
    if not able:
        strangers = min(
            ([path for path in leaves if not n.rule(path)] for n in namings), key=len
        )
        raise ValueError(
            f"no table of names covers {_listed(strangers)}; add rules for this model"
        )
    called = [n for n in able if name == "auto" or n.is_called(name)]
    if not called:
        raise ValueError(
            f"naming {name!r} is not known for this model; known: "
            f"{', '.join(n.name for n in able)}"
        )
    return called


def _narrowness(naming: Naming, leaves: Iterable[str]) -> float:
    """The share of a table's rules that these leaves use."""
    used = {id(naming.rule(path)) for path in leaves}
    return len(used) / len(naming.rules)


def _matched(patterns: Sequence[str], paths: Iterable[str]) -> list[str]:
    """The paths, without their collection, that any pattern is found in."""
    names = {path: path.partition("/")[2] for path in paths}
    for pattern in patterns:
        if not any(re.search(pattern, name) for name in names.values()):
            raise ValueError(
                f"{pattern!r} matches nothing of this model, where paths look like "
                f"{next(iter(names.values()), '')!r}"
            )
    return [p for p, name in names.items() if any(re.search(x, name) for x in patterns)]


def _adapt(
    path: str, tensor: np.ndarray, leaf: Any, adapters: Sequence[Adapter]
) -> np.ndarray:
    """The tensor in the leaf's shape if one of the adapters can do it."""
    if tensor.shape == tuple(leaf.shape):
        return tensor
    for adapter in adapters:
        found = adapter(path.partition("/")[2], tensor, tuple(leaf.shape))
        if found is not None:
            return np.asarray(found)
    return tensor


def _fill(tensor: np.ndarray, layout: Layout, leaf: Any) -> np.ndarray:
    return np.array(layout.load(tensor, leaf.shape), leaf.dtype, order="C")


def _without_prefix(
    weights: Mapping[str, np.ndarray], naming: Naming
) -> dict[str, tuple[str, np.ndarray]]:
    """{name as in the table: (name as in the file, tensor)}."""
    tensors = {}
    for full_name, tensor in weights.items():
        name = full_name
        for prefix in naming.prefixes:
            if full_name.startswith(prefix):
                name = full_name.removeprefix(prefix)
                break
        tensors[name] = full_name, np.asarray(tensor)
    return tensors


def _find_naming(
    weights: Mapping[str, np.ndarray],
    leaves: Mapping[str, Any],
    namings: Sequence[Naming],
    name: str,
) -> Naming:
    """The table that knows every leaf and finds most of them in the file."""
    able = _able(leaves, namings, name)

    def found(naming: Naming) -> int:
        tensors = _without_prefix(weights, naming)
        return sum(naming.find(path)[0] in tensors for path in leaves)

    best = max(able, key=lambda n: (found(n), n.name == name, _narrowness(n, leaves)))
    if name == "auto" and 2 * found(best) < len(leaves):
        raise ValueError(
            f"the file's names ({_listed(sorted(weights)[:3])}, ...) fit none of the "
            f"namings known for this model: {', '.join(n.name for n in able)}; is it a "
            "file of another architecture?"
        )
    return best


def _check(
    tensors: Mapping[str, tuple[str, np.ndarray]],
    leaves: Mapping[str, Any],
    sources: Mapping[str, tuple[str, Layout]],
    used: Iterable[str],
    naming: Naming,
) -> None:
    """Raises one ValueError that names everything that does not fit."""
    missing, misshapen, broken = set(), set(), set()
    for path, leaf in leaves.items():
        name, layout = sources[path]
        if name not in tensors:
            missing.add(name)
            continue
        full_name, tensor = tensors[name]
        expected = layout.theirs(tuple(leaf.shape))
        if tensor.shape != expected:
            misshapen.add(f"{full_name} is {tensor.shape}, the model needs {expected}")
        elif not np.isfinite(tensor.astype(np.float32)).all():
            broken.add(full_name)
    unexpected = {
        full_name
        for name, (full_name, _) in tensors.items()
        if name not in used and not naming.ignores(name)
    }
    kinds = {
        "missing": missing,
        "unexpected": unexpected,
        "wrong shape": misshapen,
        "not finite": broken,
    }
    if any(kinds.values()):
        found = "; ".join(f"{k}: {_listed(sorted(v))}" for k, v in kinds.items() if v)
        raise ValueError(
            f"the weights ({naming.name} naming) do not fit the model; {found}. Compare "
            "the model's fields (sizes, num_classes, pooling) with the file's architecture"
        )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'a/b': leaf} of nested dictionaries."""
    flat = {}
    for key, value in tree.items():
        path = prefix + key
        flat |= (
            _flatten(value, path + "/") if isinstance(value, Mapping) else {path: value}
        )
    return flat


def _unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Undoes `_flatten`."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *folders, name = path.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[name] = leaf
    return tree


class _Slice:
    """Shape and dtype of one layer of a stacked leaf."""

    def __init__(self, leaf: Any):
        self.shape, self.dtype = tuple(leaf.shape[1:]), leaf.dtype


def _unstack(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Replaces every leaf [L, ...] under 'blocks' by L leaves under 'block_<i>'."""
    flat = {}
    for path, leaf in leaves.items():
        if "/blocks/" not in path:
            flat[path] = leaf
            continue
        for i in range(leaf.shape[0]):
            layer = leaf[i] if hasattr(leaf, "__getitem__") else _Slice(leaf)
            flat[path.replace("/blocks/", f"/block_{i}/")] = layer
    return flat


def _stack(
    flat: Mapping[str, np.ndarray], stacked: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Undoes `_unstack`, on arrays."""
    return {
        path: np.stack(
            [
                flat[path.replace("/blocks/", f"/block_{i}/")]
                for i in range(leaf.shape[0])
            ]
        )
        if "/blocks/" in path
        else flat[path]
        for path, leaf in stacked.items()
    }
