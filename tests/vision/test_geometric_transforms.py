"""Affine: fixed amounts by hand, random ones within their range, errors."""

import numpy as np
import pytest

from vision.geometric_transforms import Affine


def draw(transform, image, seed=0):
    rng = np.random.default_rng(seed)
    return transform({"image": image, "label": 3}, rng)["image"]


def random_image(height=9, width=9, channels=3):
    rng = np.random.default_rng(1)
    return rng.integers(0, 256, (height, width, channels), np.uint8)


def test_nothing_to_do_changes_nothing():
    image = random_image(7, 10)
    np.testing.assert_array_equal(draw(Affine(), image), image)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_whole_pixels_are_moved_exactly_and_filled(channels):
    image = random_image(6, 8, channels)
    moved = draw(Affine(down=2, right=-1, fill=7), image)
    np.testing.assert_array_equal(moved[2:, :-1], image[:-2, 1:])
    np.testing.assert_array_equal(moved[:2], 7)
    np.testing.assert_array_equal(moved[:, -1], 7)


@pytest.mark.parametrize(("degrees", "turns"), [(90, 1), (180, 2), (-90, -1)])
@pytest.mark.parametrize("side", [8, 9])
def test_quarter_turns_are_counter_clockwise(degrees, turns, side):
    image = random_image(side, side)
    turned = draw(Affine(rotation=degrees), image)
    np.testing.assert_array_equal(turned, np.rot90(image, turns))


def test_scale_is_about_the_middle():
    image = np.zeros((9, 9, 1), np.uint8)
    image[4, 4] = image[4, 6] = 200
    larger = draw(Affine(scale=2.0), image)[..., 0]
    assert larger[4, 4] == 200 and larger[4, 8] == 200 and larger[4, 6] == 0
    smaller = draw(Affine(scale=0.5, interpolation="nearest"), image)[..., 0]
    assert smaller[4, 4] == 200 and smaller[4, 5] == 200 and smaller[4, 6] == 0


def test_turning_there_and_back_keeps_the_middle():
    y, x = np.mgrid[:21, :21] - 10.0
    image = np.uint8(200 * np.exp(-(y**2 + (x - 3) ** 2) / 20))[..., None]
    turned = draw(Affine(rotation=30), image)
    back = draw(Affine(rotation=-30), turned)
    assert np.abs(turned.astype(int) - image).max() > 50
    assert np.abs(back.astype(int) - image)[5:-5, 5:-5].max() < 12


def test_random_amounts_lie_in_their_range_and_follow_the_seed():
    transform = Affine(rotation=(-20, 20), scale=(0.5, 2), down=(-2, 2), right=(1, 3))
    found = []
    for seed in range(200):
        matrix = transform.matrix(11, 11, np.random.default_rng(seed))
        scale = np.sqrt(np.linalg.det(matrix[:, :2]))
        angle = np.degrees(np.arctan2(matrix[0, 1], matrix[0, 0]))
        right, down = matrix @ (5, 5, 1) - 5
        found.append((angle, np.log2(scale), down, right))
    low, high = np.min(found, 0), np.max(found, 0)
    np.testing.assert_array_less((-20, -1, -2, 1), low)
    np.testing.assert_array_less(high, (20, 1, 2, 3))
    assert (high - low > 0.9 * np.array((40, 2, 4, 2))).all()
    image = random_image()
    np.testing.assert_array_equal(draw(transform, image, 5), draw(transform, image, 5))
    assert (draw(transform, image, 5) != draw(transform, image, 6)).any()


def test_fixed_amounts_draw_nothing():
    rng = np.random.default_rng(0)
    Affine(rotation=10, down=1)({"image": random_image()}, rng)
    assert rng.random() == np.random.default_rng(0).random()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"interpolation": "area"}, "linear, nearest|nearest, linear.*'area'"),
        ({"rotation": (3, -3)}, r"rotation is \(3, -3\); the lower end"),
        ({"scale": 0.0}, "scale is 0.0; it must be positive"),
        ({"scale": (-1, 2)}, r"scale is \(-1, 2\)"),
    ],
)
def test_errors_name_the_value(fields, message):
    with pytest.raises(ValueError, match=message):
        Affine(**fields)
