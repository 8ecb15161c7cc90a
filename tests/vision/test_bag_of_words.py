"""Bags of visual words: descriptors, votes and pyramids by hand, textures told apart."""

import cv2
import numpy as np
import pytest

from vision.bag_of_words import BagOfWords, assign, histogram
from vision.dense_descriptors import DenseHOG, DenseSIFT, normalized


def stripes(angle, height=48, width=64, period=8, seed=0):
    """A texture, uint8 [H, W, 1]: stripes whose gradients point to `angle` degrees."""
    y, x = np.indices((height, width))
    radians = np.deg2rad(angle)
    phase = np.random.default_rng(seed).uniform(0, 2 * np.pi)
    wave = np.sin(
        2 * np.pi * (x * np.cos(radians) + y * np.sin(radians)) / period + phase
    )
    noise = np.random.default_rng(seed + 1).normal(size=(height, width))
    return np.uint8(128 + 90 * wave + 8 * noise)[..., None]


@pytest.mark.parametrize(
    ("descriptor", "count", "dim"),
    [
        (DenseSIFT(step=8, patch_sizes=(16, 24)), 2 * 6 * 8, 128),
        (DenseSIFT(root=False), 3 * 6 * 8, 128),
        (DenseHOG(cell=8), 5 * 7, 36),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_descriptors_lie_on_a_grid_and_have_norm_one(descriptor, count, dim, channels):
    image = np.repeat(stripes(20), channels, axis=-1)
    found, places = descriptor(image)
    assert found.shape == (count, dim) and places.shape == (count, 2)
    assert found.dtype == places.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    assert (0 <= places).all() and (places < 1).all()
    # The grid leaves as much at one side as at the other (SIFT counts pixels from 0).
    np.testing.assert_allclose(places.mean(0), 0.5, atol=0.02)
    assert len(np.unique(places, axis=0)) == count // len(
        getattr(descriptor, "patch_sizes", "x")
    )


def test_sift_is_that_of_opencv_rooted():
    descriptor = DenseSIFT(step=16, patch_sizes=(24,))
    image = stripes(30)
    found, places = descriptor(image)
    points = [cv2.KeyPoint(float(x), float(y), 4.0, 0.0) for x, y in places * (64, 48)]
    _, raw = cv2.SIFT_create().compute(image[..., 0], points)
    expected = np.sqrt(raw / raw.sum(1, keepdims=True))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    # The product of two is Hellinger's of their distributions: 1 only for equal ones.
    assert (found @ found.T).max() <= 1 + 1e-5


def test_hog_finds_the_direction():
    """Stripes whose gradients are at 40 degrees: bins 20 degrees wide, the third."""
    for angle, bin_ in ((0, 0), (40, 2), (100, 5)):
        found, _ = DenseHOG()(stripes(angle))
        energy = found.reshape(-1, 4, 9).sum((0, 1))
        assert energy.argmax() == bin_
    exact = DenseHOG(cell=2)(np.uint8([[0, 10, 20, 30]] * 4)[..., None])[0]
    # Equal horizontal gradients: one bin in each of four cells, limited, normalised.
    np.testing.assert_allclose(exact.reshape(4, 9)[:, 0], 0.5)
    assert np.count_nonzero(exact) == 4
    with pytest.raises(ValueError, match="picture of 9 x 30 has less than 2 x 2 cells"):
        DenseHOG()(np.zeros((9, 30, 1), np.uint8))


def test_flat_pictures_have_no_words_but_no_trouble_either():
    for descriptor in (DenseSIFT(), DenseHOG()):
        found, _ = descriptor(np.full((40, 40, 3), 77, np.uint8))
        assert (found == 0).all()


def test_hard_and_soft_assignment_by_hand():
    words = np.float32([[0, 0], [1, 0], [0, 3]])
    descriptors = np.float32([[0.25, 0], [0.9, 0.1], [0, 2]])
    nearest, votes = assign(descriptors, words, 1, 0.3)
    np.testing.assert_array_equal(nearest, [[0], [1], [2]])
    np.testing.assert_array_equal(votes, [[1], [1], [1]])
    nearest, votes = assign(descriptors, words, 2, 0.5)
    distance = np.array([[0.25, 0.75]]) ** 2
    expected = np.exp(-distance / (2 * 0.25))
    order = np.argsort(nearest[0])
    np.testing.assert_array_equal(nearest[0, order], [0, 1])
    np.testing.assert_allclose(votes[0, order], (expected / expected.sum())[0], 1e-5)
    np.testing.assert_allclose(votes.sum(1), 1, rtol=1e-6)
    assert assign(descriptors, words, 9, 0.5)[0].shape == (
        3,
        3,
    )  # no more than there are


def test_a_pyramid_by_hand():
    """Lazebnik's weights: the finest of three levels counts half, the others a quarter."""
    places = np.float32([[0.1, 0.1], [0.9, 0.1], [0.9, 0.95], [0.6, 0.6]])
    nearest, votes = np.array([[0], [1], [1], [0]]), np.ones((4, 1), np.float32)
    found = histogram(nearest, votes, places, 2, (1, 2))
    # The whole counts half, the quarters (top left, top right, bottom left, ...) half.
    counts = 0.5 * np.array([2, 2, 1, 0, 0, 1, 0, 0, 1, 1])
    expected = np.sqrt(counts) / np.sqrt(counts.sum())
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    three = histogram(nearest, votes, places, 2, (1, 2, 4))
    assert three.shape == (2 * 21,) and np.linalg.norm(three) == pytest.approx(1)
    levels = [(three[:2] ** 2).sum(), (three[2:10] ** 2).sum(), (three[10:] ** 2).sum()]
    np.testing.assert_allclose(levels, [0.25, 0.25, 0.5], rtol=1e-5)
    plain = histogram(nearest, votes, places, 2, (1,))
    np.testing.assert_allclose(plain, [0.5**0.5] * 2, rtol=1e-6)
    edge = histogram(nearest, votes, np.ones((4, 2), np.float32), 2, (2,))
    assert edge[-2:].min() > 0  # the last cell has the last edge
    np.testing.assert_array_equal(normalized(np.zeros((1, 3))), np.zeros((1, 3)))


@pytest.fixture(scope="module")
def textures():
    """Pictures of four directions, of different sizes, and their classes."""
    rng = np.random.default_rng(0)
    labels = np.arange(48) % 4
    images = [
        stripes(45 * label + rng.uniform(-8, 8), 40 + i % 9, 64, seed=2 * i)
        for i, label in enumerate(labels)
    ]
    return images, labels


@pytest.mark.parametrize(
    "options",
    [
        dict(descriptor=DenseHOG()),
        dict(descriptor=DenseSIFT(patch_sizes=(16,)), neighbors=3, num_threads=2),
    ],
)
def test_textures_are_told_apart(textures, options):
    images, labels = textures
    recipe = BagOfWords(num_words=16, pyramid=(1, 2), vocabulary_images=8, **options)
    learned = recipe.fit(images[:32], labels[:32])
    assert learned.words.shape[0] == 16
    assert (learned.predict(images[32:]) == labels[32:]).mean() >= 0.9
    again = recipe.fit(images[:32], labels[:32])
    np.testing.assert_array_equal(again.words, learned.words)
    np.testing.assert_array_equal(
        again.predict(images[32:]), learned.predict(images[32:])
    )


def test_what_is_in_a_picture_counts_and_not_where_without_a_pyramid():
    """An orderless bag: swapping the halves of a picture changes little; the pyramid
    notices."""
    left, right = stripes(0, 64, 160), stripes(90, 64, 160)
    image = np.concatenate([left, right], axis=1)
    swapped = np.concatenate([right, left], axis=1)
    recipe = BagOfWords(descriptor=DenseHOG(), num_words=8, pyramid=(1,))
    words = recipe.vocabulary([image, swapped])
    plain = recipe.encode([image, swapped], words)
    pyramid = BagOfWords(descriptor=DenseHOG(), num_words=8, pyramid=(2,))
    placed = pyramid.encode([image, swapped], words)
    assert plain[0] @ plain[1] > 0.93  # but for the descriptors across the seam
    assert placed[0] @ placed[1] < 0.6


def test_mistakes_are_named(textures):
    images, labels = textures
    with pytest.raises(ValueError, match="num_words is 0; it must be positive"):
        BagOfWords(num_words=0)
    with pytest.raises(ValueError, match="pyramid is 0"):
        BagOfWords(pyramid=())
    with pytest.raises(ValueError, match="patch_sizes is 0"):
        DenseSIFT(patch_sizes=())
    with pytest.raises(ValueError, match="descriptors for num_words=9999; take fewer"):
        BagOfWords(descriptor=DenseHOG(), num_words=9999).fit(images, labels)
    with pytest.raises(ValueError, match="labels are of one class"):
        BagOfWords().fit(images, np.zeros(len(images)))
