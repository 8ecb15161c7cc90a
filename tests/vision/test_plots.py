"""Drawings of representations: the right cell is bright, scales and colours are as said."""

import cv2
import numpy as np
import pytest

from vision import plots

RNG = np.random.default_rng(0)
YELLOW, DARK = plots.heat(np.array([[1.0, 0.0]]))[0].tolist()


def test_heat_grows_evenly_in_lightness_and_survives_what_is_not_finite():
    colors = plots.heat(np.linspace(0, 1, 64)[None])
    lightness = cv2.cvtColor(colors, cv2.COLOR_RGB2Lab)[0, :, 0].astype(int)
    steps = np.diff(lightness)
    assert (steps >= 0).all() and steps.max() <= 6 and lightness[-1] > 200
    odd = plots.heat(np.array([[np.nan, np.inf, -np.inf, 7.0, -7.0]]))[0].tolist()
    assert odd == [DARK, YELLOW, DARK, YELLOW, DARK]


def tiles(picture, h, w, cell, gap):
    """[h, w, h, w, 3]: the colour of every cell of every tile of position_similarity."""
    top = picture.shape[0] - (h * (h * cell + gap) + gap)
    rows = [
        [top + gap + i * (h * cell + gap) + k * cell + cell // 2 for k in range(h)]
        for i in range(h)
    ]
    columns = [
        [gap + j * (w * cell + gap) + k * cell + cell // 2 for k in range(w)]
        for j in range(w)
    ]
    rows, columns = np.array(rows), np.array(columns)
    return picture[rows[:, None, :, None], columns[None, :, None, :]]


def test_each_position_is_most_similar_to_itself_in_its_own_tile():
    h, w = 2, 3
    picture = plots.position_similarity(np.eye(h * w), (h, w), size=3 * (3 * 20 + 6))
    found = tiles(picture, h, w, cell=20, gap=6)
    orthogonal = plots.heat(np.array([[0.5]]))[0, 0].tolist()
    for i, j, k, m in np.ndindex(h, w, h, w):
        expected = YELLOW if (i, j) == (k, m) else orthogonal
        assert found[i, j, k, m].tolist() == expected


def test_opposite_positions_are_dark_whatever_their_length_and_zeros_are_between():
    positions = np.array([[1.0, 2.0], [-3.0, -6.0], [0.0, 0.0]])
    cosines = plots.cosine_similarity(positions)
    np.testing.assert_allclose(cosines, [[1, -1, 0], [-1, 1, 0], [0, 0, 0]], atol=1e-9)
    picture = plots.position_similarity(positions, (1, 3), size=3 * (3 * 20 + 6))
    found = tiles(picture, 1, 3, cell=20, gap=6)[0, :, 0]
    assert found[0, 1].tolist() == found[1, 0].tolist() == DARK
    with pytest.raises(ValueError, match="3 positions for a grid of 2x2"):
        plots.position_similarity(positions, (2, 2))


@pytest.mark.parametrize("grid", [(1, 1), (1, 9), (14, 14), (24, 40)])
def test_position_similarity_fits_any_grid(grid):
    positions = RNG.normal(size=(grid[0] * grid[1], 8))
    picture = plots.position_similarity(positions, grid)
    assert picture.dtype == np.uint8 and picture.shape[1] < 1800


def test_color_bar_runs_from_dark_below_to_yellow_above():
    bar = plots.color_bar(100, ("0", "1"))
    assert bar.shape[0] == 100
    assert bar[8, 10].tolist() == YELLOW and bar[91, 10].tolist() == DARK


def lightest(tile):
    """(y, x) in 0..1 of the centre of the lightest tenth of a tile."""
    light = tile.astype(float).sum(-1)
    y, x = np.nonzero(light >= np.quantile(light, 0.99))
    return (y.mean() + 0.5) / tile.shape[0], (x.mean() + 0.5) / tile.shape[1]


def columns_of(picture, count, gap=3):
    width = (picture.shape[1] - gap) // count - gap
    return [picture[:, gap + i * (width + gap) :][:, :width] for i in range(count)]


def test_attention_is_bright_on_the_patch_that_is_attended_to():
    h, w, N = 3, 4, 2
    images = np.full((2, 30, 40, 3), 90, np.uint8)
    weights = np.full((2, N, h * w), 0.01)
    spots = RNG.integers(0, h * w, (2, N))
    for b, n in np.ndindex(2, N):
        weights[b, n, spots[b, n]] = 1
    rollout = np.zeros((2, h * w))
    rollout[:, 5] = 1
    picture = plots.attention_maps(images, weights, (h, w), rollout=rollout, size=80)
    image, _, rolled, *heads = columns_of(picture, 3 + N)
    tops = [picture.shape[0] - 3 - 60, picture.shape[0] - 3 - 60 - 3 - 60][::-1]
    for b, top in enumerate(tops):
        assert (image[top : top + 60] == 90).all()
        for n, head in enumerate(heads):
            y, x = lightest(head[top : top + 60])
            assert (int(y * h), int(x * w)) == divmod(spots[b, n], w)
        y, x = lightest(rolled[top : top + 60])
        assert (int(y * h), int(x * w)) == (1, 1)


def test_attention_shows_the_mean_of_all_heads_and_at_most_max_heads():
    weights = np.zeros((1, 3, 4))
    weights[0, 0, 0], weights[0, 1:, 3] = 1, 1
    images = np.zeros((1, 8, 8, 1), np.uint8)
    picture = plots.attention_maps(images, weights, (2, 2), size=64, max_heads=1)
    _, mean, head = columns_of(picture, 3)
    corners = lambda tile: tile[[-60, -10]][:, [4, -4]].astype(int).sum(-1)
    dark, bright = corners(head).ravel()[[1, 0]]
    assert bright > dark
    # Two of three heads look at the last patch, which is the mean's brightest.
    a, b, c, d = corners(mean).ravel()
    assert d == bright and b == c == dark and dark < a < bright
    with pytest.raises(ValueError, match="weights of 4 patches for a grid of 1x3"):
        plots.attention_maps(images, weights, (1, 3))


def test_equal_attention_is_bright_everywhere_and_none_is_dark():
    image = np.zeros((8, 8, 1), np.uint8)
    bright = plots.overlay(image, np.full((2, 2), 0.25), 32)
    assert (bright == bright[0, 0]).all() and (
        bright[0, 0] > 0.6 * np.array(YELLOW)
    ).any()
    dark = plots.overlay(image, np.zeros((2, 2)), 32)
    assert (dark == np.round(0.7 * np.array(DARK))).all()
    assert (plots.overlay(image, np.full((2, 2), np.nan), 32) == dark).all()


def test_rollout_follows_attention_through_the_layers():
    first, second = np.eye(4), np.eye(4)
    first[2] = np.eye(4)[3]  # token 2 reads token 3,
    second[0] = np.eye(4)[2]  # then token 0 reads token 2
    rollout = plots.attention_rollout([first[None, None], second[None, None]])
    np.testing.assert_allclose(rollout[0, 0], [0.5, 0, 0.25, 0.25])
    np.testing.assert_allclose(rollout[0, 1], [0, 1, 0, 0])
    layers = [RNG.dirichlet(np.ones(5), (2, 3, 5)) for _ in range(4)]
    np.testing.assert_allclose(plots.attention_rollout(layers).sum(-1), 1)


def test_filters_share_one_scale():
    kernel = np.zeros((2, 2, 1, 3))
    kernel[..., 0], kernel[0, 0, 0, 1], kernel[1, 1, 0, 1] = 1, 0.5, -1
    body = plots.filters(kernel, size=20)[22:]  # two tiles in a row, below a caption

    def pixels(index):
        top, left = 3 + index // 2 * 23, 3 + index % 2 * 23
        return body[top + 5 : top + 20 : 10, left + 5 : left + 20 : 10, 0].tolist()

    assert pixels(0) == [[255, 255], [255, 255]]
    assert pixels(1) == [[191, 128], [128, 0]]
    assert pixels(2) == [[128, 128], [128, 128]]
    assert (plots.filters(np.zeros((3, 3, 3, 2)), size=30)[-10, 10] == 128).all()


def test_filters_of_a_line_have_one_principal_component():
    shape = RNG.normal(size=(4, 4, 3))
    kernel = shape[..., None] * RNG.normal(size=50)
    values, axes = plots.principal_components(kernel.reshape(-1, 50).T, 28)
    assert values.shape == (50, 28) and axes.shape == (28, 48)
    cosine = axes[0] @ shape.ravel() / np.linalg.norm(shape)
    assert abs(cosine) == pytest.approx(1)
    np.testing.assert_allclose(values[:, 1:], 0, atol=1e-9)
    one = plots.filters(kernel, first=64)
    two = plots.filters(kernel, first=64, components=28)
    assert two.shape[0] > one.shape[0] and two.shape[1] == one.shape[1]
    np.testing.assert_array_equal(two[: len(one)], one)


def test_principal_components_have_one_sign_and_most_variance_first():
    values = RNG.normal(size=(100, 5)) * [1, 5, 2, 0.1, 3] + 7
    points, axes = plots.principal_components(values, 3)
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-9)
    assert np.abs(axes).argmax(1).tolist() == [1, 4, 2]
    assert (axes.max(1) == np.abs(axes).max(1)).all()
    np.testing.assert_allclose(points.mean(0), 0, atol=1e-9)
    assert (np.diff(points.var(0)) < 0).all()
    _, mirrored = plots.principal_components(-values, 3)
    np.testing.assert_allclose(mirrored, axes, atol=1e-9)
    assert plots.principal_components(values[:2], 3)[0].shape == (2, 2)


def test_dots_are_in_their_places_in_their_colours():
    points = np.array([[0.0, 0.0], [10.0, 0.0], [10.0, 10.0]])
    picture = plots.scatter(points, np.array([0, 1, 7]), size=200)
    dots = picture[:, :205]
    for label, (above, left) in {0: (0, 1), 1: (0, 0), 7: (1, 0)}.items():
        y, x = np.nonzero((dots == plots.PALETTE[label]).all(-1))
        assert y.size > 30  # y grows upwards
        assert (y.mean() < 100, x.mean() < 100) == (above, left)
    legend = picture[:, 212:]
    assert all((legend == plots.PALETTE[c]).all(-1).any() for c in (0, 1, 7))
    assert not (legend == plots.PALETTE[2]).all(-1).any()


def test_a_class_keeps_its_colour_whichever_others_are_there():
    first = plots._class_colors([3, 5])
    assert first[5] == plots._class_colors([0, 1, 2, 5])[5]
    assert len(set(plots._class_colors(range(60)).values())) == 60
    assert len(set(plots._class_colors([-1, 40, 990]).values())) == 3


def test_twenty_colours_can_be_told_apart():
    colors = np.array([[*plots.PALETTE, plots.WHITE]], np.float32) / 255
    lab = cv2.cvtColor(colors, cv2.COLOR_RGB2Lab)[0]
    distance = np.linalg.norm(lab[:, None] - lab, axis=-1)
    assert len(lab) == 21 and distance[np.triu_indices(21, 1)].min() > 30


@pytest.mark.parametrize("classes, size", [(1, 60), (25, 200), (400, 560)])
def test_scatter_fits_any_number_of_classes_and_points(classes, size):
    points = RNG.normal(size=(500, 2))
    labels = np.arange(500) % classes
    picture = plots.scatter(points, labels, [f"class {i}" for i in range(9)], size=size)
    plain = plots.scatter(points, None, (), "a title", size=size)
    assert picture.shape[1] > plain.shape[1] and picture.shape[0] < plain.shape[0]
    assert (plain == plots.PALETTE[0]).all(-1).any()
    np.testing.assert_array_equal(
        plain, plots.scatter(points, None, (), "a title", size=size)
    )
    one = plots.scatter(np.zeros((1, 2)), np.array([0]), size=size)
    y, x = np.nonzero((one[:, : size + 8] == plots.PALETTE[0]).all(-1))
    assert abs(y.mean() - 4 - size / 2) < 2 and abs(x.mean() - 8 - size / 2) < 2
