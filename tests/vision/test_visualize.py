"""Pictures: shapes, colours, no interpolation of tiny images, odd inputs."""

import numpy as np
import pytest

from vision import visualize


def test_denormalize_undoes_the_normalisation():
    image = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, -1)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    normal = (image / 255 - np.array(mean)) / np.array(std)
    np.testing.assert_array_equal(visualize.denormalize(normal, mean, std), image)


def test_denormalize_clips_and_survives_what_is_not_finite():
    image = np.array([[[-9.0], [9.0], [np.nan], [np.inf], [-np.inf]]])
    result = visualize.denormalize(image, (0.5,), (0.5,))
    np.testing.assert_array_equal(result[0, :, 0], [0, 255, 0, 255, 0])


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 2), (4, 5, 3), (4, 5, 7)])
def test_any_channel_count_becomes_rgb(shape):
    image = np.full(shape, 200, np.uint8)
    rgb = visualize.as_rgb(image)
    assert rgb.shape == (4, 5, 3) and rgb.dtype == np.uint8
    np.testing.assert_array_equal(rgb[..., 0], 200)


def test_tiny_images_keep_their_pixels():
    tiny = np.zeros((8, 8, 3), np.uint8)
    tiny[::2, 1::2] = 255
    large = visualize.fit(tiny, 64)
    assert set(np.unique(large)) == {0, 255}
    np.testing.assert_array_equal(large[4::8, 4::8], tiny)


@pytest.mark.parametrize("shape", [(100, 50), (50, 100), (3, 1), (1, 300)])
def test_fit_keeps_the_aspect(shape):
    large = visualize.fit(np.full((*shape, 3), 255, np.uint8), 60)
    assert large.shape == (60, 60, 3)
    lit = large.any(-1)
    height, width = lit.any(1).sum(), lit.any(0).sum()
    assert max(height, width) == 60
    assert abs(height - max(1, 60 * shape[0] / max(shape))) <= 1
    assert abs(width - max(1, 60 * shape[1] / max(shape))) <= 1


def test_caption_is_cut_to_its_width():
    long = visualize.caption("a very long class name, much too long", 60)
    assert long.shape == (22, 60, 3)
    assert long.any() and not long[:, -2:].any()


def test_grid_places_tiles_row_by_row():
    tiles = [np.full((2, 3, 3), value, np.uint8) for value in (10, 20, 30)]
    picture = visualize.grid(tiles, columns=2, gap=1)
    assert picture.shape == (2 * 3 + 1, 2 * 4 + 1, 3)
    assert picture[1, 1, 0] == 10 and picture[1, 5, 0] == 20 and picture[4, 1, 0] == 30
    assert picture[4, 5, 0] == 255
    with pytest.raises(ValueError, match="no tiles"):
        visualize.grid([])


def test_predictions_are_green_where_right_and_red_where_wrong():
    images = np.full((2, 8, 8, 1), 128, np.uint8)
    picture = visualize.predictions(
        images, np.array([3, 4]), np.array([3, 5]), confidence=np.array([0.9, 0.4])
    )
    half = picture.shape[1] // 2
    left = picture[:, :half].reshape(-1, 3).tolist()
    right = picture[:, half:].reshape(-1, 3).tolist()
    assert list(visualize.GREEN) in left and list(visualize.RED) not in left
    assert list(visualize.RED) in right and list(visualize.GREEN) not in right


def test_predictions_show_at_most_max_images_and_tolerate_unknown_names():
    images = np.zeros((9, 4, 4, 3), np.uint8)
    guesses = np.arange(9)
    few = visualize.predictions(images, guesses, guesses, max_images=4, size=32)
    many = visualize.predictions(images, guesses, guesses, max_images=9, size=32)
    assert few.shape[0] < many.shape[0] and few.shape[1] < many.shape[1]
    assert visualize.label_name(1, ("cat", "dog")) == "dog"
    assert visualize.label_name(7, ("cat", "dog")) == "7"
    assert visualize.label_name(-1, ("cat", "dog")) == "-1"


def flat(*values):
    return np.stack([np.full((4, 4, 3), value, np.uint8) for value in values])


def test_triplets_stand_side_by_side_with_wider_gaps_between_them():
    picture = visualize.triplets(
        flat(10, 20), flat(30, 40), flat(50, 60), size=48, columns=2
    )
    line = picture[picture.shape[0] // 2, :, 0]
    runs = np.split(line, np.flatnonzero(np.diff(line.astype(int))) + 1)
    values, lengths = zip(*((int(run[0]), len(run)) for run in runs), strict=True)
    assert values == (255, 10, 255, 30, 255, 50, 255, 20, 255, 40, 255, 60, 255)
    assert set(lengths[1::2]) == {48}
    outer, inner = {lengths[0], lengths[6], lengths[12]}, set(lengths[2:6:2])
    assert len(outer) == len(inner) == 1 and min(outer) > 2 * max(inner) > 0


def test_triplets_show_at_most_max_images_row_by_row_in_any_channel_count():
    images = np.zeros((5, 4, 4, 1), np.uint8) + np.arange(5).reshape(5, 1, 1, 1) * 40
    picture = visualize.triplets(
        images, images, images, max_images=4, size=48, columns=1
    )
    column = picture[:, picture.shape[1] // 2, 0]
    runs = np.split(column, np.flatnonzero(np.diff(column.astype(int))) + 1)
    assert [int(run[0]) for run in runs] == [255, 0, 255, 40, 255, 80, 255, 120, 255]
    many = visualize.triplets(*[np.zeros((16, 4, 4, 5), np.uint8)] * 3)
    assert 0.5 < many.shape[0] / many.shape[1] < 2
    with pytest.raises(ValueError, match="2 masked images, 1 recon"):
        visualize.triplets(flat(1, 2), flat(1), flat(1, 2))
