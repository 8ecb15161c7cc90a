"""Files of named tensors: safetensors in and out, .npz in."""

import json
import math
import os
import pathlib
import zipfile
from collections.abc import Mapping

import ml_dtypes
import numpy as np

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
_SAFETENSORS_NAMES = {np.dtype(v): k for k, v in _SAFETENSORS_DTYPES.items()}


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


def save_file(tensors: Mapping[str, np.ndarray], path: str | pathlib.Path) -> None:
    """Writes a `.safetensors` file, in one motion: it is never there half.

    Args:
        tensors: by name, of a dtype that the format knows (bfloat16 is one).
        path: of the file; its folder must exist.

    Raises:
        ValueError: the path has another ending, or a tensor a dtype that the format lacks.
        OSError: it cannot be written.
    """
    path = pathlib.Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path.name} does not end in .safetensors; call it so")
    arrays = {name: np.asarray(tensor) for name, tensor in tensors.items()}
    # The widest numbers first: then each tensor begins at a multiple of its own width.
    order = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    # Readers of torch's world look for this word.
    header: dict = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in order:
        dtype = arrays[name].dtype
        if dtype not in _SAFETENSORS_NAMES:
            raise ValueError(f"{name} is {dtype}, which safetensors lacks; convert it")
        begin, end = end, end + arrays[name].nbytes
        header[name] = {
            "dtype": _SAFETENSORS_NAMES[dtype],
            "shape": list(arrays[name].shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name in order:
                file.write(arrays[name].tobytes())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
