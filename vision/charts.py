"""Charts of numbers: curves and bubbles on axes, numpy on the host, uint8 [H, W, 3] out."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from vision.plots import PALETTE
from vision.visualize import BLACK, WHITE, caption

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_SUBPIXEL = 4  # bits of OpenCV's fixed-point coordinates
_LINES = (228, 228, 228)  # across the plot, at the ticks
_FRAME = (150, 150, 150)
_LEFT, _RIGHT, _TOP, _BELOW = 62, 18, 12, 46  # pixels around the plot


@dataclasses.dataclass(frozen=True)
class Axis:
    """A range of numbers and what they are.

    Args:
        label: beside the axis.
        low, high: its ends.
        log: equal ratios are equally far apart.
    """

    label: str
    low: float
    high: float
    log: bool = False

    def __post_init__(self):
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(
                f"the axis {self.label!r} goes from {self.low} to {self.high}; give "
                f"{'0 < ' if self.log else ''}low < high"
            )

    @classmethod
    def around(cls, label: str, values: Sequence[float], log: bool = False) -> "Axis":
        """An axis a little longer than the values need."""
        low, high = float(min(values)), float(max(values))
        if log:
            margin = (high / low) ** 0.08 if high > low else 2.0
            return cls(label, low / margin, high * margin, log=True)
        margin = 0.06 * (high - low) if high > low else max(abs(high), 1.0) / 2
        return cls(label, low - margin, high + margin)

    def share(self, value: float) -> float:
        """Where a value is, 0 at `low` and 1 at `high`."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self, most: int = 7) -> list[float]:
        """Round numbers within the range, at most so many."""
        if self.log:
            powers = range(
                math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1
            )
            for digits in (range(1, 10), (1, 2, 5), (1, 3), (1,)):
                found = [d * 10.0**p for p in powers for d in digits]
                found = [t for t in found if self.low <= t <= self.high]
                if len(found) <= most:
                    break
            return found
        rough = (self.high - self.low) / most
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(s * power for s in (1, 2, 5, 10) if s * power >= rough * (1 - 1e-9))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(i * step, 12) for i in range(first, last + 1)]


def curves(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    x_label: str = "",
    y_label: str = "",
    y_range: tuple[float, float] | None = None,
    log_x: bool = False,
    title: str = "",
    size: tuple[int, int] = (300, 420),
) -> np.ndarray:
    """Lines through points, of one colour each, with a legend if there are several.

    Args:
        series: name -> (x, y), each of one length and at least one point; what is not
            finite is left out.
        x_label, y_label: of the axes.
        y_range: of the vertical axis; None takes what the points need.
        log_x: a logarithmic horizontal axis.
        title: a line above.
        size: (height, width) of the whole but for the title.

    Returns:
        uint8 [H', W', 3].

    Raises:
        ValueError: no points.
    """
    points = {name: _finite(x, y) for name, (x, y) in series.items()}
    points = {name: found for name, found in points.items() if len(found)}
    if not points:
        raise ValueError("no points; a chart needs at least one finite one")
    every = np.concatenate(list(points.values()))
    x = Axis.around(x_label, every[:, 0], log_x)
    y = Axis(y_label, *y_range) if y_range else Axis.around(y_label, every[:, 1])
    canvas, place = _axes(x, y, size)
    for color, found in zip(_colors(len(points)), points.values(), strict=True):
        corners = [_fixed(place(*point)) for point in found]
        for first, second in itertools.pairwise(corners):
            cv2.line(canvas, first, second, color, 2, cv2.LINE_AA, shift=_SUBPIXEL)
        for corner in corners:
            cv2.circle(
                canvas, corner, 3 << _SUBPIXEL, color, -1, cv2.LINE_AA, _SUBPIXEL
            )
    if len(points) > 1:
        canvas = _with_legend(canvas, list(points))
    return _titled(canvas, title)


@dataclasses.dataclass(frozen=True)
class Bubble:
    """A named disc: at (x, y), of an area in proportion to `size`, coloured by `group`."""

    name: str
    x: float
    y: float
    size: float = 1.0
    group: str = ""


def bubbles(
    found: Sequence[Bubble],
    *,
    x_label: str = "",
    y_label: str = "",
    log_x: bool = False,
    log_y: bool = False,
    title: str = "",
    largest: float = 34.0,
    size: tuple[int, int] = (620, 900),
) -> np.ndarray:
    """Discs with their names beside them; large ones below small ones.

    Args:
        found: at least one.
        x_label, y_label, log_x, log_y: of the axes.
        title: a line above.
        largest: radius of the largest disc in pixels.
        size: (height, width) of the whole but for the title.

    Returns:
        uint8 [H', W', 3].

    Raises:
        ValueError: nothing to draw.
    """
    if not found:
        raise ValueError("no bubbles; a chart needs at least one")
    x = Axis.around(x_label, [b.x for b in found], log_x)
    y = Axis.around(y_label, [b.y for b in found], log_y)
    canvas, place = _axes(x, y, size)
    groups = sorted({b.group for b in found})
    colors = dict(zip(groups, _colors(len(groups)), strict=True))
    most = max(b.size for b in found)
    radius = {b: max(3.0, largest * math.sqrt(b.size / most)) for b in found}
    ordered = sorted(found, key=lambda b: -b.size)
    layer = canvas.copy()
    for b in ordered:
        where = _fixed(place(b.x, b.y))
        r = round(radius[b] * (1 << _SUBPIXEL))
        cv2.circle(layer, where, r, colors[b.group], -1, cv2.LINE_AA, _SUBPIXEL)
        cv2.circle(layer, where, r, WHITE, 1, cv2.LINE_AA, _SUBPIXEL)
    canvas = cv2.addWeighted(layer, 0.6, canvas, 0.4, 0)
    taken: list[tuple[float, float, float, float]] = []
    for b in ordered:
        _name(canvas, b.name, place(b.x, b.y), radius[b], taken)
    return _titled(canvas, title)


