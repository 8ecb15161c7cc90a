"""Lab against hand values and OpenCV, the 313 bins, encoding, decoding, rebalancing."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.ops import lab

RNG = np.random.default_rng(0)
RGB = RNG.random((40, 50, 3)).astype(np.float32)
rgb_to_lab, lab_to_rgb = jax.jit(lab.rgb_to_lab), jax.jit(lab.lab_to_rgb)
nearest_bin = jax.jit(lab.nearest_bin)
soft_encode = jax.jit(lab.soft_encode, static_argnames="neighbors")
annealed_mean = jax.jit(lab.annealed_mean)


def test_hand_values():
    """Of the corners of the cube, by the definition in double precision."""
    rgb = np.array([[1, 1, 1], [0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    expected = [
        [100, 0, 0],
        [0, 0, 0],
        [53.2406, 80.0942, 67.2015],
        [87.7351, -86.1813, 83.1775],
        [32.2957, 79.1870, -107.8618],
    ]
    ours = rgb_to_lab(rgb)
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, expected, atol=1e-3)


def test_as_opencv_on_linear_light():
    """OpenCV reads its curve of sRGB from a coarse table, and cube roots from a finer."""
    linear = np.where(RGB > 0.04045, ((RGB + 0.055) / 1.055) ** 2.4, RGB / 12.92)
    expected = cv2.cvtColor(linear.astype(np.float32), cv2.COLOR_LRGB2Lab)
    error = np.abs(rgb_to_lab(RGB) - expected)
    assert error.max() < 0.05 and np.quantile(error, 0.99) < 1e-3


def test_as_scikit_image():
    color = pytest.importorskip("skimage.color")
    # Its white differs from that of its own matrix in the fifth digit.
    np.testing.assert_allclose(rgb_to_lab(RGB), color.rgb2lab(RGB), atol=0.02)


def test_there_and_back():
    dark = RGB / 50  # the straight part of both curves
    for rgb in (RGB, dark):
        np.testing.assert_allclose(lab_to_rgb(rgb_to_lab(rgb)), rgb, atol=2e-5)
    outside = lab_to_rgb(jnp.array([[50.0, 120, 120], [50, -120, -120]]))
    assert (outside >= 0).all() and (outside <= 1).all()


def test_gradients_are_finite_everywhere():
    rgb = jnp.array([[0.0, 0.0, 0.0], [1, 1, 1], [0, 0.5, 1]])
    there = jax.jit(jax.grad(lambda x: lab.rgb_to_lab(x).sum()))(rgb)
    back = jax.jit(jax.grad(lambda x: lab.lab_to_rgb(x).sum()))(rgb_to_lab(rgb))
    assert np.isfinite(there).all() and np.isfinite(back).all()


def test_the_published_bins():
    """(a, lowest b, highest b) of the table published with the paper."""
    rows = [
        *((-90, 50, 90), (-80, 20, 90), (-70, 0, 90), (-60, -20, 90), (-50, -30, 100)),
        *((-40, -40, 100), (-30, -50, 100), (-20, -50, 100), (-10, -60, 100)),
        *((0, -70, 100), (10, -80, 90), (20, -80, 90), (30, -90, 90), (40, -100, 90)),
        *((50, -100, 80), (60, -110, 80), (70, -110, 80), (80, -110, 70)),
        *((90, -110, 70), (100, -90, 0)),
    ]
    expected = [[a, b] for a, low, high in rows for b in range(low, high + 1, 10)]
    assert len(expected) == lab.NUM_BINS == 313
    np.testing.assert_array_equal(lab.ab_bins(), expected)


def test_every_colour_has_a_bin_near():
    grid = np.stack(np.meshgrid(*[np.linspace(0, 1, 18)] * 3), -1)
    ab = rgb_to_lab(grid)[..., 1:]
    centre = lab.ab_bins()[np.asarray(nearest_bin(ab))]
    # Nearest in the plane is nearest along each axis, if no grid point lacks its bin.
    np.testing.assert_array_less(np.abs(centre - ab), 5 + 1e-3)


def test_soft_encoding_by_hand():
    centre = {tuple(x): i for i, x in enumerate(lab.ab_bins().astype(int).tolist())}
    # On a bin: itself and its four neighbours, 10 away, at exp(-100 / 50).
    at_bin, off_bin = np.asarray(soft_encode(jnp.array([[0.0, 0], [3, 1]])))
    side = np.exp(-2)
    assert at_bin[centre[0, 0]] == pytest.approx(1 / (1 + 4 * side), rel=1e-5)
    for a, b in ((10, 0), (-10, 0), (0, 10), (0, -10)):
        assert at_bin[centre[a, b]] == pytest.approx(side / (1 + 4 * side), rel=1e-5)
    near = {(0, 0): 10, (10, 0): 50, (0, 10): 90, (10, 10): 130, (0, -10): 130}
    weights = {k: np.exp(-d / 50) for k, d in near.items()}
    for k, weight in weights.items():
        share = weight / sum(weights.values())
        assert off_bin[centre[k]] == pytest.approx(share, rel=1e-5)
    assert (at_bin > 0).sum() == (off_bin > 0).sum() == 5


def test_soft_codes_are_distributions_and_peak_at_the_nearest_bin():
    ab = RNG.uniform(-60, 60, (7, 3, 2)).astype(np.float32)
    code = np.asarray(soft_encode(ab, neighbors=4))
    assert code.shape == (7, 3, 313) and ((code > 0).sum(-1) == 4).all()
    np.testing.assert_allclose(code.sum(-1), 1, rtol=1e-5)
    np.testing.assert_array_equal(code.argmax(-1), nearest_bin(ab))


def test_annealed_mean_lies_between_mean_and_mode():
    bins = lab.ab_bins()
    share = np.full(313, 1e-9, np.float32)
    share[[10, 200]] = 0.7, 0.3
    mean, middle, mode = (
        np.asarray(annealed_mean(np.log(share), temperature=t))
        for t in (1.0, 0.38, 0.01)
    )
    np.testing.assert_allclose(mean, 0.7 * bins[10] + 0.3 * bins[200], atol=1e-2)
    np.testing.assert_allclose(mode, bins[10], atol=1e-3)
    # 0.7 and 0.3 to the power 1 / 0.38, normalised.
    high, low = 0.7 ** (1 / 0.38), 0.3 ** (1 / 0.38)
    expected = (high * bins[10] + low * bins[200]) / (high + low)
    np.testing.assert_allclose(middle, expected, atol=1e-2)


def test_decoding_undoes_encoding_at_a_bin():
    # Inside, where the neighbours lie evenly around it.
    centres = lab.ab_bins()[[100, 150, 200]]
    code = soft_encode(centres)
    back = annealed_mean(jnp.log(code + 1e-12), temperature=0.38)
    np.testing.assert_allclose(back, centres, atol=1e-2)


def test_bin_distribution_counts_pixels():
    red, grey = np.array([255, 0, 0], np.uint8), np.array([90, 90, 90], np.uint8)
    image = np.stack([np.tile(red, (4, 4, 1)), np.tile(grey, (4, 4, 1))])
    nearest = [int(nearest_bin(jnp.array(x))) for x in ([80.0, 67], [0.0, 0])]
    share = lab.bin_distribution(image)
    assert share[nearest].tolist() == [0.5, 0.5]
    batches = lab.bin_distribution(iter([image[:1], image[1:], image[1:]]), stride=2)
    np.testing.assert_allclose(batches[nearest], [1 / 3, 2 / 3])
    # A square half red, half grey has the colour between.
    both = np.concatenate([image[:1, :, :2], image[1:, :, :2]], axis=2)
    mixed = lab.bin_distribution(both, stride=4)
    assert mixed[int(nearest_bin(jnp.array([40.05, 33.6])))] == 1
    with pytest.raises(ValueError, match="no pixels"):
        lab.bin_distribution([])


def test_smoothing_keeps_the_sum_and_spreads():
    share = np.zeros(313)
    share[150] = 1
    smoothed = lab.smooth(share)
    assert smoothed.sum() == pytest.approx(1) and smoothed.argmax() == 150
    away = np.linalg.norm(lab.ab_bins() - lab.ab_bins()[150], axis=1)
    np.testing.assert_allclose(
        smoothed / smoothed[150], np.exp(-(away**2) / 50), atol=1e-6
    )


def test_class_weights_by_definition():
    share = RNG.dirichlet(np.full(313, 0.1))
    weight = lab.class_weights(1e6 * share)
    p = lab.smooth(share)
    assert (weight * p).sum() == pytest.approx(1, rel=1e-5)
    product = weight * (0.5 * p + 0.5 / 313)
    np.testing.assert_allclose(product, product[0], rtol=1e-5)
    np.testing.assert_allclose(lab.class_weights(share, uniform=1.0), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("prior", "fields", "message"),
    [
        (np.ones(312), {}, "313"),
        (-np.ones(313), {}, ">= 0"),
        (np.full(313, np.nan), {}, ">= 0"),
        (np.zeros(313), {}, "sums to 0"),
        (np.ones(313), {"uniform": 0.0}, "uniform is 0.0"),
    ],
)
def test_no_distribution(prior, fields, message):
    with pytest.raises(ValueError, match=message):
        lab.class_weights(prior, **fields)


def test_shrink_takes_means_of_rectangles():
    x = np.arange(24, dtype=np.float32).reshape(1, 4, 6, 1)
    out = lab.shrink(x, 2, 2)
    np.testing.assert_allclose(out[0, :, :, 0], [[4, 7], [16, 19]])
    with pytest.raises(ValueError, match="4x6 pixels do not divide into 3x2"):
        lab.shrink(x, 3, 2)
