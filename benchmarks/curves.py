"""The curves of several runs in one picture.

    python benchmarks/curves.py WORKDIR [WORKDIR ...] --out=FILE.png
        [--metrics=train/accuracy,eval/accuracy] [--smooth=1]

Every metric becomes a chart of its own with one curve a run, named by the run's folder (or
NAME=WORKDIR). A run that goes on can be drawn; a metrics.jsonl alone will do for a WORKDIR.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Sequence

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import cv2
import numpy as np

from vision.charts import curves


def read(path: pathlib.Path, metric: str) -> tuple[list[int], list[float]]:
    """(steps, values) of a metric in a run's folder or its metrics.jsonl.

    Raises:
        ValueError: there is no such file; the metric is not in it.
    """
    file = path / "metrics.jsonl" if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"{file} does not exist; give a run's workdir")
    rows = []
    for line in file.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue  # The last line, of a run that was killed.
    found = [(row["step"], row[metric]) for row in rows if metric in row]
    if not found:
        known = sorted({name for row in rows for name in row} - {"step"})
        raise ValueError(f"{file} has no {metric!r}; it has {', '.join(known)}")
    steps, values = zip(*found, strict=True)
    return list(steps), list(values)


def smoothed(values: Sequence[float], width: int) -> list[float]:
    """The mean of each value and the `width` - 1 before it."""
    return [
        float(np.mean(values[max(0, i + 1 - width) : i + 1]))
        for i in range(len(values))
    ]


def picture(
    runs: dict[str, pathlib.Path], metrics: Sequence[str], smooth: int = 1
) -> np.ndarray:
    """The charts side by side: uint8 [H, W, 3]."""
    charts = []
    for metric in metrics:
        series = {}
        for name, path in runs.items():
            steps, values = read(path, metric)
            series[name] = (steps, smoothed(values, smooth))
        charts.append(curves(series, x_label="step", y_label=metric, title=metric))
    height = max(chart.shape[0] for chart in charts)
    return np.concatenate(
        [
            np.pad(
                chart,
                ((0, height - chart.shape[0]), (0, 0), (0, 0)),
                constant_values=255,
            )
            for chart in charts
        ],
        axis=1,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="[NAME=]WORKDIR")
    parser.add_argument("--metrics", default="train/accuracy,eval/accuracy")
    parser.add_argument("--smooth", type=int, default=1, help="values to a mean")
    parser.add_argument("--out", required=True, help="a PNG file")
    options = parser.parse_args(arguments)
    runs = {}
    for run in options.runs:
        name, separator, path = run.rpartition("=")
        path = pathlib.Path(path)
        runs[name if separator else path.name] = path
    try:
        drawn = picture(runs, options.metrics.split(","), max(options.smooth, 1))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    _, encoded = cv2.imencode(".png", cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))
    try:
        pathlib.Path(options.out).write_bytes(encoded.tobytes())
    except OSError as error:
        print(f"cannot write {options.out}: {error.strerror}", file=sys.stderr)
        return 1
    print(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
