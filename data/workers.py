"""Worker processes that load batches and die with the process that started them.

Batches come through pipes: unlike named shared memory (Grain's own worker processes), a
pipe leaves nothing behind when every process of a job is killed at once. A worker waits
for the end of its standard input, which the system closes when the parent is gone,
however it went. Workers start as plain interpreters: neither the parent's script nor an
accelerator is touched again.
"""

import json
import os
import pickle
import queue
import signal
import struct
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import cloudpickle
import numpy as np

from data.loading import BatchLoader, load_ahead

_PIPE_BYTES = 1 << 20
_LINUX_SET_PIPE_SIZE = 1031  # fcntl.F_SETPIPE_SZ
_CLOSE_SECONDS = 5.0
_STARTUP = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from data.workers import serve; serve(int(sys.argv[2]))"
)


class WorkerPool(Iterator):
    """Parts in order, part k loaded by worker k % num_workers.

    Args:
        loader: makes one part from its number; must be picklable.
        numbers: of the parts.
        num_workers: processes.
        num_threads: in each.
        prefetch: parts that each loads ahead.
    """

    def __init__(
        self,
        loader: BatchLoader,
        numbers: range,
        num_workers: int,
        num_threads: int,
        prefetch: int,
    ):
        self._turn = 0
        self._workers = [
            _Worker(
                cloudpickle.dumps(
                    (loader, numbers[index::num_workers], num_threads, prefetch)
                )
            )
            for index in range(num_workers)
        ]

    @property
    def pids(self) -> list[int]:
        """The processes."""
        return [worker.pid for worker in self._workers]

    def __next__(self) -> dict[str, Any]:
        worker = self._workers[self._turn % len(self._workers)]
        part = worker.take()
        self._turn += 1
        return part

    def close(self) -> None:
        """Ends the processes."""
        for worker in self._workers:
            worker.close()


class _Worker:
    """One process, and the thread that reads what it sends."""

    def __init__(self, job: bytes):
        receiving, sending = os.pipe()
        _widen(sending)
        path = json.dumps([os.path.abspath(entry) for entry in sys.path])
        self._process = subprocess.Popen(
            [sys.executable, "-c", _STARTUP, path, str(sending)],
            stdin=subprocess.PIPE,
            stdout=sys.stderr.fileno() if _has_descriptor(sys.stderr) else None,
            pass_fds=(sending,),
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
        )
        os.close(sending)
        self.pid = self._process.pid
        self._parts: queue.Queue = queue.Queue(maxsize=1)
        self._ended: BaseException | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(
            target=_receive,
            args=(self._process, job, receiving, self._parts, self._closed),
            daemon=True,
        )
        self._thread.start()
        self._finalize = weakref.finalize(
            self, _end, self._process, self._closed, self._thread
        )

    def take(self) -> dict[str, Any]:
        """The next part, or what went wrong instead."""
        if self._ended is None:
            kind, content = self._parts.get()
            if kind == "part":
                return content
            self._ended = content if kind == "error" else StopIteration()
            self.close()
        raise self._ended

    def close(self) -> None:
        self._finalize()


def _widen(pipe: int) -> None:
    if sys.platform == "linux":
        import fcntl  # not everywhere

        try:
            fcntl.fcntl(pipe, _LINUX_SET_PIPE_SIZE, _PIPE_BYTES)
        except OSError:
            pass  # over this user's limit: slower, not wrong


def _has_descriptor(stream: Any) -> bool:
    try:
        return stream.fileno() >= 0
    except (AttributeError, OSError, ValueError):
        return False


def _end(
    process: subprocess.Popen, closed: threading.Event, thread: threading.Thread
) -> None:
    closed.set()
    try:
        process.stdin.close()
    except OSError:
        pass  # it is gone already
    try:
        process.wait(_CLOSE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    thread.join()


def _receive(
    process: subprocess.Popen,
    job: bytes,
    receiving: int,
    parts: queue.Queue,
    closed: threading.Event,
) -> None:
    with os.fdopen(receiving, "rb", buffering=0) as stream:
        message = None
        try:
            process.stdin.write(struct.pack("<Q", len(job)) + job)
            process.stdin.flush()
            while message is None or message[0] == "part":
                message = read_message(stream)
                _put(parts, message, closed)
        except (EOFError, OSError, ValueError):
            if not closed.is_set():
                status = process.wait()
                death = RuntimeError(
                    f"an input worker died with exit status {status} (-9: killed, "
                    "perhaps for want of memory); its last words, if any, stand above"
                )
                _put(parts, ("error", death), closed)


def _put(parts: queue.Queue, message: Any, closed: threading.Event) -> None:
    while not closed.is_set():
        try:
            return parts.put(message, timeout=0.1)
        except queue.Full:
            continue


def write_message(stream: Any, message: Any) -> None:
    """Sends an object; arrays go as they lie in memory."""
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
    raw = [buffer.raw() for buffer in buffers]
    sizes = [len(raw), len(head), *(view.nbytes for view in raw)]
    for view in (struct.pack(f"<{len(sizes)}Q", *sizes), head, *raw):
        rest = memoryview(view)
        while rest.nbytes:
            rest = rest[stream.write(rest) :]


def read_message(stream: Any) -> Any:
    """Receives an object; every array in memory of its own.

    Raises:
        EOFError: if the other side is gone.
    """
    count, length = struct.unpack("<2Q", _read(stream, 16))
    sizes = struct.unpack(f"<{count}Q", _read(stream, 8 * count))
    head = _read(stream, length)
    return pickle.loads(head, buffers=[_read(stream, size) for size in sizes])


def _read(stream: Any, size: int) -> np.ndarray:
    memory = np.empty(size, np.uint8)
    view = memoryview(memory)
    while view.nbytes:
        got = stream.readinto(view)
        if not got:
            raise EOFError
        view = view[got:]
    return memory


def serve(sending: int) -> None:
    """The life of a worker process: reads its job, sends parts, ends with its parent."""
    # A terminal's Ctrl-C and a scheduler's SIGTERM reach every process of the job; the
    # parent decides what becomes of it, and may need batches until its last step.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    stdin = sys.stdin.buffer
    length = int.from_bytes(stdin.read(8), "little")
    job = stdin.read(length)
    if not length or len(job) < length:
        return  # the parent is gone already
    threading.Thread(target=_die_with_parent, daemon=True).start()
    with os.fdopen(sending, "wb", buffering=0) as stream:
        try:
            loader, numbers, num_threads, prefetch = pickle.loads(job)
            for part in load_ahead(loader, numbers, num_threads, prefetch):
                write_message(stream, ("part", part))
            last = ("end", None)
        except BrokenPipeError:
            os._exit(0)
        except Exception as error:  # noqa: BLE001 - it is raised again in the parent
            last = ("error", _sendable(error))
        write_message(stream, last)
    os._exit(0)  # not waiting for what was loaded ahead


def _die_with_parent() -> None:
    while os.read(0, 1):  # nothing comes but the end
        pass
    os._exit(0)


def _sendable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - whatever its class does when pickled
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
