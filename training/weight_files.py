"""Published weight files to our parameter trees, without torch.

    weights = load_file("vit_base_patch16_224.safetensors")
    template = jax.eval_shape(model.init, jax.random.key(0), image)
    params, collections = convert(weights, template, namings)

Every leaf of the template must be filled and every tensor of the file used: what is missing,
unexpected, of the wrong shape or not finite is named, all in one error. The tables of names
(`training.weight_naming`) lie in the domains, `vision.weights` and `nlp.weights`, one file
per architecture.
"""

import importlib
import json
import math
import pathlib
import pkgutil
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from training.weight_naming import Layout, Naming

_SAFETENSORS_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


def namings_in(package: str) -> tuple[Naming, ...]:
    """The tables of a package: what its modules, by name, call NAMINGS."""
    folder = importlib.import_module(package).__path__
    names = sorted(module.name for module in pkgutil.iter_modules(folder))
    modules = [importlib.import_module(f"{package}.{name}") for name in names]
    return tuple(naming for module in modules for naming in module.NAMINGS)


def load_file(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """The tensors of a `.safetensors` or `.npz` file by name.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is of another format, or damaged.
    """
    path = pathlib.Path(path)
    if path.suffix not in (".safetensors", ".npz"):
        raise ValueError(
            f"{path.name} is neither .safetensors nor .npz; convert it to one of them first"
        )
    if not path.is_file():
        raise FileNotFoundError(f"no weight file {path}; check the path")
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return dict(file)
        return _read_safetensors(path.read_bytes())
    except (
        zipfile.BadZipFile,
        OSError,
        EOFError,
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
    ) as error:
        raise ValueError(
            f"{path} cannot be read ({str(error).strip().splitlines()[0]}); it may be "
            "truncated: fetch it again"
        ) from error


def _read_safetensors(data: bytes) -> dict[str, np.ndarray]:
    """The format: length of the header (8 bytes), header (JSON), tensors.

    Read here because the format's own numpy reader does not know bfloat16.
    """
    start = 8 + int.from_bytes(data[:8], "little")
    if len(data) < max(start, 8):
        raise ValueError(f"its header wants {start} bytes of {len(data)}")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        dtype = np.dtype(_SAFETENSORS_DTYPES[entry["dtype"]])
        begin, end = (start + offset for offset in entry["data_offsets"])
        if end - begin != math.prod(entry["shape"]) * dtype.itemsize or end > len(data):
            raise ValueError(f"the bytes of {name} are not all there")
        tensor = np.frombuffer(data[begin:end], dtype)
        tensors[name] = tensor.reshape(entry["shape"])
    return tensors


def convert(
    weights: Mapping[str, np.ndarray],
    template: Mapping[str, Any],
    namings: Sequence[Naming],
    naming: str = "auto",
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters and other collections from the tensors of a published file.

    Args:
        weights: the file's tensors by name.
        template: what `model.init` returns, as arrays or their shapes: 'params' and
            perhaps 'batch_stats'. Layers stacked for a scan are understood.
        namings: the tables known.
        naming: whose names they are, a `Naming.name`; 'auto' finds out.

    Returns:
        (params, other collections by name), numpy arrays of the template's dtypes.

    Raises:
        ValueError: naming every tensor that is missing, unexpected, of the wrong shape or
            not finite.
    """
    stacked = _flatten(template)
    leaves = _unstack(stacked)
    table = _find_naming(weights, leaves, namings, naming)
    tensors = _without_prefix(weights, table)
    sources = {path: table.find(path) for path in leaves}
    _check(tensors, leaves, sources, table)
    filled = {}
    for path, leaf in leaves.items():
        name, layout = sources[path]
        filled[path] = _fill(tensors[name][1], layout, leaf)
    tree = _unflatten(_stack(filled, stacked))
    return tree.pop("params"), tree


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
    able = [n for n in namings if all(n.find(path) for path in leaves)]
    if not able:
        strangers = min(
            ([path for path in leaves if not n.find(path)] for n in namings), key=len
        )
        raise ValueError(
            f"no table of names covers {_listed(strangers)}; add rules for this model"
        )
    if name != "auto":
        for naming in able:
            if naming.name == name:
                return naming
        raise ValueError(
            f"naming {name!r} is not known for this model; known: "
            f"{', '.join(n.name for n in able)}"
        )

    def found(naming: Naming) -> int:
        tensors = _without_prefix(weights, naming)
        return sum(naming.find(path)[0] in tensors for path in leaves)

    best = max(able, key=found)
    if not found(best):
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
    used = {name for name, _ in sources.values()}
    unexpected = {
        full_name
        for name, (full_name, _) in tensors.items()
        if name not in used and not _is_ignored(name, naming)
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
            "the model's fields (sizes, num_classes, pool) with the file's architecture"
        )


def _is_ignored(name: str, naming: Naming) -> bool:
    return any(re.fullmatch(pattern, name) for pattern in naming.ignored)


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
            flat[path.replace("/blocks/", f"/block_{i}/")] = _Slice(leaf)
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
