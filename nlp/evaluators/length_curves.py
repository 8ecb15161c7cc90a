"""BLEU of several runs by the length of what they translate, in one picture.

    python -m nlp.evaluators.length_curves --out=bleu.png transformer=runs/transformer_multi30k \\
        attention=runs/rnn_multi30k plain=runs/rnn_none [--evaluator=test]

Reads what `nlp.evaluators.translation.Translation` wrote into each run's `metrics.jsonl`:
the last evaluation's. The picture is figure 2 of D. Bahdanau, K. Cho, Y. Bengio, "Neural
Machine Translation by Jointly Learning to Align and Translate", 2014,
https://arxiv.org/abs/1409.0473.
"""

import argparse
import itertools
import json
import math
import pathlib
import re
import sys
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from nlp.visualize import BLACK, GREY, LINE, PALETTE, frame, line, stack, text_width

_TICK = (225, 225, 225)


def curves(
    labels: Sequence[str],
    series: Mapping[str, Sequence[float]],
    *,
    title: str = "",
    x_label: str = "",
    counts: Sequence[int] | None = None,
    size: tuple[int, int] = (560, 320),
) -> np.ndarray:
    """Numbers over named places, several series in one picture.

    Args:
        labels: of the places, from left to right, at least one.
        series: name -> one number for each place; NaN where there is none.
        title: a line above everything.
        x_label: what the places are.
        counts: written below the places in brackets: examples there.
        size: width and height of the area of the curves in pixels.

    Returns:
        uint8 [H', W', 3]; the axis begins at 0, or at the smallest number if it is less.

    Raises:
        ValueError: a series has more or fewer numbers than there are places.
    """
    for name, values in series.items():
        if len(values) != len(labels):
            raise ValueError(
                f"series {name!r} has {len(values)} numbers for {len(labels)} places; give "
                "one for each, NaN where there is none"
            )
    width, height = size
    numbers = [v for values in series.values() for v in values if math.isfinite(v)]
    ticks = _ticks(min([0.0, *numbers]), max(numbers, default=1.0))
    texts = [f"{tick:g}" for tick in ticks]
    left, top = max(text_width(text) for text in texts) + 12, LINE
    canvas = np.full((height + top + 2 * LINE, width + left + 12, 3), 255, np.uint8)
    x = [left + round((i + 0.5) * width / len(labels)) for i in range(len(labels))]
    scale = (height - 1) / (ticks[-1] - ticks[0])
    y = lambda value: top + height - 1 - round((value - ticks[0]) * scale)
    for tick, text in zip(ticks, texts, strict=True):
        cv2.line(canvas, (left, y(tick)), (left + width, y(tick)), _TICK, 1)
        _paste(canvas, line(text), y(tick) - LINE // 2, left - text_width(text) - 8)
    for i, label in enumerate(labels):
        text = label if counts is None else f"{label} ({counts[i]})"
        _center(canvas, text, BLACK, top + height + 2, x[i], width // len(labels))
    _center(canvas, x_label, GREY, top + height + LINE, left + width // 2, width)
    lines = [line(title)] if title else []
    for color, (name, values) in zip(
        itertools.cycle(PALETTE), series.items(), strict=False
    ):
        lines.append(line(f"o {name}", color=color))
        points = zip(x, values, strict=True)
        places = [(a, y(v)) if math.isfinite(v) else None for a, v in points]
        _curve(canvas, places, color)
    return frame(stack([*lines, canvas]))


def _center(canvas, text: str, color, top: int, middle: int, room: int) -> None:
    """Writes a line around `middle`, in at most `room` pixels."""
    strip = line(text, min(text_width(text) + 6, room), color=color)
    _paste(canvas, strip, top, middle - strip.shape[1] // 2)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers at equal distances, four to nine, that enclose an interval."""
    rough = max(high - low, 1e-9) / 6
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(m * unit for m in (1, 2, 5, 10) if m * unit >= rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, max(last, first + 1) + 1)]


def _curve(
    canvas: np.ndarray,
    points: Sequence[tuple[int, int] | None],
    color: tuple[int, int, int],
) -> None:
    """Dots and the lines between neighbours."""
    for a, b in itertools.pairwise(points):
        if a and b:
            cv2.line(canvas, a, b, color, 2, cv2.LINE_AA)
    for point in points:
        if point:
            cv2.circle(canvas, point, 4, color, -1, cv2.LINE_AA)


def _paste(canvas: np.ndarray, part: np.ndarray, top: int, left: int) -> None:
    """Puts a part where it darkens only, cut off at the edges."""
    top, left = max(0, top), max(0, left)
    place = canvas[top : top + part.shape[0], left : left + part.shape[1]]
    place[:] = np.minimum(place, part[: place.shape[0], : place.shape[1]])


def read_lengths(
    workdir: str, evaluator: str | None = None
) -> dict[str, tuple[float, int]]:
    """A run's last BLEU by length: 'A-B' or 'A+' -> (BLEU, sentences).

    Args:
        workdir: the run's folder.
        evaluator: its name in the run's config; None for the first that has BLEU by length.

    Raises:
        ValueError: nothing of the kind was measured there.
    """
    path = pathlib.Path(workdir) / "metrics.jsonl"
    if not path.is_file():
        raise ValueError(f"{workdir} has no metrics.jsonl; name the folder of a run")
    found: dict[str, tuple[float, int]] = {}
    for row in path.read_text().splitlines():
        try:
            values = json.loads(row)
        except ValueError:
            continue  # torn by a kill
        names = [re.fullmatch(r"(.+)/bleu_len_(\d+[-+]\d*)", name) for name in values]
        names = [m for m in names if m and evaluator in (None, m[1])]
        if names:
            names = [m for m in names if m[1] == names[0][1]]
            found = {
                m[2]: (float(values[m[0]]), int(values[f"{m[1]}/sentences_len_{m[2]}"]))
                for m in names
            }
    if not found:
        name = f"{evaluator}/" if evaluator else ""
        raise ValueError(
            f"{path} holds no {name}bleu_len_*; evaluate the run with "
            "nlp.evaluators.translation.Translation first"
        )
    return found


def compare(runs: Mapping[str, str], evaluator: str | None = None) -> np.ndarray:
    """The picture of several runs: name -> workdir. uint8 [H, W, 3]."""
    return draw(
        {name: read_lengths(folder, evaluator) for name, folder in runs.items()}
    )


def draw(models: Mapping[str, Mapping[str, tuple[float, int]]]) -> np.ndarray:
    """BLEU by length.

    Args:
        models: name -> length, 'A-B' or 'A+', -> (BLEU, sentences).

    Returns:
        uint8 [H, W, 3].
    """
    counts = {k: n for lengths in models.values() for k, (_, n) in lengths.items()}
    labels = sorted(counts, key=_first)
    nothing = (math.nan, 0)
    return curves(
        labels,
        {name: [x.get(k, nothing)[0] for k in labels] for name, x in models.items()},
        title="BLEU by length of the source",
        x_label="words of the source (sentences)",
        counts=[counts[label] for label in labels],
    )


def _first(label: str) -> int:
    """Of a range of lengths."""
    return int(re.match(r"\d+", label)[0])


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        description="BLEU of runs by length, in one picture."
    )
    parser.add_argument("runs", nargs="+", metavar="NAME=WORKDIR")
    parser.add_argument("--out", required=True, help="The PNG file to write.")
    parser.add_argument("--evaluator", help="Its name, where a run has several.")
    options = parser.parse_args(arguments)
    runs = [run.partition("=")[::2] for run in options.runs]
    if not all(workdir for _, workdir in runs):
        parser.error("give each run as NAME=WORKDIR")
    try:
        picture = compare(dict(runs), options.evaluator)
    except ValueError as error:
        parser.error(str(error))
    if not cv2.imwrite(options.out, picture[..., ::-1]):
        parser.error(f"cannot write {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
