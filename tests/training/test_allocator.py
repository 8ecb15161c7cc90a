"""Freed memory is kept where that helps, and nothing is touched elsewhere."""

import platform
import subprocess
import sys

import pytest

from training import allocator

SCRIPT = """
import resource
from training import allocator
kept = {keep} and allocator.keep_freed_memory()
import numpy as np
def faults():
    for _ in range(8):
        x = np.empty(6_000_000)
        x[::256] = 1
        del x
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = faults()
print(kept, faults() - before)
"""


def run(keep, **environment):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(keep=keep)],
        env={"PYTHONPATH": ".", "JAX_PLATFORMS": "cpu", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    kept, faults = done.stdout.split()
    return kept == "True", int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not glibc")
def test_pages_are_not_asked_for_again():
    kept, few = run(True)
    left, many = run(False)
    assert kept and not left
    assert many > 1000 and few < many / 20


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not glibc")
def test_the_environments_own_word_holds():
    assert run(True, MALLOC_ARENA_MAX="2")[0] is False


def test_accelerators_are_left_alone(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "")
    monkeypatch.setattr(allocator.importlib.util, "find_spec", lambda name: object())
    assert not allocator.keep_freed_memory()
