import math

import cv2
import numpy as np
import pytest

from data.features import Image
from vision.transforms import (
    CenterCrop,
    Decode,
    PadAndCrop,
    RandomCrop,
    RandomErasing,
    RandomFlip,
    RandomResizedCrop,
    Resize,
    ScaleJitter,
)


def rng(seed=0):
    return np.random.default_rng(seed)


def example(height=40, width=50, channels=3, encoding=None, **fields):
    image = Image(height, width, channels, encoding).sample(rng())
    if encoding is None:
        image.flags.writeable = False  # no transform writes into what it was given
    return {"image": image, **fields}


ALL = [
    Decode(),
    Resize(8),
    Resize((9, 12), "cubic"),
    CenterCrop(10),
    RandomCrop(10),
    RandomResizedCrop(10),
    ScaleJitter(8, 12),
    RandomFlip(1.0),
    PadAndCrop(3, fill=7),
    RandomErasing(1.0),
    RandomErasing(1.0, fill=3),
]


@pytest.mark.parametrize("transform", ALL, ids=repr)
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_stay_uint8_and_other_fields_stay(transform, channels):
    if isinstance(transform, Decode | RandomResizedCrop):
        transform = type(transform)(**{**vars(transform), "channels": channels})
    given = example(channels=channels, label=3, other=b"text")
    found = transform(given, rng())
    assert found["image"].dtype == np.uint8
    assert found["image"].ndim == 3
    assert found["image"].shape[-1] == channels
    assert {k: v for k, v in found.items() if k != "image"} == {
        "label": 3,
        "other": b"text",
    }
    assert given["image"] is not found["image"] or isinstance(transform, Decode)


@pytest.mark.parametrize("transform", ALL, ids=repr)
def test_the_same_draws_give_the_same_picture(transform):
    first, second = (transform(example(), rng(5))["image"] for _ in range(2))
    np.testing.assert_array_equal(first, second)


DECODERS = Decode | Resize | RandomResizedCrop | ScaleJitter


@pytest.mark.parametrize(
    "transform", [t for t in ALL if not isinstance(t, DECODERS)], ids=repr
)
def test_encoded_pictures_are_refused_by_all_but_the_decoders(transform):
    with pytest.raises(TypeError, match="still encoded.*Decode"):
        transform(example(encoding="png"), rng())


@pytest.mark.parametrize("transform", ALL, ids=repr)
def test_the_field_is_a_matter_of_the_config(transform):
    transform = type(transform)(**{**vars(transform), "key": "view"})
    given = example()
    found = transform({"view": given["image"], "image": 0}, rng())
    assert found["image"] == 0
    expected = type(transform)(**{**vars(transform), "key": "image"})(given, rng())
    np.testing.assert_array_equal(found["view"], expected["image"])


def test_decode_converts_arrays_too():
    grey = example(channels=1)["image"]
    colour = Decode(3)({"image": grey}, rng())["image"]
    np.testing.assert_array_equal(colour, np.repeat(grey, 3, axis=-1))


@pytest.mark.parametrize(
    ("size", "shape"),
    [(20, (20, 25)), (80, (80, 100)), ((7, 9), (7, 9)), (40, (40, 50)), (33, (33, 41))],
)
def test_resize_takes_the_shorter_side_or_both(size, shape):
    assert Resize(size)(example(), rng())["image"].shape == (*shape, 3)
    turned = np.ascontiguousarray(example()["image"].transpose(1, 0, 2))
    if isinstance(size, int):
        assert Resize(size)({"image": turned}, rng())["image"].shape[:2] == shape[::-1]


