"""Writes what a run reports: `metrics.jsonl`, TensorBoard events, pictures and texts.

`metrics.jsonl` holds one JSON object a line, `step` beside flat names such as `train/loss`.
Floats are written by `repr`, so that reading them back is exact; numbers that are not
finite become the strings "NaN", "Infinity" and "-Infinity", because JSON has none.

TensorBoard's records come from tensorboardX, but its own writer is not used: that one
hands events to a thread which dies quietly on a full disk, after which the run hangs.
"""

import json
import logging
import math
import os
import pathlib
import re
import socket
import struct
import textwrap
import time
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from tensorboardX import summary as summaries
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c

_log = logging.getLogger("tessera")
_METRICS = "metrics.jsonl"
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class Writer:
    """The record of one run, kept in its folder. Every call is on disk when it returns.

    Args:
        workdir: the run's folder, made if absent.
        active: False on hosts other than 0: every method then does nothing.
        start_step: the step the run resumes from; 0 for a fresh start. Lines of later
            steps are removed, since the run will write them again, and TensorBoard is
            told to forget them.

    Raises:
        OSError: from any method, where the disk is full or the folder not writable.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        *,
        active: bool = True,
        start_step: int = 0,
    ):
        self.active = active
        if not active:
            return
        self._folder = pathlib.Path(workdir)
        self._folder.mkdir(parents=True, exist_ok=True)
        _trim(self._folder / _METRICS, start_step)
        self._lines = _AppendOnly(self._folder / _METRICS)
        # The start time sorts TensorBoard's files in the order in which they were begun.
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}"
        self._events = _AppendOnly(self._folder / name)
        self._event(file_version="brain.Event:2")
        first = start_step + 1 if start_step else 0
        self._event(step=first, session_log=SessionLog(status=SessionLog.START))

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Adds one line of numbers (Python, numpy or JAX scalars)."""
        if not self.active:
            return
        numbers = {name: _number(value) for name, value in values.items()}
        line = {name: _encode(value) for name, value in numbers.items()}
        self._lines.write(json.dumps({"step": int(step), **line}).encode() + b"\n")
        items = [Summary.Value(tag=k, simple_value=v) for k, v in numbers.items()]
        self._event(step=int(step), summary=Summary(value=items))

    def images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Shows pictures, and keeps them as `pictures/NAME_STEP.png`.

        Args:
            step: of the state that made them.
            images: name -> uint8 [H, W, 3], red first.

        Raises:
            ValueError: for an array of another shape or dtype.
        """
        if not self.active:
            return
        paths = write_pictures(self._folder / "pictures", step, images)
        for (name, image), path in zip(images.items(), paths, strict=True):
            height, width, channels = image.shape
            shown = Summary.Image(
                height=height,
                width=width,
                colorspace=channels,
                encoded_image_string=path.read_bytes(),
            )
            value = Summary.Value(tag=name, image=shown)
            self._event(step=int(step), summary=Summary(value=[value]))

    def text(self, step: int, texts: Mapping[str, str]) -> None:
        """Shows texts, and keeps them as `texts/NAME_STEP.txt`.

        Args:
            step: of the state that made them.
            texts: name -> text; a name that ends in '.html' is a page, kept as such and not
                shown. TensorBoard reads a text of one line as Markdown, and shows one of
                several as it stands.
        """
        if not self.active:
            return
        write_texts(self._folder / "texts", step, texts)
        for name, text in texts.items():
            if name.endswith(".html"):
                continue
            text = text.encode("utf-8", "replace").decode()
            if "\n" in text:  # Markdown would join the lines.
                text = textwrap.indent(text, "    ", lambda line: True)
            self._event(step=int(step), summary=summaries.text(name, text))

    def close(self) -> None:
        """Closes the files. A second call does nothing."""
        if self.active:
            self.active = False
            self._lines.close()
            self._events.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _event(self, **fields) -> None:
        data = Event(wall_time=time.time(), **fields).SerializeToString()
        header = struct.pack("<Q", len(data))
        self._events.write(
            header
            + struct.pack("<I", masked_crc32c(header))
            + data
            + struct.pack("<I", masked_crc32c(data))
        )


def write_pictures(
    folder: str | os.PathLike, step: int, images: Mapping[str, np.ndarray]
) -> list[pathlib.Path]:
    """Writes pictures as `FOLDER/NAME_STEP.png`.

    Args:
        folder: made if absent.
        step: of the state that made them.
        images: name -> uint8 [H, W, 3], red first.

    Returns:
        The files, in the order of `images`.

    Raises:
        ValueError: for an array of another shape or dtype.
    """
    paths = []
    for name, image in images.items():
        path = _path(folder, name, step, ".png")
        data = _png(name, image)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        paths.append(path)
    return paths


def write_texts(
    folder: str | os.PathLike, step: int, texts: Mapping[str, str]
) -> list[pathlib.Path]:
    """Writes texts as `FOLDER/NAME_STEP.txt`, or `.html` where the name ends so.

    Args:
        folder: made if absent.
        step: of the state that made them.
        texts: name -> text.

    Returns:
        The files, UTF-8, in the order of `texts`.
    """
    paths = []
    for name, text in texts.items():
        suffix = ".html" if name.endswith(".html") else ".txt"
        path = _path(folder, name.removesuffix(".html"), step, suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        # What a model writes in bytes need not be valid text.
        path.write_bytes(text.encode("utf-8", "replace"))
        paths.append(path)
    return paths


def _path(folder: str | os.PathLike, name: str, step: int, suffix: str) -> pathlib.Path:
    stem = re.sub(r"[^\w.-]+", "_", name)
    return pathlib.Path(folder) / f"{stem}_{int(step):08d}{suffix}"


def read_metrics(workdir: str | os.PathLike) -> list[dict[str, Any]]:
    """The lines of a run's `metrics.jsonl`, in the order written.

    A last line cut short by a kill is left out. No file: an empty list.

    Raises:
        ValueError: for a line elsewhere that is not a JSON object.
    """
    path = pathlib.Path(workdir) / _METRICS
    if not path.exists():
        return []
    result = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        try:
            row = json.loads(line)
            result.append({name: _decode(value) for name, value in row.items()})
        except (ValueError, AttributeError):
            raise ValueError(
                f"{path}, line {number} is no JSON object: {line[:60]!r}; remove it"
            ) from None
    return result


class _AppendOnly:
    """A file that holds whole records only: one that does not fit is taken back."""

    def __init__(self, path: pathlib.Path):
        self._path = path
        self._file = path.open("ab", buffering=0)

    def write(self, record: bytes) -> None:
        size = os.fstat(self._file.fileno()).st_size
        rest = memoryview(record)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self._file.truncate(size)
            raise OSError(error.errno, error.strerror, str(self._path)) from None

    def close(self) -> None:
        self._file.close()


def _trim(path: pathlib.Path, start_step: int) -> None:
    """Removes lines after `start_step` (all, at step 0) and whatever is torn."""
    if not path.exists():
        return
    old = path.read_bytes()
    kept = []
    for line in old.splitlines(keepends=True):
        try:
            step = json.loads(line)["step"]
        except (ValueError, KeyError, TypeError):
            _log.warning("%s: dropped a torn line %r", path, line[:60])
            continue
        if step <= start_step and start_step and line.endswith(b"\n"):
            kept.append(line)
    new = b"".join(kept)
    if new == old:
        return
    draft = path.with_suffix(".tmp")
    with draft.open("wb") as file:
        file.write(new)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)


def _number(value: Any) -> float:
    """A Python number equal to `value`, a scalar of any library."""
    if isinstance(value, bool | int | float):
        return value
    value = np.asarray(value).item()
    if not isinstance(value, bool | int | float):
        raise TypeError(f"{value!r} is not a number; scalars() writes numbers only")
    return value


def _encode(value: float) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return next(k for k, v in _NOT_FINITE.items() if repr(v) == repr(value))
    return value


def _decode(value: Any) -> Any:
    return _NOT_FINITE.get(value, value) if isinstance(value, str) else value


def _png(name: str, image: np.ndarray) -> bytes:
    if not (
        isinstance(image, np.ndarray)
        and image.dtype == np.uint8
        and image.ndim == 3
        and image.shape[-1] == 3
    ):
        spec = f"{getattr(image, 'dtype', type(image).__name__)} {np.shape(image)}"
        raise ValueError(f"picture {name!r} is {spec}; it must be uint8 [H, W, 3]")
    import cv2  # Only runs that show pictures pay for it.

    return cv2.imencode(".png", image[..., ::-1])[1].tobytes()
