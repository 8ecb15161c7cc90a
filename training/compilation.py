"""How programs are compiled: XLA's options for each backend, and its persistent cache.

The options are experimental names that come and go with jaxlib. Each is tried on a
trivial program first; one that is refused costs a log line, never the run.
"""

import functools
import hashlib
import logging
import os
import pathlib
import platform
import tempfile
import warnings
from collections.abc import Mapping
from typing import Any

import jax

_log = logging.getLogger("tessera")

_OPTIONS = {
    "cpu": {
        # XLA:CPU gives convolutions and reductions to YNNPACK. It is fast at reductions,
        # but 2 to 7 times slower than Eigen at the kernel gradients of convolutions.
        "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE",
    },
    "gpu": {},
    "tpu": {},
}
# For several devices: collectives run beside the arithmetic that does not need them yet.
# On TPUs this is the compiler's default.
_OVERLAP_OPTIONS = {
    "gpu": {
        "xla_gpu_enable_latency_hiding_scheduler": True,
        # The next layer's parameters are gathered while this one computes (FSDP), also
        # across the iterations of a scan over layers.
        "xla_gpu_enable_pipelined_all_gather": True,
        "xla_gpu_enable_pipelined_reduce_scatter": True,
        "xla_gpu_enable_pipelined_all_reduce": True,
        "xla_gpu_enable_while_loop_double_buffering": True,
        # Few large collectives instead of one for each parameter.
        "xla_gpu_all_gather_combine_threshold_bytes": 2**27,
        "xla_gpu_reduce_scatter_combine_threshold_bytes": 2**27,
        "xla_gpu_all_reduce_combine_threshold_bytes": 2**27,
    },
}
# Makes every operation an event of a trace. The option in XLA_FLAGS would do as well, but
# there a jaxlib that does not know it ends the process. On GPUs, operations launched
# together would be one event: let no graph be large enough.
_TRACE_OPTIONS = {
    "cpu": {"xla_cpu_enable_xprof_traceme": True},
    "gpu": {"xla_gpu_graph_min_graph_size": 1_000_000},
}

# Compilations shorter than this are not worth a file; JAX's own bound is 1 s.
_CACHE_SECONDS = 0.2
_CACHE_BYTES = 4 * 2**30
_CACHE_TROUBLE = "persistent compilation cache entry for '"


def compiler_options(
    override: Mapping[str, Any] | None = None,
    *,
    backend: str | None = None,
    devices: int | None = None,
    traced: bool = False,
) -> dict[str, Any]:
    """The options to compile an update with: `jax.jit(..., compiler_options=...)`.

    Args:
        override: options to use instead of the backend's own; {} for none at all.
        backend: 'cpu', 'gpu' or 'tpu'; the default backend if None.
        devices: how many the program runs on; all there are if None.
        traced: adds, to whatever was chosen, what the profiler needs.

    Returns:
        Those that this jaxlib accepts. Each of the others is named in one log line.
    """
    backend = backend or jax.default_backend()
    if override is None:
        override = dict(_OPTIONS.get(backend, {}))
        if (devices or jax.device_count()) > 1:
            override |= _OVERLAP_OPTIONS.get(backend, {})
    if traced:
        override = {**override, **_TRACE_OPTIONS.get(backend, {})}
    refusals = _refusals(tuple(override.items()))
    for name, reason in refusals.items():
        value = override[name]
        _log.warning("going on without compiler option %s=%s: %s", name, value, reason)
    return {name: v for name, v in override.items() if name not in refusals}


def set_matmul_precision(precision: str | None) -> None:
    """How exactly float32 products are computed from here on.

    On CPUs all settings are equal. On GPUs 'default' rounds factors to TensorFloat-32
    and on TPUs to bfloat16; 'high' and 'highest' cost 3 and 6 times as much there.

    Args:
        precision: 'default', 'high', 'highest' or None, JAX's own choice.

    Raises:
        ValueError: for another value.
    """
    known = ("default", "high", "highest")
    if precision is not None and precision not in known:
        raise ValueError(
            f"matmul_precision {precision!r} is none of {', '.join(known)}"
        )
    jax.config.update("jax_default_matmul_precision", precision)


