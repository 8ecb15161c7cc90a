"""Charts: points are where their numbers say, ticks are round, names do not collide."""

import numpy as np
import pytest

from vision import charts
from vision.charts import Axis, Bubble, bubbles, curves
from vision.plots import PALETTE


def middle(picture, color):
    """(x, y) of the pixels of a colour."""
    rows, columns = np.nonzero((picture == color).all(-1))
    return columns.mean(), rows.mean()


def test_a_linear_axis():
    axis = Axis("x", 0.0, 100.0)
    assert [axis.share(v) for v in (0, 25, 100)] == [0, 0.25, 1]
    assert axis.ticks() == [0, 20, 40, 60, 80, 100]
    assert Axis("x", 0.13, 0.52).ticks() == [0.2, 0.3, 0.4, 0.5]
    assert Axis.around("x", [3.0]).share(3.0) == 0.5
    around = Axis.around("x", [1, 5])
    assert around.low < 1 and around.high > 5


def test_a_logarithmic_axis():
    axis = Axis("x", 1.0, 100.0, log=True)
    assert axis.share(10) == pytest.approx(0.5)
    assert axis.ticks() == [1, 2, 5, 10, 20, 50, 100]
    assert Axis("x", 1.0, 1e6, log=True).ticks() == [10.0**i for i in range(7)]
    assert Axis("x", 250.0, 650.0, log=True).ticks() == [300, 400, 500, 600]
    assert Axis.around("x", [4.0], log=True).share(4.0) == pytest.approx(0.5)


@pytest.mark.parametrize("seed", range(20))
def test_ticks_are_few_and_within(seed):
    rng = np.random.default_rng(seed)
    low = rng.normal() * 10 ** rng.uniform(-4, 4)
    axis = Axis("x", low, low + 10 ** rng.uniform(-4, 4))
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 8
    assert min(ticks) >= axis.low - 1e-9 and max(ticks) <= axis.high + 1e-9
    np.testing.assert_allclose(np.diff(ticks), np.diff(ticks)[0], rtol=1e-6)


def test_a_curves_points_are_where_they_should():
    picture = curves({"a": ([1.0], [25.0])}, y_range=(0, 100), size=(300, 420))
    assert picture.shape == (300, 420, 3) and picture.dtype == np.uint8
    x, y = middle(picture, PALETTE[0])
    left, right = charts._LEFT, 420 - charts._RIGHT
    top, bottom = charts._TOP, 300 - charts._BELOW
    assert x == pytest.approx((left + right) / 2, abs=1)
    assert y == pytest.approx(bottom - 0.25 * (bottom - top), abs=1)


def test_curves_have_their_colors_a_legend_and_a_title():
    one = curves({"a": ([0, 1], [0, 1])}, x_label="x", y_label="y")
    two = curves(
        {"a": ([0, 1], [0, 1]), "bb": ([0, 1, 2], [1, np.nan, 0])}, title="Title"
    )
    assert two.shape[0] == one.shape[0] + 22 and two.shape[1] > one.shape[1]
    for color in PALETTE[:2]:
        assert (two == color).all(-1).sum() > 20
    assert not (one == PALETTE[1]).all(-1).any()
    with pytest.raises(ValueError, match="no points"):
        curves({"a": ([1.0], [np.inf])})


def test_bubbles_have_areas_in_proportion_and_names_that_do_not_collide(monkeypatch):
    written = []
    monkeypatch.setattr(
        charts, "_write", lambda canvas, text, x, y, scale: written.append((text, x, y))
    )
    near = [Bubble(f"model {i}", 10 + i / 100, 70.0, 4.0) for i in range(6)]
    far = Bubble("far", 1000.0, 80.0, 1.0, "other")
    picture = bubbles([*near, far], log_x=True)
    assert picture.shape == (620, 900, 3)
    names = [w for w in written if w[0].startswith("model") or w[0] == "far"]
    assert "far" in {w[0] for w in names} and len(names) > 2
    for i, (text, x, y) in enumerate(names):
        width, height = charts._extent(text, 0.38)
        for _, other_x, other_y in names[i + 1 :]:
            apart = abs(y - other_y) >= height
            assert apart or not -width < other_x - x < width
    assert written and len({w[0] for w in written}) > len(names)  # ticks too

    def area(size):
        a = Bubble("", 1.0, 1.0, size, "a")
        found = bubbles([a, Bubble("", 2.0, 2.0, 16.0, "b")])
        blended = np.rint(0.6 * np.array(PALETTE[0]) + 0.4 * 255)
        return (np.abs(found - blended).max(-1) <= 1).sum()

    assert area(16.0) / area(4.0) == pytest.approx(4, rel=0.15)  # but for the rims
    with pytest.raises(ValueError, match="no bubbles"):
        bubbles([])


def test_an_axis_without_length_is_named():
    with pytest.raises(ValueError, match="'GFLOP' goes from 2 to 1; give low < high"):
        Axis("GFLOP", 2, 1)
    with pytest.raises(ValueError, match="give 0 < low < high"):
        Axis("GFLOP", 0, 1, log=True)