@pytest.mark.parametrize("encoding", ["jpeg", "png"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [120, 30, (20, 70)])
def test_resize_decodes(encoding, channels, size):
    given = example(150, 200, encoding=encoding)
    found = Resize(size, channels=channels)(given, rng())["image"]
    expected = Resize(size)(Decode(channels)(given, rng()), rng())["image"]
    assert found.shape == expected.shape
    # Equal but where a fraction of the size was decoded.
    assert np.abs(found.astype(int) - expected).mean() < (5 if size != 120 else 1e-9)


def test_area_averages_and_linear_does_not():
    stripes = np.zeros((16, 16, 1), np.uint8)
    stripes[:, ::4] = 200
    area = Resize(4)({"image": stripes}, rng())["image"]
    linear = Resize(4, "linear")({"image": stripes}, rng())["image"]
    assert np.all(area == 50)
    assert not linear.any()
    with pytest.raises(ValueError, match="'lanczos'"):
        Resize(4, "lanczos")
    with pytest.raises(ValueError, match="'lanczos'"):
        RandomResizedCrop(4, interpolation="lanczos")


def test_center_crop_is_the_middle():
    given = example(41, 50)
    found = CenterCrop((21, 10))(given, rng())["image"]
    np.testing.assert_array_equal(found, given["image"][10:31, 20:30])
    with pytest.raises(ValueError, match="42 x 42 from a picture of 41 x 50"):
        CenterCrop(42)(given, rng())


def test_crops_have_the_area_and_shape_asked_for():
    crop = RandomResizedCrop(8, area=(0.2, 0.5), aspect_ratio=(0.5, 2))
    boxes = [crop.box(300, 400, rng(seed)) for seed in range(500)]
    area = np.array([b.height * b.width for b in boxes]) / (300 * 400)
    ratio = np.array([b.width / b.height for b in boxes])
    np.testing.assert_allclose([area.min(), area.max()], [0.2, 0.5], atol=0.01)
    np.testing.assert_allclose([ratio.min(), ratio.max()], [0.5, 2], atol=0.05)
    assert abs(np.log(ratio).mean()) < 0.1
    bottom = [b.top + b.height for b in boxes]
    right = [b.left + b.width for b in boxes]
    assert (min(b.top for b in boxes), max(bottom)) == (0, 300)
    assert (min(b.left for b in boxes), max(right)) == (0, 400)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((10, 100), (0, 43, 10, 13)),
        ((100, 10), (43, 0, 13, 10)),
        ((1, 1), (0, 0, 1, 1)),
    ],
)
def test_an_extreme_picture_gives_its_middle(shape, expected):
    crop = RandomResizedCrop(8, area=(1.0, 1.0))
    assert crop.box(*shape, rng()) == expected


@pytest.mark.parametrize("channels", [1, 3])
def test_a_crop_of_bytes_is_the_crop_of_the_picture(channels):
    given = example(150, 200, encoding="jpeg")
    crop = RandomResizedCrop(64, channels=channels)
    for seed in range(5):
        found = crop(given, rng(seed))["image"]
        whole = Decode(channels)(given, rng())
        expected = crop(whole, rng(seed))["image"]
        # Equal but where a fraction of the size was decoded.
        assert np.abs(found.astype(int) - expected).mean() < 7
        if min(crop.box(150, 200, rng(seed))[2:]) < 128:
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("encoding", ["png", None])
def test_a_crop_is_the_part_resized(encoding):
    given = example(encoding=encoding)
    crop = RandomResizedCrop((10, 12))
    box = crop.box(40, 50, rng(3))
    image = Decode()(given, rng())["image"]
    part = image[box.top : box.top + box.height, box.left : box.left + box.width]
    np.testing.assert_array_equal(
        crop(given, rng(3))["image"], cv2.resize(part, (12, 10))
    )


