"""Colour transforms: values by hand, randomness from the generator alone."""

import cv2
import numpy as np
import pytest

from vision.color_transforms import (
    ColorJitter,
    GaussianBlur,
    Grayscale,
    PrincipalColors,
    adjust_brightness,
    adjust_contrast,
    adjust_saturation,
    turn_hue,
)


def rng(seed=0):
    return np.random.default_rng(seed)


def example(height=20, width=24, channels=3, **fields):
    image = rng().integers(0, 256, (height, width, channels), dtype=np.uint8)
    image.flags.writeable = False  # no transform writes into what it was given
    return {"image": image, **fields}


def colors(*rows):
    """A picture of one row."""
    return np.array([rows], np.uint8)


ALL = [
    ColorJitter(0.4, 0.4, 0.4, 0.1),
    ColorJitter(hue=0.5),
    Grayscale(1.0),
    GaussianBlur(1.0),
    GaussianBlur(1.0, (0.5, 0.5), kernel_size=5),
]


@pytest.mark.parametrize("transform", ALL, ids=repr)
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_stay_uint8_and_other_fields_stay(transform, channels):
    given = example(channels=channels, label=3, other=b"text")
    found = transform(given, rng())
    assert found["image"].dtype == np.uint8
    assert found["image"].shape == given["image"].shape
    assert (found["label"], found["other"]) == (3, b"text")


