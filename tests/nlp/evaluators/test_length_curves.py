"""BLEU by length of several runs: the last evaluation's numbers, in one picture."""

import json
import math

import cv2
import numpy as np
import pytest

from nlp.evaluators import length_curves
from nlp.visualize import PALETTE


@pytest.fixture
def runs(tmp_path):
    rows = {
        "plain": [
            {"step": 5, "test/bleu_len_0-9": 1.0, "test/sentences_len_0-9": 4},
            {"step": 6, "train/loss": 1.0},
            {
                "step": 9,
                "test/bleu_len_10+": 5.5,
                "test/sentences_len_10+": 2,
                "test/bleu_len_0-9": 20.25,
                "test/sentences_len_0-9": 4,
                "other/bleu_len_0-9": 3.0,
                "other/sentences_len_0-9": 7,
            },
        ],
        "attention": [{"step": 1, "t/bleu_len_0-9": 30, "t/sentences_len_0-9": 4}],
    }
    for name, lines in rows.items():
        (tmp_path / name).mkdir()
        text = "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 10, "te'
        (tmp_path / name / "metrics.jsonl").write_text(text)
    return tmp_path


def test_the_last_evaluation_counts(runs):
    found = length_curves.read_lengths(runs / "plain")
    assert found == {"0-9": (20.25, 4), "10+": (5.5, 2)}
    assert length_curves.read_lengths(runs / "plain", "other") == {"0-9": (3.0, 7)}


def test_a_command_draws_them_all(runs):
    out = runs / "bleu.png"
    arguments = [
        f"without={runs / 'plain'}",
        f"with={runs / 'attention'}",
        f"--out={out}",
    ]
    assert length_curves.main(arguments) == 0
    picture = cv2.imread(str(out))[..., ::-1]
    for color in PALETTE[:2]:
        assert (picture == color).all(-1).sum() > 30


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["a=nowhere", "--out=x.png"], "nowhere has no metrics.jsonl"),
        (["a", "--out=x.png"], "give each run as NAME=WORKDIR"),
        (["a=plain", "--evaluator=eval", "--out=x.png"], "no eval/bleu_len_"),
        (["a=plain", "--out=missing/x.png"], "cannot write missing/x.png"),
    ],
)
def test_mistakes_are_one_line(runs, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(runs)
    with pytest.raises(SystemExit) as caught:
        length_curves.main(arguments)
    assert caught.value.code == 2 and message in capsys.readouterr().err


def test_dots_are_at_their_numbers():
    picture = length_curves.curves(["a", "b"], {"s": [0.0, 10.0]}, size=(200, 100))
    rows, columns = np.nonzero((picture == PALETTE[0]).all(-1))
    legend = columns < columns.max() - 110  # 100 pixels between the dots, and a radius
    rows, columns = rows[~legend], columns[~legend]
    left, right = rows[columns < columns.min() + 3], rows[columns > columns.max() - 3]
    assert left.mean() - right.mean() == pytest.approx(100, abs=4)


def test_axes_have_round_numbers():
    assert length_curves._ticks(0, 38) == [0, 10, 20, 30, 40]
    assert length_curves._ticks(0, 0.5) == [0, 0.1, 0.2, 0.3, 0.4, 0.5]
    assert length_curves._ticks(-3, 3) == [-3, -2, -1, 0, 1, 2, 3]
    for low, high in ((0, 1e-3), (0, 0), (-5, 1e6)):
        ticks = length_curves._ticks(low, high)
        assert ticks[0] <= low and ticks[-1] >= high and 2 <= len(ticks) <= 9


@pytest.mark.parametrize("value", [math.nan, 0.0, -2.0])
def test_gaps_and_odd_numbers_are_drawn(value):
    picture = length_curves.curves(["a", "b", "c"], {"s": [1.0, value, 3.0]})
    assert picture.dtype == np.uint8
    with pytest.raises(ValueError, match="series 's' has 1 numbers for 2 places"):
        length_curves.curves(["a", "b"], {"s": [1.0]})