@pytest.mark.parametrize(
    "transform", [Decode(), Resize(8), RandomResizedCrop(8)], ids=repr
)
@pytest.mark.parametrize("encoding", ["jpeg", "png"])
def test_truncated_bytes_are_an_error(transform, encoding):
    data = example(encoding=encoding)["image"]
    with pytest.raises(ValueError, match="truncated"):
        transform({"image": data[: len(data) // 2]}, rng())


def test_flips_are_mirrored_and_as_frequent_as_asked():
    given = example()
    np.testing.assert_array_equal(
        RandomFlip(1.0)(given, rng())["image"], given["image"][:, ::-1]
    )
    flipped = sum(
        RandomFlip(0.25)(given, rng(seed))["image"] is not given["image"]
        for seed in range(400)
    )
    assert 70 < flipped < 130


@pytest.mark.parametrize("channels", [1, 3])
def test_pad_and_crop_shifts_and_fills(channels):
    image = example(6, 7, channels)["image"]
    seen = set()
    for seed in range(200):
        found = PadAndCrop(2, fill=9)({"image": image}, rng(seed))["image"]
        padded = np.full((10, 11, channels), 9, np.uint8)
        padded[2:8, 2:9] = image
        places = [
            (y, x)
            for y in range(5)
            for x in range(5)
            if np.array_equal(found, padded[y : y + 6, x : x + 7])
        ]
        assert len(places) == 1
        seen.add(places[0])
    assert len(seen) == 25


@pytest.mark.parametrize("fill", [None, 5])
def test_erasing_covers_a_rectangle(fill):
    given = {"image": np.full((60, 80, 3), 100, np.uint8)}
    shares = []
    for seed in range(100):
        found = RandomErasing(1.0, area=(0.1, 0.3), fill=fill)(given, rng(seed))[
            "image"
        ]
        changed = (found != 100).any(axis=-1)
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        box = found[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        shares.append(box.shape[0] * box.shape[1] / (60 * 80))
        assert 0.25 < box.shape[0] / box.shape[1] < 4
        if fill is None:
            assert box.std() > 60
        else:
            assert np.all(box == fill)
    np.testing.assert_allclose([min(shares), max(shares)], [0.1, 0.3], atol=0.02)
    assert (given["image"] == 100).all()
    untouched = sum(
        RandomErasing(0.25)(given, rng(seed))["image"] is given["image"]
        for seed in range(400)
    )
    assert math.isclose(untouched / 400, 0.75, abs_tol=0.08)


def test_scale_jitter_draws_every_shorter_side_equally_and_keeps_the_shape():
    draws, jitter = rng(1), ScaleJitter(20, 24)
    found = [jitter(example(40, 60), draws)["image"].shape for _ in range(500)]
    assert {shape[0] for shape in found} == set(range(20, 25))
    for height, width, _ in found:
        assert abs(width - 1.5 * height) <= 0.5
    counts = np.bincount([shape[0] for shape in found])[20:]
    assert counts.min() > 65  # 100 are expected; four standard deviations below
    assert ScaleJitter() == ScaleJitter(256, 480)
    same = Resize(21)(example(40, 60), rng())["image"]
    jittered = ScaleJitter(21, 21)(example(40, 60), rng())["image"]
    np.testing.assert_array_equal(jittered, same)
    encoded = ScaleJitter(12, 12)(example(40, 60, encoding="jpeg"), rng())["image"]
    assert encoded.shape == (12, 18, 3)
    with pytest.raises(ValueError, match="from 30 to 20; give 0 < low <= high"):
        ScaleJitter(30, 20)


def test_random_crops_are_parts_at_every_place_equally_often():
    rows, columns = np.indices((6, 7))
    image = (10 * rows + columns).astype(np.uint8)[..., None]
    draws, counts = rng(2), {}
    for _ in range(600):
        crop = RandomCrop((4, 6))({"image": image}, draws)["image"][..., 0]
        top, left = divmod(int(crop[0, 0]), 10)
        np.testing.assert_array_equal(crop, image[top : top + 4, left : left + 6, 0])
        counts[top, left] = counts.get((top, left), 0) + 1
    assert set(counts) == {(t, left) for t in range(3) for left in range(2)}
    assert min(counts.values()) > 60  # 100 are expected
    with pytest.raises(ValueError, match="7 x 7 from a picture of 6 x 7; add a Resize"):
        RandomCrop(7)({"image": image}, draws)
