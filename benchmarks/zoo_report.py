"""The zoo's table and picture, from rows that `benchmarks/zoo.py` measured."""

import json
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from vision import charts, plots


def cells(row: dict[str, Any], batches: Sequence[str]) -> list[str]:
    """A row as texts; see `headings`."""
    accuracy = "" if row.get("top1") is None else f"{row['top1']:.1f}"
    if "error" in row:
        return [
            row["name"],
            row["error"],
            "",
            "",
            accuracy,
            *[""] * 2 * len(batches),
            "",
        ]
    found = [
        row["name"],
        str(row["resolution"]),
        f"{row['parameters'] / 1e6:.2f}",
        f"{row['flops'] / 1e9:.2f}",
        accuracy,
    ]
    for batch in batches:
        part = row["batches"].get(batch, {"error": ""})
        if "error" in part:
            found += [part["error"], ""]
            continue
        found.append(f"{1000 * statistics.median(part['seconds']):.1f}")
        found.append(f"{part['memory'] / 1e6:.0f}")
    return [*found, f"{row['peak_memory'] / 1e6:.0f}"]


def headings(batches: Sequence[str]) -> list[str]:
    """Of the table's columns."""
    return [
        *("model", "pixels", "M parameters", "GFLOP", "top-1, % (published)"),
        *(f"{what}, batch {b}" for b in batches for what in ("ms", "MB")),
        "peak MB",
    ]


def markdown(rows: Sequence[dict[str, Any]], batches: Sequence[str]) -> str:
    """The table, by FLOPs; rows that failed are last."""
    ordered = sorted(rows, key=lambda row: row.get("flops", float("inf")))
    lines = [headings(batches), ["---"] * len(headings(batches))]
    lines += [cells(row, batches) for row in ordered]
    device = next((r["device"] for r in rows if "device" in r), "")
    dtype = next((r["dtype"] for r in rows if "dtype" in r), "")
    text = "".join("| " + " | ".join(line) + " |\n" for line in lines)
    return (
        f"One {device}, {dtype}. FLOPs of one image, a multiplication and an addition "
        "being two. MB of a batch are what its program needs, parameters included; the "
        f"peak is what the process (on an accelerator, the device) had.\n\n{text}"
    )


def draw(rows: Sequence[dict[str, Any]]) -> np.ndarray | None:
    """Published accuracy against FLOPs and against latency, areas for parameters; or, if
    fewer than two have it, parameters against FLOPs. None for no rows."""
    rows = [row for row in rows if "error" not in row]
    rated = [row for row in rows if row["top1"] is not None]

    def bubbles(found, x, y):
        return [
            charts.Bubble(
                r["name"], x(r), y(r), r["parameters"], r["name"].partition(":")[0]
            )
            for r in found
        ]

    gflop = lambda row: row["flops"] / 1e9
    area = "area: parameters"
    if len(rated) < 2:
        points = bubbles(rows, gflop, lambda r: r["parameters"] / 1e6)
        labels = dict(x_label="GFLOP", y_label="M parameters")
        return (
            charts.bubbles(points, **labels, log_x=True, log_y=True) if rows else None
        )
    top1 = lambda row: row["top1"]
    label = "top-1, % (published)"
    parts = [
        charts.bubbles(
            bubbles(rated, gflop, top1),
            x_label=f"GFLOP an image; {area}",
            y_label=label,
            log_x=True,
        )
    ]
    batch = max((b for row in rated for b in row["batches"]), key=int)
    timed = [r for r in rated if "seconds" in r["batches"].get(batch, {})]
    if timed:
        latency = lambda r: (
            1000 * statistics.median(r["batches"][batch]["seconds"]) / int(batch)
        )
        where = f"on {timed[0]['device']} in {timed[0]['dtype']}"
        text = f"ms an image, batch {batch}, {where}; {area}"
        points = bubbles(timed, latency, top1)
        parts.append(charts.bubbles(points, x_label=text, y_label=label, log_x=True))
    return plots.stack(parts)


def write(rows: Sequence[dict[str, Any]], out: pathlib.Path, batches: Sequence[str]):
    """OUT.json, OUT.md and, if there is something to draw, OUT.png."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps({"rows": rows}, indent=1))
    out.with_suffix(".md").write_text(markdown(rows, batches))
    picture = draw(rows)
    if picture is not None:
        cv2.imwrite(str(out.with_suffix(".png")), picture[..., ::-1])
