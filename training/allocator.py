"""Freed memory stays with the process, so that the next step need not ask for it again.

XLA on CPU allocates a step's buffers anew and frees them afterwards. glibc gives large ones
back to the kernel each time, and the kernel clears every page that is asked for again, which
takes up to a third of a small Transformer's processor time. Whether the step gets faster
depends on what else the cores have to do; `benchmarks/allocator.py` measures it. The price
is that the process keeps its peak of memory until it ends.
"""

import ctypes
import importlib.util
import os
import sys

# glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8
_GROWTH = 64 * 2**20
_PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin", "jax_rocm60_plugin", "libtpu")


def keep_freed_memory() -> bool:
    """Sets glibc's allocator; returns whether it did. Call it before threads start.

    Does nothing where steps run on an accelerator (one heap for all threads would only
    slow the input pipeline there), on other platforms, or where a variable of glibc's own
    (MALLOC_ARENA_MAX, say) already says how to allocate.
    """
    told = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    if told or sys.platform != "linux" or _may_have_accelerator():
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all(
        [
            mallopt(_ARENA_MAX, 1),  # arenas of threads are small and use mmap beyond
            mallopt(_MMAP_MAX, 0),  # large blocks come from the heap, too
            mallopt(_TRIM_THRESHOLD, -1),  # whose end is never given back
            mallopt(_TOP_PAD, _GROWTH),
        ]
    )


def _may_have_accelerator() -> bool:
    """Whether JAX has a plugin for one and is not told to use the CPU. Starts nothing."""
    if os.environ.get("JAX_PLATFORMS", "") == "cpu":
        return False
    return any(importlib.util.find_spec(name) for name in _PLUGINS)
