"""What a person sees while a run goes on: a live line, or plain lines in a log file.

On a terminal one line is redrawn in place; elsewhere a line is printed at every report
and nothing in between. Time spent in `pause` (evaluation, saving, compiling) counts
towards the estimated end, but not towards the speed of training.
"""

import contextlib
import logging
import math
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

# Redrawing takes 0.1 to 1 ms; twice a second nobody notices it.
_REDRAW_SECONDS = 0.5
_BAR_CELLS = 16


def make_console() -> Console:
    """Standard output: as wide as the terminal, or 120 columns in a file."""
    console = Console(highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console.width = 120
    return console


class Progress:
    """The progress of training; a context manager.

    Args:
        total_steps: steps of the whole run.
        start_step: steps done before, where the run resumes.
        batch_size: examples a step, over all hosts.
        flops_per_step: of the model, over all devices; None if unknown.
        peak_flops: of all devices together, FLOP/s; None if unknown.
        active: False on hosts other than 0: measures, prints nothing.
        console: where to print; standard output by default.
    """

    def __init__(
        self,
        total_steps: int,
        start_step: int,
        batch_size: int,
        *,
        flops_per_step: float | None = None,
        peak_flops: float | None = None,
        active: bool = True,
        console: Console | None = None,
    ):
        self._total = total_steps
        self._start = self._step = start_step
        self._batch_size = batch_size
        self._mfu_per_rate = None
        if flops_per_step and peak_flops:
            self._mfu_per_rate = flops_per_step / peak_flops
        self._active = active
        self._console = console or make_console()
        self._live = None
        self._handlers: list = []
        self._metrics: dict[str, float] = {}
        self._speed: dict[str, float] = {}
        self._phase = ""
        self._recurring_pause = 0.0
        self._begin_window(start_step)
        self._next_redraw = 0.0

    def __enter__(self) -> Self:
        if self._active and self._console.is_terminal:
            # What shares the terminal with the line has to go through its console.
            sharing = {s for s in (sys.stdout, sys.stderr) if s.isatty()}
            self._live = Live(
                self._line(),
                console=self._console,
                # Redrawn by hand: a thread of its own would steal time from every step.
                auto_refresh=False,
                redirect_stdout=sys.stdout in sharing,
                redirect_stderr=sys.stderr in sharing,
            )
            self._live.start(refresh=True)
            self._handlers = _follow(sharing)
        self._begin_window(self._step)
        return self

    def __exit__(self, *_) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
            for handler, stream in self._handlers:
                handler.setStream(stream)

    def advance(self, step: int, *, data_wait: float = 0.0) -> None:
        """Notes that `step` is done.

        Args:
            step: number of steps done so far.
            data_wait: seconds for which this step had to wait for its batch.
        """
        self._step = step
        self._data_wait += data_wait
        if self._live is not None and time.perf_counter() >= self._next_redraw:
            self._redraw()

    def report(self, step: int, metrics: Mapping[str, Any]) -> dict[str, float]:
        """Shows metrics, and measures the steps since the last report.

        Args:
            step: number of steps done so far.
            metrics: name -> number, in the order in which to show them.

        Returns:
            `examples_per_second`, `steps_per_second`, `data_wait` (share of the time, 0
            to 1) and, where the peak is known, `mfu` (0 to 1); empty if no step was
            made since the last report.
        """
        self._step = step
        self._metrics = {name: float(value) for name, value in metrics.items()}
        speed = self._measure(step)
        self._speed = speed or self._speed
        self._begin_window(step)
        if self._live is not None:
            self._redraw()
        elif self._active:
            self._print(" | ".join(self._parts()))
        return speed

    @contextlib.contextmanager
    def pause(self, what: str = "", *, once: bool = False) -> Iterator[None]:
        """Leaves the time spent inside out of the speed of training.

        Args:
            what: shown in the live line meanwhile, such as "evaluating".
            once: will not come again (compiling, say): leaves the end's estimate alone.
        """
        begin = time.perf_counter()
        self._phase = what
        if self._live is not None:
            self._redraw()
        try:
            yield
        finally:
            spent = time.perf_counter() - begin
            self._phase = ""
            self._paused += spent
            if not once:
                self._recurring_pause += spent

    def message(self, text: Any) -> None:
        """Prints a line (or anything rich can draw) that stays, above the live line."""
        if self._active:
            self._print(text)

    def _print(self, text: Any) -> None:
        plain = isinstance(text, str)
        self._console.print(Text(text) if plain else text, soft_wrap=plain)

    def _begin_window(self, step: int) -> None:
        self._window_step = step
        self._window_begin = time.perf_counter()
        self._paused = self._data_wait = 0.0

    def _measure(self, step: int) -> dict[str, float]:
        steps = step - self._window_step
        busy = time.perf_counter() - self._window_begin - self._paused
        if steps <= 0 or busy <= 0:
            return {}
        rate = steps / busy
        speed = {
            "examples_per_second": rate * self._batch_size,
            "steps_per_second": rate,
            "data_wait": min(self._data_wait / busy, 1.0),
        }
        if self._mfu_per_rate is not None:
            speed["mfu"] = rate * self._mfu_per_rate
        return speed

    def _seconds_left(self, rate: float | None) -> float | None:
        if not rate:
            return None
        pause = self._recurring_pause / max(self._step - self._start, 1)
        return (self._total - self._step) * (1 / rate + pause)

    def _redraw(self) -> None:
        self._next_redraw = time.perf_counter() + _REDRAW_SECONDS
        self._live.update(self._line(), refresh=True)

    def _line(self) -> Text:
        done = min(self._step / max(self._total, 1), 1.0)
        full = round(done * _BAR_CELLS)
        line = Text(no_wrap=True, overflow="ellipsis", end="")
        line.append("━" * full, style="green")
        line.append("━" * (_BAR_CELLS - full), style="bright_black")
        line.append(f" {done:4.0%}  ")
        if self._phase:
            line.append(f"{self._phase} ...  ", style="yellow")
        line.append("  ".join(self._parts()))
        return line

    def _parts(self) -> list[str]:
        # What matters most comes first: a narrow terminal cuts the end off.
        parts = [f"step {self._step:,}/{self._total:,}"]
        # Before the first report, the speed so far.
        speed = self._speed or self._measure(self._step)
        left = self._seconds_left(speed.get("steps_per_second"))
        if left is not None:
            parts.append(f"{duration_text(left)} left")
        parts += [f"{k} {number_text(v)}" for k, v in self._metrics.items()]
        return parts + speed_texts(speed)


def _follow(streams: set) -> list[tuple[logging.StreamHandler, Any]]:
    """Makes log handlers that write to `streams` write above the live line instead.

    The live display replaces `sys.stderr`, but a handler keeps the one of its birth.

    Returns:
        (handler, its former stream) of those changed.
    """
    changed = []
    known = [logging.getLogger(), *logging.root.manager.loggerDict.values()]
    handlers = [h for logger in known for h in getattr(logger, "handlers", ())]
    for handler in handlers:
        handler = getattr(handler, "python_handler", handler)  # absl wraps its own.
        if getattr(handler, "stream", None) in streams:
            stream = sys.stdout if handler.stream is sys.__stdout__ else sys.stderr
            changed.append((handler, handler.stream))
            handler.setStream(stream)
    return changed


def speed_texts(speed: Mapping[str, float]) -> list[str]:
    """The figures of `Progress.report` for people, each with its unit."""
    texts = []
    if "examples_per_second" in speed:
        rate = speed["examples_per_second"]
        rate = f"{rate:,.0f}" if rate >= 10 else number_text(rate)
        texts.append(f"{rate} examples/s")
    if "data_wait" in speed:
        texts.append(f"data wait {speed['data_wait']:.1%}")
    if "mfu" in speed:
        texts.append(f"MFU {speed['mfu']:.1%}")
    return texts


def number_text(value: float) -> str:
    """Four significant digits, without trailing zeros cut: 0.5 -> '0.5000'."""
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    magnitude = math.floor(math.log10(abs(value)))
    if not -4 <= magnitude < 6:
        return f"{value:.3e}"
    return f"{value:,.{max(3 - magnitude, 0)}f}"


def duration_text(seconds: float) -> str:
    """A duration for people: 75 -> '1:15', 3700 -> '1:01:40', days as '2 d 3:00:00'."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days} d {hour}:{minute:02}:{second:02}"
    if hour:
        return f"{hour}:{minute:02}:{second:02}"
    return f"{minute}:{second:02}"


def summary(
    title: str, rows: Mapping[str, Any], *, console: Console | None = None
) -> None:
    """Prints where everything lies and how it went, at the end of a run.

    Args:
        title: such as "Finished after 2,000 steps".
        rows: name -> value. Paths are never cut, so that they can be copied.
        console: where to print; standard output by default.
    """
    console = console or make_console()
    width = max((len(name) for name in rows), default=0)
    console.print(Text(title, style="bold"))
    for name, value in rows.items():
        # A table would break a long path into pieces; the terminal wraps it unharmed.
        line = Text.assemble("  ", (f"{name:{width}}", "cyan"), f"  {value}")
        console.print(line, soft_wrap=True)