@pytest.mark.parametrize("transform", ALL, ids=repr)
def test_draws_come_from_the_generator_alone(transform):
    first, second = (transform(example(), rng(5))["image"] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    renamed = type(transform)(**{**vars(transform), "key": "view"})
    found = renamed({"view": example()["image"], "image": 0}, rng(5))
    np.testing.assert_array_equal(found["view"], first)
    with pytest.raises(TypeError, match="still encoded"):
        transform({"image": b"bytes"}, rng())


@pytest.mark.parametrize(
    ("transform", "share"),
    [
        (ColorJitter(0.9, 0.9, 0.9, 0.5, probability=0.8), 0.8),
        (Grayscale(0.2), 0.2),
        (GaussianBlur(0.5, (1.0, 2.0)), 0.5),
    ],
)
def test_probability(transform, share):
    given, draws = example(6, 6), rng(3)
    changed = [transform(given, draws) is not given for _ in range(1000)]
    assert abs(np.mean(changed) - share) < 0.07  # over four standard deviations
    never = type(transform)(**{**vars(transform), "probability": 0.0})
    assert never(given, draws) is given


def test_brightness_by_hand():
    image = colors((0, 10, 101), (200, 255, 3))
    expected = [[(0, 15, 152), (255, 255, 4)]]  # 151.5 and 4.5 round to even
    np.testing.assert_array_equal(adjust_brightness(image, 1.5), expected)
    assert not adjust_brightness(image, 0.0).any()
    np.testing.assert_array_equal(adjust_brightness(image, 1.0), image)


def test_contrast_by_hand():
    image = np.array([[[100], [200]]], np.uint8)  # mean 150
    np.testing.assert_array_equal(adjust_contrast(image, 0.5).ravel(), [125, 175])
    np.testing.assert_array_equal(adjust_contrast(image, 2.0).ravel(), [50, 250])
    np.testing.assert_array_equal(adjust_contrast(image, 4.0).ravel(), [0, 255])
    # Red's grey is 0.299 * 255 = 76.2, white's 255; their mean is 165.5, rounded up.
    pair = colors((255, 0, 0), (255, 255, 255))
    assert (adjust_contrast(pair, 0.0) == 166).all()


def test_saturation_by_hand():
    image = colors((255, 0, 0), (0, 200, 0), (90, 90, 90))  # grey 76, 117, 90
    grey = [[(76,) * 3, (117,) * 3, (90,) * 3]]
    np.testing.assert_array_equal(adjust_saturation(image, 0.0), grey)
    doubled = [[(255, 0, 0), (0, 255, 0), (90, 90, 90)]]
    np.testing.assert_array_equal(adjust_saturation(image, 2.0), doubled)
    half = adjust_saturation(image, 0.5).astype(int)
    np.testing.assert_allclose(half, (image.astype(int) + grey) / 2, atol=0.5)


def test_hue_by_hand():
    image = colors((255, 0, 0), (0, 200, 0), (10, 10, 90), (77, 77, 77))
    third = [[(0, 255, 0), (0, 0, 200), (90, 10, 10), (77, 77, 77)]]
    np.testing.assert_array_equal(turn_hue(image, 1 / 3), third)
    np.testing.assert_array_equal(turn_hue(turn_hue(image, 1 / 3), -1 / 3), image)
    opposite = [[(0, 255, 255), (200, 0, 200), (90, 90, 10), (77, 77, 77)]]
    for half in (0.5, -0.5):
        np.testing.assert_array_equal(turn_hue(image, half), opposite)
    np.testing.assert_array_equal(turn_hue(example()["image"], 0.0), example()["image"])


def test_grey_pictures_have_no_colour_to_change():
    image = example(channels=1)["image"]
    assert turn_hue(image, 0.3) is image and adjust_saturation(image, 3.0) is image


def test_factors_are_uniform_about_one_and_never_negative():
    image, draws = np.full((1, 1, 1), 100, np.uint8), rng()
    jitter = ColorJitter(brightness=0.5)
    values = [jitter({"image": image}, draws)["image"].item() for _ in range(2000)]
    assert min(values) >= 50 and max(values) <= 150
    assert abs(np.mean(values) - 100) < 3 and abs(np.std(values) - 100 / 12**0.5) < 2
    strong = ColorJitter(brightness=3.0)  # factors in [0, 4]
    values = [strong({"image": image}, draws)["image"].item() for _ in range(2000)]
    assert min(values) < 5 and np.mean([v == 255 for v in values]) > 0.3


def test_the_order_is_random():
    """Contrast, then brightness, or the other way round: rounding and clipping tell."""
    image = np.array([[[40], [200]]], np.uint8)

    class Draws:
        """Every factor the highest; the order as given."""

        def __init__(self, order):
            self.order = order

        def random(self):
            return 0.0

        def permutation(self, count):
            assert count == 4
            return np.array(self.order)

        def uniform(self, low, high):
            return high

    jitter = ColorJitter(brightness=1.0, contrast=1.0)
    first = jitter({"image": image}, Draws([0, 1, 2, 3]))["image"].ravel()
    second = jitter({"image": image}, Draws([3, 1, 2, 0]))["image"].ravel()
    # 80, 255 (mean 167.5, 168 rounded) -> 0, 255; and mean 120: 0, 255 (280) -> 0, 255.
    assert first.tolist() == [0, 255] and second.tolist() == [0, 255]
    jitter = ColorJitter(brightness=0.5, contrast=0.5)
    image = np.array([[[100], [200]]], np.uint8)
    first = jitter({"image": image}, Draws([0, 1, 2, 3]))["image"].ravel()
    second = jitter({"image": image}, Draws([1, 0, 2, 3]))["image"].ravel()
    # (150, 255), mean 203 -> (123 or 124, 255); and (75, 225) -> (112, 255).
    assert first[0] in (123, 124) and second.tolist() == [112, 255]
    results = {
        tuple(jitter({"image": image}, rng(seed))["image"].ravel()) for seed in range(9)
    }
    assert len(results) > 5


def test_grayscale_is_luma_in_every_channel():
    found = Grayscale(1.0)(
        {"image": colors((255, 0, 0), (0, 255, 0), (0, 0, 255))}, rng()
    )
    np.testing.assert_array_equal(found["image"], [[(76,) * 3, (150,) * 3, (29,) * 3]])


def test_blur_by_hand():
    """A point becomes the product of two normal distributions, cut off and normalised."""
    image = np.zeros((9, 9, 1), np.uint8)
    image[4, 4] = 255
    found = GaussianBlur(1.0, (1.0, 1.0), kernel_size=5)({"image": image}, rng())
    weights = np.exp(-np.square(np.arange(-2, 3)) / 2)
    weights /= weights.sum()
    expected = np.zeros((9, 9))
    expected[2:7, 2:7] = 255 * np.outer(weights, weights)
    np.testing.assert_allclose(found["image"][..., 0], expected, atol=1)
    assert found["image"][4, 4] > found["image"][4, 5] > found["image"][4, 6] > 0


def test_blur_mirrors_at_the_border_and_reaches_a_tenth_of_the_side():
    flat = {"image": np.full((40, 60, 3), 123, np.uint8)}
    np.testing.assert_array_equal(
        GaussianBlur(1.0)(flat, rng())["image"], flat["image"]
    )
    # A side of 50 makes a kernel of 5; one of 8 the least, 3.
    for side, reach in ((50, 2), (8, 1)):
        image = np.zeros((side, side, 1), np.uint8)
        image[side // 2, side // 2] = 255
        found = GaussianBlur(1.0, (2.0, 2.0))({"image": image}, rng())["image"]
        assert np.flatnonzero(found.any((0, 2))).tolist() == list(
            range(side // 2 - reach, side // 2 + reach + 1)
        )


def test_stronger_blur_is_smoother():
    image = example(30, 30)["image"]
    rough = [
        cv2.Laplacian(
            GaussianBlur(1.0, (s, s), kernel_size=9)({"image": image}, rng())["image"],
            cv2.CV_32F,
        ).std()
        for s in (0.1, 0.7, 2.0)
    ]
    assert rough[0] > 2 * rough[1] > 4 * rough[2]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ColorJitter(brightness=-0.1), "brightness is -0.1"),
        (lambda: ColorJitter(contrast=-1), "contrast is -1"),
        (lambda: ColorJitter(hue=0.6), "hue is 0.6"),
        (lambda: ColorJitter(probability=1.5), "probability is 1.5"),
        (lambda: Grayscale(-0.5), "probability is -0.5"),
        (lambda: GaussianBlur(2), "probability is 2"),
        (lambda: GaussianBlur(sigma=(0.0, 1.0)), r"sigma is \(0.0, 1.0\)"),
        (lambda: GaussianBlur(sigma=(2.0, 1.0)), "0 < low <= high"),
        (lambda: GaussianBlur(kernel_size=4), "kernel_size is 4; it must be odd"),
    ],
)
def test_bad_fields(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_principal_colors_shift_all_pixels_alike_by_the_components():
    given = {"image": colors((100, 120, 140), (90, 128, 60)), "label": 3}
    transform = PrincipalColors(sigma=0.3)
    factors = 0.3 * rng(5).standard_normal(3)
    shift = 255 * sum(
        factors[i] * transform.spreads[i] * np.array(transform.components[i])
        for i in range(3)
    )
    found = transform(given, rng(5))
    assert found["label"] == 3
    np.testing.assert_array_equal(found["image"], np.rint(given["image"] + shift))
    still = PrincipalColors(sigma=0.0)(given, rng())["image"]
    np.testing.assert_array_equal(still, given["image"])


def test_shifts_have_the_spread_and_the_directions_of_imagenets_colors():
    """The components are orthonormal, and light varies more than tints."""
    transform, draws = PrincipalColors(sigma=1.0), rng(0)
    axes = np.array(transform.components)
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-3)
    middle = {"image": np.full((1, 1, 3), 128, np.uint8)}
    weak = PrincipalColors(sigma=0.5)
    shifts = [weak(middle, draws)["image"].ravel() - 128.0 for _ in range(4000)]
    deviations = (np.array(shifts) @ axes.T).std(0)
    expected = 0.5 * 255 * np.array(transform.spreads)
    # Rounding adds a twelfth to the variances.
    np.testing.assert_allclose(deviations, np.sqrt(expected**2 + 1 / 12), rtol=0.05)


def test_principal_colors_clip_and_name_mistakes():
    bright = PrincipalColors(sigma=50.0)({"image": colors((0, 128, 255))}, rng(1))
    assert set(bright["image"].ravel()) <= {0, 255}
    with pytest.raises(ValueError, match="sigma is -1"):
        PrincipalColors(sigma=-1)
    with pytest.raises(ValueError, match=r"shape \(3, 3\) for 2 spreads"):
        PrincipalColors(spreads=(1.0, 2.0))
    with pytest.raises(ValueError, match="1 channels has no principal colours"):
        PrincipalColors()(example(channels=1), rng())
    with pytest.raises(TypeError, match="still encoded"):
        PrincipalColors()({"image": b"bytes"}, rng())
