"""Where a run took place: versions, devices, commit, command; and what devices can do."""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import jax

_FILE = "environment.json"
_PACKAGES = (
    "tessera",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "ml-collections",
    "numpy",
    "opencv-python-headless",
    "simplejpeg",
    "tensorflow-datasets",
    "libtpu",
    "jax-cuda12-plugin",
    "jax-cuda13-plugin",
)
_VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "JAX_PLATFORMS", "JAX_NUM_CPU_DEVICES")

# Dense bfloat16 products with float32 sums, TFLOP/s of one JAX device, without sparsity
# and at boost clock. Sources: Google Cloud's TPU system architecture pages; NVIDIA's
# data sheets and architecture white papers. The first pattern that is found counts.
_PEAK_TFLOPS = (
    (r"TPU v2", 22.5),  # 45 a chip, whose two cores are two devices.
    (r"TPU v3", 61.5),  # 123 a chip of two devices.
    (r"TPU v4 lite|TPU v4i", 138.0),
    (r"TPU v4", 275.0),
    (r"TPU v5 lite|TPU v5e", 197.0),
    (r"TPU v5", 459.0),  # v5p
    (r"TPU v6", 918.0),  # v6e, Trillium
    (r"TPU ?v?7", 1153.5),  # Ironwood: 2307 a chip of two devices.
    (r"V100.*PCIE", 112.0),  # float16: V100 and T4 have no bfloat16 units.
    (r"V100", 125.0),
    (r"\bT4\b", 65.0),
    (r"A100|A800", 312.0),
    (r"A10G", 70.0),
    (r"A10\b", 125.0),
    (r"A30\b", 165.0),
    (r"A40\b", 149.7),
    (r"RTX A6000", 154.8),
    (r"RTX 3090", 71.0),
    (r"\bL4\b", 121.0),
    (r"L40S", 362.0),
    (r"RTX 6000 Ada", 364.2),
    (r"RTX 4090", 165.2),
    (r"RTX 5090", 209.5),
    (r"H100.*PCIe", 756.0),
    (r"H[12]00.*NVL", 835.0),
    (r"H100|H200|H800|GH200|\bH20[0-9]", 989.4),
    (r"GB200", 2500.0),
    (r"B200", 2250.0),
)


def describe(
    mesh: jax.sharding.Mesh | None = None,
    compiler_options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything besides config and data that could explain a result; JSON-like."""
    devices = jax.devices()
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": [pathlib.Path(sys.argv[0]).name, *sys.argv[1:]],
        "git": git_state(),
        "versions": {"python": platform.python_version(), **_versions()},
        "devices": {
            "backend": devices[0].platform,
            "kind": devices[0].device_kind,
            "count": len(devices),
            "processes": jax.process_count(),
        },
        "mesh": None if mesh is None else dict(mesh.shape),
        "compiler_options": dict(compiler_options or {}),
        "matmul_precision": jax.config.jax_default_matmul_precision,
        "host": {
            "system": platform.platform(),
            "cpus": os.cpu_count(),
            "memory": _host_memory(),
        },
        "variables": {k: os.environ[k] for k in _VARIABLES if k in os.environ},
    }


def write(workdir: str | os.PathLike, description: Mapping[str, Any]) -> pathlib.Path:
    """Writes `environment.json`; what earlier starts of the run wrote stays in a list.

    Raises:
        OSError: the folder cannot be written.
    """
    path = pathlib.Path(workdir) / _FILE
    earlier = []
    try:
        last = json.loads(path.read_text())
        earlier = [*last.pop("earlier"), last]
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        pass  # The first start, or a file cut short: nothing to keep.
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    text = json.dumps({**description, "earlier": earlier}, indent=2, default=str)
    draft.write_text(text + "\n")
    os.replace(draft, path)
    return path


def git_state(folder: str | os.PathLike | None = None) -> dict[str, Any] | None:
    """{'commit': hash, 'dirty': bool} of a checkout; None outside of one.

    Args:
        folder: this code's by default.
    """
    folder = pathlib.Path(folder or pathlib.Path(__file__).parent)
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "dirty": bool(changes)}


def peak_flops(device_kind: str, dtype: str = "bfloat16") -> float | None:
    """What one device can do at most, FLOP/s; None if unknown.

    Args:
        device_kind: `jax.Device.device_kind`.
        dtype: 'bfloat16' or 'float16'. Utilisation is by custom a share of this peak,
            whatever the model computes in; no other is listed.
    """
    if dtype not in ("bfloat16", "float16"):
        return None
    for pattern, tera in _PEAK_TFLOPS:
        if re.search(pattern, device_kind, re.IGNORECASE):
            return tera * 1e12
    return None


def memory_bytes(device: jax.Device) -> int | None:
    """Memory that programs may use on a device; None if unknown.

    CPU devices of a process share the host's memory evenly.
    """
    if device.platform == "cpu":
        total = _host_memory()
        return total and total // jax.local_device_count()
    try:
        return (device.memory_stats() or {}).get("bytes_limit")
    except Exception:  # noqa: BLE001, devices that are only compiled for have none
        return None


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _git(folder: pathlib.Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=10
    )
    return done.stdout.strip()


def _host_memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
