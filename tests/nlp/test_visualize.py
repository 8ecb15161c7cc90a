"""Pictures of text and attention: cells where they belong, words whole, any script."""

import html
import re

import cv2
import numpy as np
import pytest

from nlp import visualize
from nlp.visualize import LINE


def test_spelling_is_ascii_and_readable():
    text = "Zwei Männer grüßen „Ärger“ – naïve café…"
    assert visualize.spell(text) == 'Zwei Maenner gruessen "Aerger" - naive cafe...'
    assert visualize.spell("中文 ▁the") == "?? _the"
    assert visualize.spell("a\u0308") == "ae", "composed first"


@pytest.mark.parametrize("unicode", [True, False])
def test_any_text_is_drawn(monkeypatch, unicode):
    monkeypatch.setattr(visualize, "_UNICODE", unicode)
    for text in ("", "\n\t", "grüßen", "中文", "\ufffd\x00", "w" * 500):
        picture = visualize.line(text, 120)
        assert picture.shape == (LINE, 120, 3) and picture.dtype == np.uint8
    if not unicode:
        np.testing.assert_array_equal(visualize.line("ä"), visualize.line("ae"))


def test_a_line_is_as_wide_as_its_text_or_cut():
    whole = visualize.line("some words")
    assert whole[:, -2:].min() == 255 and (whole < 128).any()
    short = visualize.line("some words", whole.shape[1] // 2)
    assert short.shape[1] == whole.shape[1] // 2 and (short[:, -3:] == 255).all()


def test_wrapping_loses_nothing_and_fits():
    text = "one two  three\n  indented " + "w" * 90 + " end\n\nlast"
    lines = visualize.wrap(text, 200)
    assert all(visualize.text_width(row) <= 200 for row in lines)
    squeezed = re.sub(r"\s", "", text)
    assert re.sub(r"\s", "", "".join(lines)) == squeezed
    assert "  indented" in lines and "" in lines and lines[0] == "one two  three"
    assert visualize.wrap("ww", 1) == ["w", "w"], "one letter a line at least"


def test_a_page_is_as_high_as_its_lines():
    page = visualize.page([("a", "x\ny"), ("", ""), ("b", "z"), ("", "more")])
    assert page.shape == (4 * LINE + LINE // 2 + 16, 760 + 16, 3)
    assert visualize.page([("only", "")]).shape[0] == LINE + 16


def test_cells_of_a_map_are_where_their_words_are():
    values = np.zeros((3, 5))
    values[1, 4] = 0.5
    picture = visualize.heat_map(values, list("abc"), list("vwxyz"))
    bright = np.argwhere((picture == visualize.heat(np.ones((1, 1)))[0, 0]).all(-1))
    dark = np.argwhere((picture == visualize.heat(np.zeros((1, 1)))[0, 0]).all(-1))
    height, width = dark.max(0) - dark.min(0)
    assert height > 50 and width > 90  # 3 and 5 cells of 20
    where = (bright.mean(0) - dark.min(0)) / 20
    assert where.round(1).tolist() == pytest.approx([1.5, 4.5], abs=0.2)


def test_words_of_columns_are_read_upwards_from_the_map():
    picture = visualize.heat_map(np.ones((1, 2)), ["r"], ["iiiiiiii", ""])
    first = picture[: picture.shape[0] - 60]
    rows = np.flatnonzero((first < 128).any((1, 2)))
    turned = np.rot90(visualize.line("iiiiiiii"))
    assert np.ptp(rows) >= (turned < 128).any((1, 2)).sum() - 6


def test_maps_of_many_words_leave_them_out_and_stay_small():
    picture = visualize.heat_map(np.eye(300), ["w"] * 300, ["w"] * 300)
    assert max(picture.shape) < 700
    for bad in (np.nan, np.inf, -np.inf):
        assert visualize.heat_map(np.full((2, 2), bad), "ab", "ab").dtype == np.uint8


def test_heads_are_in_rows_of_layers():
    weights = np.zeros((2, 3, 4, 4))
    weights[1, 2, 0, 0] = (
        1  # the only bright cell: second row, third column, first corner
    )
    picture = visualize.heads(weights)
    bright = np.argwhere((picture == visualize.heat(np.ones((1, 1)))[0, 0]).all(-1))
    y, x = bright.mean(0) / picture.shape[:2]
    assert len(bright) == 24 * 24 and 0.5 < y < 0.75 and 0.6 < x < 0.85


def test_the_heaviest_word_has_the_full_colour():
    words, weights = ["light", "heavy", "none"], np.array([0.1, 0.4, 0.0])
    picture = visualize.colored_words(words, weights, color=(250, 0, 0))
    assert (picture == (250, 0, 0)).all(-1).sum() > 100
    page = visualize.colored_words_html([("t", words, weights)], color=(250, 0, 0))
    assert "rgb(250, 0, 0)" in page and "rgb(255, 255, 255)" in page
    assert page.index("light") < page.index("heavy") < page.index("none")
    assert visualize.colored_words([], np.array([])).shape[-1] == 3
    assert (visualize.colored_words(["a"], np.zeros(1))[:, 100:] == 255).all()


def test_html_shows_words_as_they_stand():
    word = '<script>"&'
    page = visualize.colored_words_html([(word, [word], np.ones(1))])
    assert "<script>" not in page and html.escape(word) in page


def test_wrong_numbers_of_words_are_named():
    with pytest.raises(
        ValueError, match=r"shape \(2, 2\) with 1 row and 2 column words"
    ):
        visualize.heat_map(np.ones((2, 2)), ["a"], ["a", "b"])
    with pytest.raises(ValueError, match=r"2 words and weights of shape \(3,\)"):
        visualize.colored_words(["a", "b"], np.ones(3))


def test_tiles_fill_rows():
    parts = [np.zeros((10, 40, 3), np.uint8), np.zeros((20, 40, 3), np.uint8)] * 2
    assert visualize.tiles(parts, width=100).shape == (40, 80, 3)
    assert visualize.tiles(parts, width=10).shape == (60, 40, 3)
    assert cv2.imencode(".png", visualize.tiles(parts))[0]
