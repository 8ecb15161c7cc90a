import numpy as np
import pytest

from data.features import Image
from vision.randaugment import CODE, PAPER
from vision.transforms import RandAugment

ALL = sorted({*PAPER, *CODE})


def apply(image, name, magnitude=10.0, seed=0, **fields):
    image = image.copy()
    image.flags.writeable = False
    transform = RandAugment(1, magnitude, (name,), **fields)
    return transform({"image": image}, np.random.default_rng(seed))["image"]


def photo(channels=3, height=30, width=40):
    return Image(height, width, channels).sample(np.random.default_rng(1))


def close(found, expected, tolerance=1):
    expected = np.clip(expected, 0, 255)
    np.testing.assert_allclose(found.astype(float), expected, atol=tolerance)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("magnitude", [0, 5, 15, 30])
def test_every_operation_keeps_shape_and_type(name, channels, magnitude):
    image = photo(channels)
    found = apply(image, name, magnitude)
    assert (found.shape, found.dtype) == (image.shape, np.uint8)


@pytest.mark.parametrize("name", ALL)
def test_every_operation_but_one_does_something(name):
    image = photo() // 2 + 9
    found = apply(image, name, 4)
    assert np.array_equal(found, image) == (name == "Identity")


@pytest.mark.parametrize("magnitude", [0, 5, 10])
def test_values(magnitude):
    image = photo().astype(float)
    m = magnitude / 10

    def is_applied(name, expected, **fields):
        close(apply(photo(), name, magnitude, **fields), expected)

    factor = 0.1 + 1.8 * m
    grey = image @ [0.299, 0.587, 0.114]
    is_applied("Brightness", factor * image)
    is_applied("Contrast", grey.mean() + factor * (image - grey.mean()))
    is_applied("Color", grey[..., None] + factor * (image - grey[..., None]))
    is_applied("Invert", 255 - image)
    threshold = int(256 * m)
    is_applied("Solarize", np.where(image < threshold, image, 255 - image))
    added = np.minimum(image + int(110 * m), 255)
    is_applied("SolarizeAdd", np.where(image < 128, added, image))
    unit = 2 ** (8 - int(4 * m))
    is_applied("Posterize", image // unit * unit)


def test_increasing_operations_leave_the_picture_at_strength_zero():
    names = ("Posterize", "Solarize", "Brightness", "Contrast", "Color", "Sharpness")
    for name in names:
        close(apply(photo(), name, 0, increasing=True), photo())
        both = {apply(photo(), name, 9, s, increasing=True).tobytes() for s in range(9)}
        assert len(both) == (1 if name in names[:2] else 2)
    found = apply(photo(), "Solarize", 10, increasing=True)
    np.testing.assert_array_equal(found, 255 - photo())


def test_sharpness_mixes_with_a_smoothed_picture():
    image = photo(1)[..., 0].astype(float)
    kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
    smooth = image.copy()
    smooth[1:-1, 1:-1] = sum(
        kernel[y, x] * image[y : y + 28, x : x + 38] for y in range(3) for x in range(3)
    )
    close(apply(photo(1), "Sharpness")[..., 0], smooth + 1.9 * (image - smooth), 2)


def test_auto_contrast_stretches_each_channel():
    image = photo() // 4 + 20
    image[..., 2] = 77  # nothing to stretch
    found = apply(image, "AutoContrast")
    low, high = image.min((0, 1)), image.max((0, 1))
    close(found[..., :2], (image - low)[..., :2] * (255 / (high - low)[:2]))
    assert (found[..., 2] == 77).all()


def test_equalize_makes_values_equally_frequent():
    image = (photo(3, 100, 100) // 8 + 40).astype(np.uint8)
    image[..., 1] = 7
    found = apply(image, "Equalize")
    assert (found[..., 1] == 7).all()
    shares = [(found[..., 0] < t).mean() for t in (64, 128, 192)]
    np.testing.assert_allclose(shares, [0.25, 0.5, 0.75], atol=0.08)
    order = np.argsort(image[..., 0], axis=None)
    assert np.all(np.diff(found[..., 0].ravel()[order].astype(int)) >= 0)


def test_geometry_moves_pixels_by_the_formula():
    image = np.full((224, 224, 1), 10, np.uint8)
    image[110:114, 110:114] = 200

    def middle(name, seed=0):
        found = apply(image, name, 5, seed, fill=10)
        weight = found[..., 0].astype(float) - 10
        rows, columns = np.indices(weight.shape)
        return [float((x * weight).sum() / weight.sum()) for x in (rows, columns)]

    def both(name):
        return sorted({tuple(round(v, 1) for v in middle(name, s)) for s in range(9)})

    assert both("Identity") == [(111.5, 111.5)]
    assert both("TranslateX") == [(111.5, 61.5), (111.5, 161.5)]
    assert both("TranslateY") == [(61.5, 111.5), (161.5, 111.5)]
    np.testing.assert_allclose(
        both("ShearX"), [(111.5, 111.5 * 0.85), (111.5, 111.5 * 1.15)], atol=0.2
    )
    np.testing.assert_allclose(
        both("ShearY"), [(111.5 * 0.85, 111.5), (111.5 * 1.15, 111.5)], atol=0.2
    )
    np.testing.assert_allclose(both("Rotate"), [(111.5, 111.5)], atol=0.1)
    corner = apply(image, "Rotate", 10, fill=99)[0, 0, 0]
    assert corner == 99


def test_rotation_is_by_thirty_degrees():
    image = np.zeros((101, 101, 1), np.uint8)
    image[50, 50:] = 255  # a ray to the right
    found = apply(image, "Rotate", 10, fill=0)[..., 0]
    ends = {(50 + s * round(40 * 0.5), 50 + round(40 * 0.866)) for s in (1, -1)}
    assert sum(found[y - 1 : y + 2, x - 1 : x + 2].max() > 100 for y, x in ends) == 1


def test_cutout_fills_a_square():
    sizes = {
        int((apply(np.zeros((224, 224, 3), np.uint8), "Cutout", 10, s) == 128).sum())
        // 3
        for s in range(20)
    }
    assert max(sizes) == 80 * 80


def test_layers_are_drawn_independently():
    transform = RandAugment(2, 5, ("Invert", "Identity"))
    found = [
        transform({"image": np.zeros((2, 2, 1), np.uint8)}, np.random.default_rng(s))[
            "image"
        ].max()
        for s in range(200)
    ]
    assert 70 < found.count(255) < 130  # one of two inverts, not both


def test_the_published_sets_have_names():
    assert RandAugment().names == PAPER
    assert RandAugment(operations="code").names == CODE
    assert (len(set(PAPER)), len(set(CODE)), len(ALL)) == (14, 16, 17)
    assert RandAugment(operations=("Invert",)).names == ("Invert",)


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="'Blur'; there are: Identity"):
        RandAugment(operations=("Blur",))
    with pytest.raises(ValueError, match="0..30, not 31"):
        RandAugment(magnitude=31)
    with pytest.raises(TypeError, match="still encoded"):
        RandAugment()({"image": b"x"}, np.random.default_rng(0))
