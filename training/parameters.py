"""Parameters by path: names for rules to match, counts, and the table at a run's start.

A path is the names from the root to an array joined by `/`, such as
`encoder/block_0/mlp/up/kernel`. Sharding, weight decay, freezing and learning-rate rules
all read it, by one meaning of a pattern: `re.search`, so a pattern may match anywhere
unless it says `^` or `$`.
"""

import collections
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
from rich import box
from rich.table import Table

Patterns = str | Sequence[str]


def path_string(path: Sequence[Any]) -> str:
    """A key path of `jax.tree_util` as names joined by `/`."""
    return jax.tree_util.keystr(tuple(path), simple=True, separator="/")


def leaves_with_paths(tree: Any) -> list[tuple[str, Any]]:
    """(path, leaf) for every leaf, in JAX's order."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(path_string(path), leaf) for path, leaf in leaves]


def map_with_paths(function: Callable, tree: Any, *rest: Any) -> Any:
    """`function(path, leaf, ...)` of every leaf, as a tree like `tree`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, *leaves: function(path_string(path), *leaves), tree, *rest
    )


def match(patterns: Patterns, path: str) -> bool:
    """Whether any pattern is found (`re.search`) in the path; none: False.

    Raises:
        ValueError: for a pattern that is no regular expression.
    """
    return any(_found(pattern, path) for pattern in _each(patterns))


def unmatched(patterns: Patterns, tree: Any) -> list[str]:
    """The patterns found in no path of the tree: most likely misspelt."""
    paths = [path for path, _ in leaves_with_paths(tree)]
    return [p for p in _each(patterns) if not any(match(p, path) for path in paths)]


def count(params: Any) -> int:
    """How many numbers the tree holds; arrays or their shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def nbytes(params: Any) -> int:
    """Bytes of the tree, all devices' shards together, copies counted once."""
    return sum(_bytes(leaf, leaf.shape) for leaf in jax.tree.leaves(params))


def nbytes_per_device(params: Any, shardings: Any) -> int:
    """Bytes of the tree that lie on one device under a tree of shardings alike."""
    sizes = jax.tree.map(
        lambda leaf, sharding: _bytes(leaf, sharding.shard_shape(leaf.shape)),
        params,
        shardings,
    )
    return sum(jax.tree.leaves(sizes))


def parameter_table(
    params: Any,
    *,
    depth: int | None = None,
    max_rows: int = 30,
    shardings: Any = None,
) -> Table:
    """What a model is made of, for a person at the start of a run.

    Numbered siblings of equal shape (`block_0`, `block_1`, ...) share a row named
    `block_*`.

    Args:
        params: tree of arrays or `jax.ShapeDtypeStruct`s.
        depth: modules are summed below this many names; None takes the deepest level
            that fits into `max_rows`.
        max_rows: bound on the rows if `depth` is None.
        shardings: tree of `NamedSharding`s like `params`; adds a column.
    """
    leaves = _leaves(params, shardings)
    if depth is None:
        deepest = max((path.count("/") + 1 for path, *_ in leaves), default=1)
        levels = range(deepest, 1, -1)
        depth = next((d for d in levels if len(_rows(leaves, d)) <= max_rows), 1)
    dtypes = sorted({str(leaf.dtype) for leaf in jax.tree.leaves(params)})
    table = Table(
        title=f"Parameters ({', '.join(dtypes)})",
        title_justify="left",
        title_style="bold",
        show_footer=True,
        box=box.SIMPLE_HEAD,
    )
    total, size = count(params), nbytes(params)
    table.add_column("module", footer="total", overflow="fold")
    table.add_column("arrays", footer=f"{len(leaves)} arrays", overflow="fold")
    table.add_column("count", footer=f"{total:,}", justify="right", no_wrap=True)
    table.add_column("bytes", footer=bytes_text(size), justify="right", no_wrap=True)
    if shardings is not None:
        per_device = bytes_text(nbytes_per_device(params, shardings))
        table.add_column("sharding", footer=f"{per_device} a device", overflow="fold")
    for row in _rows(leaves, depth, show_dtype=len(dtypes) > 1):
        table.add_row(*row if shardings is not None else row[:-1])
    return table


def bytes_text(size: float) -> str:
    """A size for people: 1536 -> '1.5 KiB'."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def _each(patterns: Patterns) -> Iterable[str]:
    return (patterns,) if isinstance(patterns, str) else patterns


def _found(pattern: str, path: str) -> bool:
    try:
        return re.search(pattern, path) is not None
    except re.error as error:
        raise ValueError(
            f"parameter pattern {pattern!r} is no regular expression: {error}"
        ) from None


def _bytes(leaf: Any, shape: Sequence[int]) -> int:
    return math.prod(shape) * leaf.dtype.itemsize


def _leaves(params: Any, shardings: Any) -> list[tuple[str, str, Any, str]]:
    """(path with numbers starred if siblings agree, own path, leaf, spec)."""
    specs = _specs(params, shardings)
    found = [
        ((_starred(path), str(leaf.dtype), tuple(leaf.shape), spec), path, leaf)
        for (path, leaf), spec in zip(leaves_with_paths(params), specs, strict=True)
    ]
    copies = collections.Counter(key for key, _, _ in found)
    return [
        (key[0] if copies[key] > 1 else path, path, leaf, key[-1])
        for key, path, leaf in found
    ]


def _specs(params: Any, shardings: Any) -> Iterator[str]:
    leaves = jax.tree.leaves(params)
    if shardings is None:
        return iter([""] * len(leaves))
    placed = jax.tree.leaves(shardings)
    if len(placed) != len(leaves):
        raise ValueError(f"{len(placed)} shardings do not fit {len(leaves)} parameters")
    return iter([_spec_text(getattr(sharding, "spec", ())) for sharding in placed])


def _spec_text(spec: Any) -> str:
    names = [
        "+".join(axis) if isinstance(axis, tuple) else axis or "-" for axis in spec
    ]
    while names and names[-1] == "-":
        names.pop()
    return ", ".join(names) if names else "replicated"


def _starred(path: str) -> str:
    return "/".join(re.sub(r"(^|_)\d+$", r"\1*", name) for name in path.split("/"))


def _rows(
    leaves: list, depth: int, show_dtype: bool = False
) -> list[tuple[str, str, str, str, str]]:
    groups: dict[tuple, list] = {}
    for starred, path, leaf, spec in leaves:
        names = starred.split("/")
        if len(names) <= depth:
            key = (starred, str(leaf.dtype), tuple(leaf.shape), spec)
        else:
            key = ("/".join(names[:depth]), None, None, None)
        groups.setdefault(key, []).append((path, leaf, spec))
    return [_row(key, members, show_dtype) for key, members in groups.items()]


def _row(key: tuple, members: list, show_dtype: bool) -> tuple[str, str, str, str, str]:
    name, dtype, _, spec = key
    path, leaf, own_spec = members[0]
    if dtype is None and len(members) == 1:
        name, dtype, spec = path, str(leaf.dtype), own_spec
    if dtype is None:
        what = f"{len(members)} arrays"
        specs = sorted({spec for _, _, spec in members})
        spec = specs[0] if len(specs) == 1 else "mixed"
    else:
        times = f" x {len(members)}" if len(members) > 1 else ""
        prefix = f"{dtype} " if show_dtype else ""
        what = f"{prefix}{list(leaf.shape)}{times}"
    leaves = [leaf for _, leaf, _ in members]
    return name, what, f"{count(leaves):,}", bytes_text(nbytes(leaves)), spec
