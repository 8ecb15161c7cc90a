import functools
import io
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from data import workers
from data.loading import BatchLoader, Reader
from data.order import Order
from data.sources import Arrays

linux = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="reads /proc")


def pool(num_workers=2, numbers=range(2**40), transforms=()):
    source = Arrays(arrays={"id": np.arange(100)})
    loader = BatchLoader(Reader(source, transforms), Order(100), seed=0, size=4)
    return workers.WorkerPool(loader, numbers, num_workers, num_threads=0, prefetch=0)


def gone(pid: int) -> bool:
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state[0] == "Z"  # dead; whoever adopted it has not looked yet


def wait_for(condition, seconds=20.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


class OneByteAtATime(io.RawIOBase):
    """A pipe that never takes or gives more than a little."""

    def __init__(self):
        self.content = bytearray()

    def write(self, data):
        taken = bytes(data[:7])
        self.content += taken
        return len(taken)

    def readinto(self, view):
        count = min(len(view), 5, len(self.content))
        view[:count] = self.content[:count]
        del self.content[:count]
        return count


def test_messages_arrive_whole():
    arrays = {
        "a": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
        "b": np.float32(1.5) * np.ones((5, 0)),
        "c": np.array(True),
        "d": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    }
    stream = OneByteAtATime()
    workers.write_message(stream, ("part", {"batch": arrays, "skipped": ["x"]}))
    workers.write_message(stream, "next")
    kind, part = workers.read_message(stream)
    assert (kind, part["skipped"]) == ("part", ["x"])
    for key, array in arrays.items():
        np.testing.assert_array_equal(part["batch"][key], array)
        assert part["batch"][key].dtype == array.dtype
        assert part["batch"][key].flags.writeable
    assert workers.read_message(stream) == "next"
    with pytest.raises(EOFError):
        workers.read_message(stream)


def test_parts_come_in_order_and_end():
    parts = pool(num_workers=3, numbers=range(1, 10, 2))
    found = [part["batch"]["id"].tolist() for part in parts]
    assert found == [[4 * k + i for i in range(4)] for k in (1, 3, 5, 7, 9)]
    with pytest.raises(StopIteration):
        next(parts)
    parts.close()


@linux
def test_closing_ends_the_processes():
    parts = pool()
    next(parts)
    pids = parts.pids
    assert not any(gone(pid) for pid in pids)
    parts.close()
    parts.close()
    assert all(gone(pid) for pid in pids)


@linux
def test_forgetting_ends_the_processes():
    parts = pool()
    next(parts)
    pids = parts.pids
    del parts
    assert wait_for(lambda: all(gone(pid) for pid in pids))


@linux
def test_a_dead_worker_is_an_error_not_a_silence():
    parts = pool()
    next(parts)
    for pid in parts.pids:
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="input worker died with exit status -9"):
        while True:  # what it sent before is as good as ever
            next(parts)
    with pytest.raises(RuntimeError, match="died"):
        next(parts)
    parts.close()


@linux
def test_signals_to_the_whole_job_are_left_to_the_parent():
    parts = pool(num_workers=1)
    next(parts)
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(parts.pids[0], number)
    for _ in range(50):
        next(parts)
    parts.close()


def look_around(example, rng):
    jax = "jax" in sys.modules
    return {"jax": jax, "cpu": os.environ["JAX_PLATFORMS"] == "cpu"}


def test_workers_know_no_accelerator(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    parts = pool(num_workers=1, transforms=(look_around,))
    batch = next(parts)["batch"]
    parts.close()
    assert batch["cpu"].all()
    assert not batch["jax"].any()


def test_what_a_transform_raises_is_raised():
    def fail(example, rng):
        raise KeyError("no such thing")

    parts = pool(num_workers=1, transforms=(fail,))
    with pytest.raises(KeyError, match="no such thing"):
        next(parts)
    parts.close()


def test_what_cannot_be_sent_is_described():
    class Odd(Exception):
        def __init__(self, one, two):
            super().__init__("odd")

    def fail(example, rng):
        raise Odd(1, 2)

    parts = pool(num_workers=1, transforms=(fail,))
    with pytest.raises(RuntimeError, match="Odd: odd"):
        next(parts)
    parts.close()


# A shell's background job starts with SIGINT ignored, and so would this.
PARENT = """
import signal
import sys
signal.signal(signal.SIGINT, signal.default_int_handler)
import numpy as np
from data.pipeline import Pipeline
from data.sources import Arrays
source = Arrays(arrays={"x": np.zeros((16, 200_000), np.uint8)})
batches = Pipeline(source, num_workers=2, num_threads=0).train_batches(batch_size=16, seed=0)
next(batches)
print(*batches._parts.pids, flush=True)
for batch in batches:
    pass
"""


@linux
@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM", "SIGINT", "group", "exit"])
def test_nothing_outlives_the_parent(how, request):
    script = PARENT
    if how == "exit":
        script = script.partition("for batch")[0] + "sys.stdin.read()"
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd=request.config.rootpath,
    )
    request.addfinalizer(parent.kill)
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    assert not any(gone(pid) for pid in pids)
    # Named memory would stay if all were killed at once; nobody has any.
    for pid in (parent.pid, *pids):
        assert "/dev/shm/" not in pathlib.Path(f"/proc/{pid}/maps").read_text()
    if how == "exit":
        parent.stdin.close()
    else:
        kill = os.killpg if how == "group" else os.kill
        number = signal.SIGKILL if how == "group" else getattr(signal, how)
        functools.partial(kill, parent.pid, number)()
    status = parent.wait(20)
    assert (status == 0) == (how == "exit")
    assert wait_for(lambda: all(gone(pid) for pid in pids))
