import types

import pytest

from training import trace


def event(name, begin, end=None, **stats):
    end = begin if end is None else end
    return types.SimpleNamespace(
        name=name, start_ns=float(begin), end_ns=float(end), stats=list(stats.items())
    )


def op(name, begin, end):
    return event(name, begin, end, hlo_op=name, hlo_module="jit_step")


def record(number, at):
    return event("ThreadpoolListener::Record", at, _p=number)


def region(number, begin, end):
    start = event("ThreadpoolListener::StartRegion", begin, _c=number)
    return [start, event("ThreadpoolListener::StopRegion", end)]


def plane(name, **lines):
    return types.SimpleNamespace(
        name=name,
        lines=[types.SimpleNamespace(name=k, events=v) for k, v in lines.items()],
    )


def spans(*rows):
    return [trace._Span(*row) for row in rows]


def test_nested_spans_belong_to_the_innermost():
    nested = spans((0, 100, "loop"), (10, 30, "a"), (30, 40, "b"), (35, 40, "c"))
    assert trace._innermost(nested) == spans(
        (0, 10, "loop"),
        (10, 30, "a"),
        (30, 35, "b"),
        (35, 40, "c"),
        (40, 100, "loop"),
    )


def test_concurrent_operations_share_each_instant():
    streams = [spans((0, 10, "a"), (20, 30, "a")), spans((5, 10, "b"), (20, 50, "b"))]
    shared = trace._shared(streams, (0, 40))
    assert shared == {"a": 5 + 2.5 + 5, "b": 2.5 + 5 + 10}
    twice = trace._shared([spans((0, 9, "a")), spans((0, 9, "a"))], (0, 9))
    assert twice == {"a": 9}, "two threads of one operation are no two steps"
    thirds = [spans((0, 9, "a")), spans((0, 9, "a")), spans((0, 9, "b"))]
    assert trace._shared(thirds, (0, 9)) == {"a": 6, "b": 3}


def read(monkeypatch, tmp_path, *planes):
    (tmp_path / "host.xplane.pb").write_bytes(b"")
    data = types.SimpleNamespace(planes=planes)
    loader = types.SimpleNamespace(from_file=lambda path: data)
    monkeypatch.setattr(trace, "ProfileData", loader)
    return trace.read(tmp_path)


STEPS = [event("train", 0, 100, step_num=1), event("train", 100, 200, step_num=2)]


def test_work_in_the_thread_pool_is_its_sender_s(monkeypatch, tmp_path):
    """A product begins on one thread and goes on in the pool, twice handed over."""
    main = [op("dot", 0, 10), record(1, 5), event("end: dot", 60), op("add", 100, 120)]
    worker = [*region(1, 20, 60), record(2, 30)]
    other = [*region(2, 40, 80), op("copy", 50, 60), *region(99, 150, 170)]
    host = plane("/host:CPU", python=STEPS, main=main, worker=worker, other=other)
    usage = read(monkeypatch, tmp_path, host)
    busy = {op: round(seconds * 1e9, 6) for (_, op), seconds in usage.busy.items()}
    # dot: 0-10, 20-60 (with copy beside it 50-60), 60-80; all over two steps.
    assert busy == {"dot": (10 + 30 + 5 + 20) / 2, "copy": 5 / 2, "add": 20 / 2}
    assert usage.steps == 2 and usage.total == pytest.approx(100e-9)
    assert usage.idle == pytest.approx(usage.total - sum(usage.busy.values()))


def test_streams_of_a_gpu(monkeypatch, tmp_path):
    host = plane("/host:CPU", python=STEPS, main=[op("ignored", 0, 9)])
    gpu = plane(
        "/device:GPU:0",
        compute=[
            event("kernel_a", 0, 80, hlo_op="fusion.1", hlo_module="jit_step"),
            event("memset", 90, 95),
        ],
        communication=[
            event("nccl", 40, 80, hlo_op="all-reduce", hlo_module="jit_step")
        ],
    )
    usage = read(monkeypatch, tmp_path, host, gpu)
    assert usage.busy == pytest.approx(
        {
            ("jit_step", "fusion.1"): 60e-9 / 2,
            ("jit_step", "all-reduce"): 20e-9 / 2,
        }
    )


def test_operations_of_two_tpus_are_averaged(monkeypatch, tmp_path):
    def tpu(i, length):
        named = event("%fusion.3 = f32[8]{0} fusion(%p)", 0, length)
        return plane(
            f"/device:TPU:{i}",
            **{"XLA Ops": [named], "XLA Modules": [event("jit_step(12)", 0, 200)]},
        )

    host = plane("/host:CPU", python=STEPS)
    usage = read(monkeypatch, tmp_path, host, tpu(0, 100), tpu(1, 60))
    assert usage.busy == pytest.approx({("", "fusion.3"): 80e-9 / 2})


def test_without_a_marked_step_there_is_nothing(monkeypatch, tmp_path):
    assert trace.read(tmp_path) is None
    host = plane("/host:CPU", main=[op("dot", 0, 10)])
    assert read(monkeypatch, tmp_path, host) is None