def _refusals(options: tuple[tuple[str, Any], ...]) -> dict[str, str]:
    """Which options this jaxlib does not take, and why."""
    if _refusal(options) is None:
        return {}
    # Together they fail; one by one they show which.
    reasons = {name: _refusal(((name, value),)) for name, value in options}
    return {name: reason for name, reason in reasons.items() if reason is not None}


@functools.lru_cache(typed=True)
def _refusal(options: tuple[tuple[str, Any], ...]) -> str | None:
    probe = jax.jit(lambda x: x + 1, compiler_options=dict(options))
    try:
        probe.lower(jax.ShapeDtypeStruct((), "float32")).compile()
    except Exception as error:  # noqa: BLE001, a refusal may be of any type
        return next(iter(str(error).splitlines()), type(error).__name__)
    return None


def enable_compilation_cache(
    directory: str | os.PathLike | None = None,
) -> pathlib.Path | None:
    """Keeps compiled programs on disk, so that the next run starts sooner.

    Args:
        directory: where; 'off' for nowhere. None: `tessera/xla/` in the user's cache
            folder ($XDG_CACHE_HOME, or ~/.cache), in a folder for this kind of machine.
            It never grows beyond 4 GiB.

    Returns:
        The folder; None if off, or, after one log line, if it cannot be written.
    """
    if directory == "off":
        jax.config.update("jax_enable_compilation_cache", False)
        return None
    folder = pathlib.Path(directory).expanduser() if directory else default_cache()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        if directory is None:
            _prune(folder, _CACHE_BYTES)
    except OSError as error:
        _log.warning("no compilation cache in %s: %s", folder, error.strerror)
        return None
    jax.config.update("jax_enable_compilation_cache", True)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _CACHE_SECONDS)
    _mend_torn_entries(folder)
    return folder


def default_cache() -> pathlib.Path:
    """The folder of compiled programs in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return pathlib.Path(base).expanduser() / "tessera" / "xla" / _machine()


def _machine() -> str:
    """A short name of the processor and its features.

    Programs compiled for a CPU use its instructions, and a home directory may be shared
    by machines that lack them.
    """
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    kinds = ("model name", "flags", "Features", "CPU part")
    known = sorted({line for line in lines if line.startswith(kinds)})
    text = "\n".join([platform.machine(), platform.processor(), *known])
    return f"{platform.machine()}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _prune(folder: pathlib.Path, limit: int) -> None:
    """Removes the entries that were read longest ago, down to `limit` bytes."""
    entries = []
    for path in folder.iterdir():
        if path.is_file():
            status = path.stat()
            entries.append(
                (max(status.st_atime, status.st_mtime), status.st_size, path)
            )
    size = sum(entry[1] for entry in entries)
    for _, bytes_, path in sorted(entries):
        if size <= limit:
            return
        path.unlink(missing_ok=True)
        size -= bytes_


def _mend_torn_entries(folder: pathlib.Path) -> None:
    """Makes trouble with the cache one log line, and removes an entry cut short.

    A process killed while writing leaves half an entry. JAX warns about it in two lines,
    compiles, and never replaces it, so that every later run would warn again.
    """
    show = warnings.showwarning

    def show_or_mend(message, *rest, **kwargs):
        before, found, after = str(message).partition(_CACHE_TROUBLE)
        if not found:
            return show(message, *rest, **kwargs)
        module, _, reason = after.partition("'")
        if "reading" in before:
            for path in folder.glob(f"{module}-*"):
                path.unlink(missing_ok=True)
        first = next(iter(reason.strip(": ").splitlines()), "")
        _log.warning("compilation cache: %s not used: %s", module, first)

    # Enabled again, in another folder perhaps: wrap the original, not the wrapper.
    show = getattr(show, "original", show)
    show_or_mend.original = show
    warnings.showwarning = show_or_mend
