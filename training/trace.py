"""Reads a profiler trace: how long each operation kept the machine busy.

On accelerators an operation is an interval on one of a device's streams. On CPUs it is an
interval on the thread that began it, and the pieces of work that it handed to the thread
pool. An instant at which several run is shared among them equally, so that all shares and
the idle time add up to the whole.
"""

import collections
import dataclasses
import pathlib
from collections.abc import Iterable
from typing import Any

from jax.profiler import ProfileData

# (module, operation), such as ('jit_train_step', 'fusion.12').
Op = tuple[str, str]
_RECORD = "ThreadpoolListener::Record"
_START = "ThreadpoolListener::StartRegion"
_STOP = "ThreadpoolListener::StopRegion"


@dataclasses.dataclass(frozen=True)
class Usage:
    """Where the time of the traced steps went, per device.

    Args:
        steps: how many were traced.
        total: seconds of one step, from its dispatch to the next one's.
        busy: seconds of one step, by operation; a mean over the devices.
    """

    steps: int
    total: float
    busy: dict[Op, float]

    @property
    def idle(self) -> float:
        """Seconds of one step in which no operation ran."""
        return max(self.total - sum(self.busy.values()), 0.0)


@dataclasses.dataclass(frozen=True)
class _Span:
    begin: float
    end: float
    owner: Any  # An Op, or the id of the record that handed the work over.


def read(folder: pathlib.Path) -> Usage | None:
    """Reads the newest trace below `folder`; None if it holds no marked step."""
    files = sorted(folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    if not files:
        return None
    planes = list(ProfileData.from_file(str(files[-1])).planes)
    steps = _steps(planes)
    if not steps:
        return None
    window = min(begin for begin, _ in steps), max(end for _, end in steps)
    devices = [p for p in planes if p.name.startswith(("/device:TPU", "/device:GPU"))]
    devices = [spans for p in devices if any(spans := _device_streams(p))]
    if not devices:
        devices = [_cpu_threads(p) for p in planes if p.name.startswith("/host:CPU")]
    busy: dict[Op, float] = collections.defaultdict(float)
    for streams in devices:
        for op, time in _shared(streams, window).items():
            busy[op] += time / len(devices) / len(steps) / 1e9
    total = (window[1] - window[0]) / len(steps) / 1e9
    return Usage(len(steps), total, dict(busy))


def _steps(planes: Iterable) -> list[tuple[float, float]]:
    """Begin and end of each `StepTraceAnnotation` on the host, ns."""
    found = []
    for plane in planes:
        if not plane.name.startswith("/host:"):
            continue
        for line in plane.lines:
            for event in line.events:
                if any(name == "step_num" for name, _ in event.stats):
                    found.append((event.start_ns, event.end_ns))
    return found


def _device_streams(plane: Any) -> list[list[_Span]]:
    """Operations on each stream of an accelerator."""
    lines = list(plane.lines)
    # TPUs list operations on a line of their own, beside steps and modules.
    named = [line for line in lines if line.name == "XLA Ops"]
    streams = []
    for line in named or lines:
        spans = []
        for event in line.events:
            stats = dict(event.stats)
            if "hlo_op" not in stats and not named:
                continue
            name = str(stats.get("hlo_op") or event.name.split(" ")[0]).lstrip("%")
            op = (str(stats.get("hlo_module", "")).split("(")[0], name)
            spans.append(_Span(event.start_ns, event.end_ns, op))
        streams.append(_innermost(spans))
    return streams


def _cpu_threads(plane: Any) -> list[list[_Span]]:
    """Operations on each thread of a host, with their work in the thread pool."""
    threads = [list(line.events) for line in plane.lines]
    spans, records = [], {}
    for events in threads:
        found, handed = _thread(events)
        spans.append(found)
        records |= handed

    def op_of(owner: Any) -> Op | None:
        for _ in range(1000):  # Work that work handed over; a chain, not a circle.
            if isinstance(owner, tuple) or owner is None:
                return owner
            owner = records.get(owner)
        return None

    resolved = []
    for thread in spans:
        owned = [dataclasses.replace(span, owner=op_of(span.owner)) for span in thread]
        resolved.append([span for span in owned if span.owner is not None])
    return resolved


def _thread(events: list) -> tuple[list[_Span], dict[int, Any]]:
    """Spans of a thread, none inside another, and who handed over which work."""
    spans, handed, began = [], [], None
    for event in sorted(events, key=lambda event: event.start_ns):
        if event.name.startswith("end: "):
            continue
        stats = dict(event.stats)
        if event.name == _RECORD:
            handed.append((event.start_ns, stats.get("_p")))
        elif event.name == _START:
            began = event.start_ns, stats.get("_c")
        elif event.name == _STOP and began is not None:
            spans.append(_Span(began[0], event.start_ns, began[1]))
            began = None
        elif "hlo_op" in stats:
            op = str(stats.get("hlo_module", "")), str(stats["hlo_op"])
            spans.append(_Span(event.start_ns, event.end_ns, op))
    flat = _innermost(spans)
    records, i = {}, 0
    for time, record in handed:
        while i < len(flat) and flat[i].end < time:
            i += 1
        if i < len(flat) and flat[i].begin <= time:
            records[record] = flat[i].owner
    return flat, records


def _innermost(spans: list[_Span]) -> list[_Span]:
    """Nested spans as spans side by side: each instant belongs to the innermost."""
    result: list[_Span] = []
    stack: list[_Span] = []
    now = 0.0

    def advance(time: float) -> None:
        nonlocal now
        if stack and time > now:
            result.append(_Span(now, time, stack[-1].owner))
        now = max(now, time)

    for span in sorted(spans, key=lambda span: (span.begin, -span.end)):
        while stack and stack[-1].end <= span.begin:
            advance(stack[-1].end)
            stack.pop()
        advance(span.begin)
        stack.append(span)
    while stack:
        advance(stack[-1].end)
        stack.pop()
    return result


def _shared(streams: list[list[_Span]], window: tuple[float, float]) -> dict[Op, float]:
    """Time of each operation within the window; concurrent ones share it equally."""
    edges = []
    for span in (span for stream in streams for span in stream):
        begin, end = max(span.begin, window[0]), min(span.end, window[1])
        if end > begin:
            edges += [(begin, 1, span.owner), (end, -1, span.owner)]
    edges.sort(key=lambda edge: edge[:2])
    time: dict[Op, float] = collections.defaultdict(float)
    running: collections.Counter = collections.Counter()
    before = window[0]
    for now, change, op in edges:
        if now > before and running:
            part = (now - before) / running.total()
            for other, count in running.items():
                time[other] += part * count
        before = now
        running[op] += change
        if not running[op]:
            del running[op]
    return dict(time)
