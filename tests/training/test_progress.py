import io
import logging
import sys

import pytest
from rich.console import Console
from rich.text import Text

from training import progress
from training.progress import Progress, duration_text, number_text, summary


class Clock:
    """Stands in for the module's clock: the tests say what time it is."""

    def __init__(self):
        self.now = 100.0

    def perf_counter(self):
        return self.now


class Tty(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def plain() -> Console:
    return Console(file=io.StringIO(), width=120, highlight=False)


def terminal(width=200) -> Console:
    return Console(
        file=io.StringIO(), width=width, force_terminal=True, highlight=False
    )


def test_measures_the_steps_since_the_last_report(clock):
    bar = Progress(100, 0, 32, flops_per_step=3e9, peak_flops=1e10, console=plain())
    with bar:
        for step in range(1, 5):
            clock.now += 0.5
            bar.advance(step, data_wait=0.1)
        assert bar.report(4, {}) == pytest.approx(
            {
                "examples_per_second": 64,
                "steps_per_second": 2,
                "data_wait": 0.2,
                "mfu": 0.6,
            }
        )
        clock.now += 1
        bar.advance(5)
        second = bar.report(5, {})
        assert second["steps_per_second"] == pytest.approx(1)
        assert second["data_wait"] == 0
        assert bar.report(5, {}) == {}, "no step since"


def test_pauses_do_not_count_as_training(clock):
    bar = Progress(100, 0, 10, console=plain())
    with bar:
        clock.now += 1
        with bar.pause("evaluating"):
            clock.now += 50
        bar.advance(2, data_wait=0.5)
        figures = bar.report(2, {})
    assert figures["steps_per_second"] == pytest.approx(2)
    assert figures["data_wait"] == pytest.approx(0.5)
    assert "mfu" not in figures


def test_a_pause_that_fails_is_still_left_out(clock):
    bar = Progress(100, 0, 10, console=plain())
    with bar:
        with pytest.raises(KeyError), bar.pause("saving"):
            clock.now += 9
            raise KeyError
        clock.now += 1
        assert bar.report(1, {})["steps_per_second"] == pytest.approx(1)


def test_the_estimated_end_counts_recurring_pauses_only(clock):
    console = plain()
    bar = Progress(100, 50, 1, console=console)
    with bar:
        with bar.pause("compiling", once=True):
            clock.now += 1000
        clock.now += 10
        with bar.pause("evaluating"):
            clock.now += 20
        bar.report(60, {})
    # 40 steps of 1 s, and 2 s of evaluation for each.
    assert "2:00 left" in console.file.getvalue()


def test_a_file_gets_plain_lines_at_reports_only(clock):
    console = plain()
    bar = Progress(2000, 0, 100, console=console)
    with bar:
        for step in range(1, 101):
            clock.now += 0.1
            bar.advance(step, data_wait=0.01)
        assert console.file.getvalue() == ""
        bar.report(100, {"loss": 1 / 3, "accuracy": 0.5})
        bar.message("saved [at] /a/" + "long" * 60)
    first, second = console.file.getvalue().splitlines()
    assert first == (
        "step 100/2,000 | 3:10 left | loss 0.3333 | accuracy 0.5000 | "
        "1,000 examples/s | data wait 10.0%"
    )
    assert second == "saved [at] /a/" + "long" * 60, "neither markup nor a line break"


def test_a_terminal_gets_one_line_redrawn(clock):
    console = terminal()
    bar = Progress(100, 0, 10, console=console)
    with bar:
        start = len(console.file.getvalue())
        clock.now += 0.1
        bar.advance(1)
        assert "step 1/100" in console.file.getvalue()[start:]
        start = len(console.file.getvalue())
        clock.now += 0.1
        bar.advance(2)
        assert console.file.getvalue()[start:] == "", "too soon to redraw"
        clock.now += 1
        bar.advance(3)
        shown = console.file.getvalue()[start:]
        assert "step 3/100" in shown and "25 examples/s" in shown
        with bar.pause("evaluating"):
            assert "evaluating ..." in console.file.getvalue()[start:]
        bar.message("a line that stays")
    assert "a line that stays\n" in console.file.getvalue()
    assert console.file.getvalue().count("\n") == 2, "the message and the last line"


def test_a_narrow_terminal_still_gets_one_line(clock):
    console = terminal(width=40)
    with Progress(100, 0, 10, console=console) as bar:
        clock.now += 1
        bar.report(1, {f"metric_{i}": i for i in range(20)})
    assert console.file.getvalue().count("\n") == 1


@pytest.mark.parametrize("name", [None, "somewhere"])
def test_log_handlers_write_above_the_live_line_and_are_put_back(name, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Tty())
    logger = logging.getLogger(name)
    handler = logging.StreamHandler(sys.stderr)
    before = handler.stream
    logger.addHandler(handler)
    try:
        console = terminal()
        with Progress(100, 0, 10, console=console):
            logging.getLogger("somewhere").warning("look out")
            assert "look out" in console.file.getvalue()
        assert handler.stream is before
    finally:
        logger.removeHandler(handler)


def test_a_stderr_that_goes_to_a_file_still_does(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    console = terminal()
    with Progress(100, 0, 10, console=console):
        print("look out", file=sys.stderr)
    assert sys.stderr.getvalue() == "look out\n"
    assert "look out" not in console.file.getvalue()


def test_other_hosts_measure_in_silence(clock):
    console = terminal()
    with Progress(100, 0, 10, active=False, console=console) as bar:
        clock.now += 1
        bar.advance(1)
        assert bar.report(1, {"loss": 1.0})["steps_per_second"] == pytest.approx(1)
        bar.message("hidden")
    assert console.file.getvalue() == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.5, "0.5000"),
        (0.0001234, "0.0001234"),
        (1234.56, "1,235"),
        (12.3456, "12.35"),
        (-0.25, "-0.2500"),
        (0.0, "0"),
        (1e-7, "1.000e-07"),
        (3e9, "3.000e+09"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
    ],
)
def test_numbers_for_people(value, text):
    assert number_text(value) == text


def test_durations_for_people():
    texts = [duration_text(s) for s in (0, 75.4, 3700, 90061)]
    assert texts == ["0:00", "1:15", "1:01:40", "1 d 1:01:01"]


def test_the_summary_never_cuts_a_path():
    path = "/a/" + "long/" * 60
    for console in (plain(), terminal(width=80)):
        summary("Finished", {"folder": path, "best": "1 [of 1]"}, console=console)
        text = Text.from_ansi(console.file.getvalue()).plain
        assert text.split("\n")[:3] == [
            "Finished",
            f"  folder  {path}",
            "  best    1 [of 1]",
        ]