def _name(canvas, text, where, radius, taken) -> None:
    """Writes a name where it hides no other: to the right, left, above, below; or not
    at all, in a crowd."""
    width, height = _extent(text, 0.38)
    x, y = where
    reach = min(radius, 9) * 0.7 + 3
    for left, base in (
        (x + reach, y + height / 2),
        (x - reach - width, y + height / 2),
        (x - width / 2, y - reach),
        (x - width / 2, y + reach + height),
        (x + reach, y - reach),
        (x + reach, y + reach + height),
        (x - reach - width, y - reach),
        (x - reach - width, y + reach + height),
    ):
        box = left - 1, base - height - 1, left + width + 1, base + 2
        inside = box[0] >= 0 and box[2] <= canvas.shape[1] and box[1] >= 0
        free = all(
            box[2] < t[0] or t[2] < box[0] or box[3] < t[1] or t[3] < box[1]
            for t in taken
        )
        if inside and free:
            taken.append(box)
            _write(canvas, text, left, base, 0.38)
            return


def _axes(x: Axis, y: Axis, size: tuple[int, int]):
    """An empty plot, and where a pair of values is on it, in pixels."""
    height, width = size
    canvas = np.full((height, width, 3), 255, np.uint8)
    right, bottom = width - _RIGHT, height - _BELOW

    def place(a: float, b: float) -> tuple[float, float]:
        return (
            _LEFT + x.share(a) * (right - _LEFT),
            bottom - y.share(b) * (bottom - _TOP),
        )

    for tick in x.ticks():
        at = round(place(tick, y.low)[0])
        cv2.line(canvas, (at, _TOP), (at, bottom), _LINES, 1)
        text = f"{tick:g}"
        _write(canvas, text, at - _extent(text, 0.4)[0] / 2, bottom + 16, 0.4)
    for tick in y.ticks():
        at = round(place(x.low, tick)[1])
        cv2.line(canvas, (_LEFT, at), (right, at), _LINES, 1)
        text = f"{tick:g}"
        _write(canvas, text, _LEFT - 6 - _extent(text, 0.4)[0], at + 4, 0.4)
    cv2.rectangle(canvas, (_LEFT, _TOP), (right, bottom), _FRAME, 1)
    middle = (_LEFT + right - _extent(x.label, 0.44)[0]) / 2
    _write(canvas, x.label, middle, height - 10, 0.44)
    if y.label:
        strip = np.full((20, bottom - _TOP, 3), 255, np.uint8)
        start = (strip.shape[1] - _extent(y.label, 0.44)[0]) / 2
        _write(strip, y.label, max(0, start), 14, 0.44)
        canvas[_TOP:bottom, 2:22] = cv2.rotate(strip, cv2.ROTATE_90_COUNTERCLOCKWISE)
    return canvas, place


def _with_legend(canvas: np.ndarray, names: Sequence[str]) -> np.ndarray:
    row, width = 22, 30 + max(_extent(name, 0.42)[0] for name in names) + 8
    legend = np.full((canvas.shape[0], width, 3), 255, np.uint8)
    for i, (name, color) in enumerate(zip(names, _colors(len(names)), strict=True)):
        middle = _TOP + row * i + 10
        cv2.line(legend, (2, middle), (22, middle), color, 2, cv2.LINE_AA)
        _write(legend, name, 28, middle + 4, 0.42)
    return np.concatenate([canvas, legend], axis=1)


def _titled(canvas: np.ndarray, title: str) -> np.ndarray:
    if not title:
        return canvas
    line = caption(title, canvas.shape[1], color=BLACK, background=WHITE)
    return np.concatenate([line, canvas])


def _finite(x: Sequence[float], y: Sequence[float]) -> np.ndarray:
    """Points [N, 2] in order."""
    points = np.stack([np.asarray(x, np.float64), np.asarray(y, np.float64)], axis=1)
    return points[np.isfinite(points).all(1)]


def _colors(count: int) -> list[tuple[int, int, int]]:
    return [PALETTE[i % len(PALETTE)] for i in range(count)]


def _fixed(where: tuple[float, float]) -> tuple[int, int]:
    return tuple(round(v * (1 << _SUBPIXEL)) for v in where)


def _extent(text: str, scale: float) -> tuple[int, int]:
    """Width and height in pixels."""
    return cv2.getTextSize(text, _FONT, scale, 1)[0]


def _write(canvas: np.ndarray, text: str, x: float, y: float, scale: float) -> None:
    """`y` is the line that letters stand on."""
    where = round(x), round(y)
    cv2.putText(canvas, text, where, _FONT, scale, BLACK, 1, cv2.LINE_AA)
