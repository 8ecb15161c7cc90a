"""Artifacts: what a run needs besides its config and is made once, a trained tokenizer say.

A config node is an artifact if its type has `artifact_name`, a word, and
`artifact_node(path)`, the node that reads the file; what it builds has `artifact()`, the
file's bytes. `materialize` makes the file WORKDIR/artifacts/NAME-DIGEST.json, unless it is
there, and puts the reading node in the place of the other. DIGEST is of the node's config.
The run's `config.json` keeps the node as it was; from then on the file stands for it, so
that neither the data nor another run it came from is needed again.
"""

import functools
import hashlib
import json
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from training import config as configs
from training.errors import ConfigError, RunError, first_line

FOLDER = "artifacts"

# (node, path of the node in the config) -> what to put in its place.
_Replacement = Callable[[Mapping[str, Any], str], Any]


def materialize(
    config: Mapping[str, Any],
    workdir: pathlib.Path | None = None,
    *,
    read_only: bool = False,
) -> dict[str, Any]:
    """The config with every artifact made and read from its file.

    With several processes, process 0 makes what is not there and the others wait for it.

    Args:
        config: plain data; a whole config.
        workdir: the run's folder; None keeps the files in a temporary one, as long as the
            process lives.
        read_only: write nothing to the run's folder: what is missing there is made in a
            temporary one, but must then be the same as one of those the run has, if it has
            any of that name.

    Raises:
        RunError: in one line: an artifact cannot be made, was changed since, or is none of
            the run's.
    """

    def replace(node: Mapping[str, Any], path: str) -> dict[str, Any]:
        kind = configs.resolve(node["type"], path)
        name = f"{kind.artifact_name}-{_digest(node)}.json"
        return kind.artifact_node(str(_file(node, path, name, workdir, read_only)))

    return _replaced(config, replace)


def fingerprints(
    config: Mapping[str, Any], workdir: pathlib.Path | None = None
) -> set[str]:
    """Those of everything in a config that has one: tokenizers.

    A node has one if its type has an attribute `fingerprint`, which what it builds has too.

    Args:
        config: plain data; a whole config.
        workdir: of the run whose config it is; artifacts that are not there are left out.
    """

    def replace(node: Mapping[str, Any], path: str) -> dict[str, Any]:
        kind = configs.resolve(node["type"], path)
        name = f"{kind.artifact_name}-{_digest(node)}.json"
        file = None if workdir is None else workdir / FOLDER / name
        if file is None or not file.is_file():
            return {}
        return kind.artifact_node(str(file))

    distinct = {}
    for path, node in _nodes(_replaced(config, replace)):
        if hasattr(_type(node), "fingerprint"):
            distinct.setdefault(json.dumps(node, sort_keys=True), (node, path))
    return {configs.build(node, path).fingerprint for node, path in distinct.values()}


def _digest(node: Mapping[str, Any]) -> str:
    text = json.dumps(configs.plain(node), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _file(
    node: Mapping[str, Any],
    path: str,
    name: str,
    workdir: pathlib.Path | None,
    read_only: bool,
) -> pathlib.Path:
    """The artifact's file, there."""
    temporary = _temporary() / name
    if workdir is None:
        _make(node, path, temporary)
        return temporary
    file = workdir.absolute() / FOLDER / name
    if read_only:
        if file.is_file():
            _check(file)
            return file
        _make(node, path, temporary)
        _check_is_one_of(temporary, file, path)
        return temporary
    _make_once(node, path, file)
    if file.is_file():
        return file
    _make(node, path, temporary)  # a process whose folder is its own
    return temporary


def _make_once(node: Mapping[str, Any], path: str, file: pathlib.Path) -> None:
    """`_make` in process 0; the others wait, and fail if it does."""
    if jax.process_count() == 1:
        _make(node, path, file)
        return
    from jax.experimental import multihost_utils

    error = None
    if jax.process_index() == 0:
        try:
            _make(node, path, file)
        except RunError as found:
            error = found
    failed = multihost_utils.broadcast_one_to_all(np.int32(error is not None))
    if error is not None:
        raise error
    if failed:
        raise RunError(f"{path}: process 0 could not make {file.name}; it says why")


def _make(node: Mapping[str, Any], path: str, file: pathlib.Path) -> None:
    """Writes the file in one motion, unless it is there."""
    if file.is_file():
        _check(file)
        return
    # A part of an artifact may be one itself.
    parts = {key: value for key, value in node.items() if key != "type"}
    parts = _replaced(parts, lambda n, p: materialize({"part": n})["part"], path)
    content = configs.build({**parts, "type": node["type"]}, path).artifact()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        _write(
            file.with_suffix(".sha256"), hashlib.sha256(content).hexdigest().encode()
        )
        _write(file, content)
    except OSError as error:
        raise RunError(f"cannot write {file}: {first_line(error)}") from error


def _write(file: pathlib.Path, content: bytes) -> None:
    temporary = file.with_name(file.name + ".tmp")
    temporary.write_bytes(content)
    temporary.replace(file)


def _check(file: pathlib.Path) -> None:
    """Raises RunError if a file is not what was written."""
    written = file.with_suffix(".sha256")
    if not written.is_file():
        return
    if hashlib.sha256(file.read_bytes()).hexdigest() != written.read_text().strip():
        raise RunError(
            f"{file} was changed since the run was trained with it; put the original back "
            f"(its SHA-256 is in {written.name})"
        )


def _check_is_one_of(made: pathlib.Path, wanted: pathlib.Path, path: str) -> None:
    """Raises RunError if a run has artifacts of this name, but none with this content."""
    name = wanted.name.rpartition("-")[0]
    own = sorted(wanted.parent.glob(f"{name}-*.json"))
    if own and made.read_bytes() not in [file.read_bytes() for file in own]:
        raise RunError(
            f"{path}: the run in {wanted.parent.parent} was trained with another {name} "
            f"({own[0].name}) than this config asks for ({wanted.name}); name the run's own"
        )


@functools.cache
def _temporary_directory() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="artifacts-")


def _temporary() -> pathlib.Path:
    return pathlib.Path(_temporary_directory().name)


def _replaced(config: Any, replace: _Replacement, path: str = "") -> Any:
    """The config with `replace(node, path)` in the place of every artifact."""
    if isinstance(config, list | tuple):
        return [_replaced(x, replace, f"{path}[{i}]") for i, x in enumerate(config)]
    if not isinstance(config, Mapping):
        return config
    if hasattr(_type(config), "artifact_name"):
        return replace(config, path)
    return {
        key: _replaced(value, replace, f"{path}.{key}" if path else key)
        for key, value in config.items()
    }


def _nodes(config: Any, path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every node of a config, with where it stands."""
    if isinstance(config, list | tuple):
        for i, value in enumerate(config):
            yield from _nodes(value, f"{path}[{i}]")
    elif isinstance(config, Mapping):
        if "type" in config:
            yield path, config
        for key, value in config.items():
            yield from _nodes(value, f"{path}.{key}" if path else key)


def _type(node: Mapping[str, Any]) -> Any:
    """What a node calls; None where there is no such thing, which `build` will say."""
    try:
        return configs.resolve(node["type"]) if "type" in node else None
    except ConfigError:
        return None
