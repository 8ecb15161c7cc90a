"""Curves of several runs: what is read, drawn and refused."""

import json

import cv2
import numpy as np
import pytest

from benchmarks import curves


@pytest.fixture
def runs(tmp_path):
    """Two run folders; the second was killed in the middle of a line."""
    for k, name in enumerate(("a", "b")):
        rows = [{"step": i, "train/loss": 2.0 - k / 2 - i / 10} for i in range(1, 6)]
        rows.append({"step": 5, "eval/loss": 1.0 + k})
        text = "\n".join(map(json.dumps, rows)) + "\n"
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text(text + '{"step": 6, "tr' * k)
    return tmp_path


def test_a_metric_is_read_from_a_folder_or_its_file(runs):
    expected = [1, 2, 3, 4, 5], pytest.approx([1.4, 1.3, 1.2, 1.1, 1.0])
    assert curves.read(runs / "b", "train/loss") == expected
    assert curves.read(runs / "b" / "metrics.jsonl", "train/loss") == expected


def test_smoothing_looks_back():
    assert curves.smoothed([1.0, 3.0, 5.0], 2) == [1.0, 2.0, 4.0]


def test_charts_stand_side_by_side_with_a_colour_a_run(runs):
    paths = {name: runs / name for name in ("a", "b")}
    one = curves.picture(paths, ["train/loss"])
    two = curves.picture(paths, ["train/loss", "eval/loss"])
    assert two.shape[1] == 2 * one.shape[1] and two.dtype == np.uint8
    alone = curves.picture({"a": paths["a"]}, ["train/loss"])

    def colors(chart):
        saturated = chart.max(-1).astype(int) - chart.min(-1) > 60
        return len(np.unique(chart[saturated] // 64, axis=0))

    assert colors(one) > colors(alone) > 0


def test_the_command_writes_a_picture_or_says_what_is_missing(runs, capsys):
    out = str(runs / "curves.png")
    arguments = [f"first={runs / 'a'}", str(runs / "b"), f"--out={out}"]
    assert curves.main([*arguments, "--metrics=train/loss,eval/loss"]) == 0
    assert cv2.imread(out).shape[2] == 3
    assert curves.main([*arguments, "--metrics=train/accuracy"]) == 1
    assert "has no 'train/accuracy'; it has eval/loss, train/loss" in (
        capsys.readouterr().err
    )
    assert curves.main([str(runs / "c"), f"--out={out}"]) == 1
    assert "give a run's workdir" in capsys.readouterr().err
