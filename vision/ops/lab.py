"""CIE Lab colours, and the bins of its ab plane that colourisation predicts.

Lab: CIE 1976 L*a*b* of sRGB (IEC 61966-2-1) under its own white, D65, 2 degrees. Bins, soft
encoding, annealed mean and class rebalancing: R. Zhang, P. Isola, A. A. Efros, "Colorful
Image Colorization", 2016, https://arxiv.org/abs/1603.08511.

The paper says that a grid of step 10 has 313 points "in gamut" and not how they were found.
Counting those nearest to some sRGB colour gives 262, rounding each colour down and up gives
309. What gives 313, and each of the authors' published points in their order, is to take the
convex hull of the gamut's ab values and then the corners of all cells of the grid that the
hull enters. So `ab_bins` does.
"""

import functools
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

STEP = 10.0
SIGMA = 5.0
NUM_BINS = 313

_XYZ_OF_RGB = np.array(
    [
        [0.412453, 0.357580, 0.180423],
        [0.212671, 0.715160, 0.072169],
        [0.019334, 0.119193, 0.950227],
    ]
)
_WHITE = _XYZ_OF_RGB.sum(1)
_RGB_OF_XYZ = np.linalg.inv(_XYZ_OF_RGB)
_KNEE = 6 / 29


def _mix(x: jax.Array, matrix: np.ndarray) -> jax.Array:
    """[..., 3] by a 3x3 matrix, without the reduced precision of matrix products."""
    return (x[..., None, :] * jnp.float32(matrix)).sum(-1)


def rgb_to_lab(rgb: jax.Array) -> jax.Array:
    """float [..., 3] of sRGB in 0..1 -> float32 [..., 3]: L in 0..100, a, b in -108..98."""
    rgb = jnp.asarray(rgb, jnp.float32)
    # Both branches stay finite, so that no gradient is NaN by the one not taken.
    curve = ((jnp.maximum(rgb, 0.04) + 0.055) / 1.055) ** 2.4
    linear = jnp.where(rgb > 0.04045, curve, rgb / 12.92)
    xyz = _mix(linear, _XYZ_OF_RGB / _WHITE[:, None])
    root = jnp.cbrt(jnp.maximum(xyz, _KNEE**3))
    x, y, z = jnp.moveaxis(
        jnp.where(xyz > _KNEE**3, root, xyz / (3 * _KNEE**2) + 4 / 29), -1, 0
    )
    return jnp.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def lab_to_rgb(lab: jax.Array) -> jax.Array:
    """float [..., 3] of Lab -> float32 [..., 3] of sRGB, cut to 0..1 out of gamut."""
    lightness, a, b = jnp.moveaxis(jnp.asarray(lab, jnp.float32), -1, 0)
    y = (lightness + 16) / 116
    root = jnp.stack([y + a / 500, y, y - b / 200], axis=-1)
    xyz = jnp.where(root > _KNEE, root**3, 3 * _KNEE**2 * (root - 4 / 29))
    linear = _mix(xyz, _RGB_OF_XYZ * _WHITE)
    curve = 1.055 * jnp.maximum(linear, 0.003) ** (1 / 2.4) - 0.055
    return jnp.where(linear > 0.0031308, curve, 12.92 * linear).clip(0, 1)


@functools.cache
def ab_bins() -> np.ndarray:
    """The bins' centres: float32 [313, 2], ordered by a, then b. Computed once."""
    side = np.arange(17) / 16
    u, v = (x.ravel() for x in np.meshgrid(side, side))
    # The hull of the cube's faces is the hull of the cube.
    faces = [
        np.insert(np.stack([u, v], 1), axis, end, axis=1)
        for axis in range(3)
        for end in (0, 1)
    ]
    ab = _numpy_ab(np.concatenate(faces))
    angle = np.arange(0, 360) * np.pi / 180
    direction = np.round(np.stack([np.cos(angle), np.sin(angle)], 1), 12)
    reach = (direction @ ab.T).max(1)
    axis = STEP * np.arange(-13, 14)
    points = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    # A point is a corner of a cell entered by the hull if no line separates the hull from
    # the four cells around the point.
    nearest = points @ direction.T - STEP * np.abs(direction).sum(1)
    bins = points[(nearest < reach).all(1)].astype(np.float32)
    bins.setflags(write=False)
    return bins


def _numpy_ab(rgb: np.ndarray) -> np.ndarray:
    """As `rgb_to_lab`, in float64 and without a device, for the bins' table."""
    linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    xyz = linear @ _XYZ_OF_RGB.T / _WHITE
    root = np.where(xyz > _KNEE**3, np.cbrt(xyz), xyz / (3 * _KNEE**2) + 4 / 29)
    x, y, z = root.T
    return np.stack([500 * (x - y), 200 * (y - z)], axis=1)


def _squared_distances(ab: jax.Array) -> jax.Array:
    """float [..., 2] -> float32 [..., 313], to every bin."""
    bins = ab_bins()
    ab = jnp.asarray(ab, jnp.float32)
    return (ab[..., :1] - bins[:, 0]) ** 2 + (ab[..., 1:] - bins[:, 1]) ** 2


def nearest_bin(ab: jax.Array) -> jax.Array:
    """float [..., 2] -> int32 [...]: the bin whose centre is nearest."""
    return _squared_distances(ab).argmin(-1).astype(jnp.int32)


def soft_encode(
    ab: jax.Array, *, neighbors: int = 5, sigma: float = SIGMA
) -> jax.Array:
    """Weights of the nearest bins by a Gaussian of the distance, summing to 1.

    Args:
        ab: float [..., 2].
        neighbors: how many bins have a weight.
        sigma: of the Gaussian, in units of ab.

    Returns:
        float32 [..., 313].
    """
    closeness, index = jax.lax.top_k(-_squared_distances(ab), neighbors)
    weight = jax.nn.softmax(closeness / (2 * sigma**2))
    hit = index[..., None] == jnp.arange(NUM_BINS)
    return jnp.where(hit, weight[..., None], 0).sum(-2)


def annealed_mean(logits: jax.Array, *, temperature: float = 0.38) -> jax.Array:
    """The mean colour of a distribution made peakier: its logits over the temperature.

    Args:
        logits: float [..., 313].
        temperature: > 0; 1 is the plain mean (dull), towards 0 the mode (patchy).

    Returns:
        float32 [..., 2].
    """
    share = jax.nn.softmax(jnp.asarray(logits, jnp.float32) / temperature)
    bins = jnp.asarray(ab_bins())
    return (share[..., None] * bins).sum(-2)


def bin_distribution(
    images: np.ndarray | Iterable[np.ndarray], *, stride: int = 1
) -> np.ndarray:
    """How often each bin occurs in a dataset. To keep it in a file:

        np.save("prior.npy", bin_distribution(images, stride=4))

    Args:
        images: uint8 [N, H, W, 3], or batches of such.
        stride: ab is averaged over squares of this side first, as the targets of a model
            that predicts at this stride are.

    Returns:
        float64 [313], summing to 1.

    Raises:
        ValueError: there is no pixel.
    """
    count = np.zeros(NUM_BINS)
    for batch in [images] if isinstance(images, np.ndarray) else images:
        index = np.asarray(_bins_of(jnp.asarray(batch), stride))
        count += np.bincount(index.ravel(), minlength=NUM_BINS)
    if not count.sum():
        raise ValueError("no pixels to count; give at least one image")
    return count / count.sum()


@functools.partial(jax.jit, static_argnums=1)
def _bins_of(image: jax.Array, stride: int) -> jax.Array:
    ab = rgb_to_lab(image.astype(jnp.float32) / 255)[..., 1:]
    return nearest_bin(shrink(ab, image.shape[1] // stride, image.shape[2] // stride))


def shrink(x: jax.Array, height: int, width: int) -> jax.Array:
    """Means over equal rectangles: float [B, H, W, C] -> [B, height, width, C].

    Raises:
        ValueError: H or W is no multiple of the new size.
    """
    B, H, W, C = x.shape
    if H % height or W % width:
        raise ValueError(
            f"{H}x{W} pixels do not divide into {height}x{width} equal parts; choose an "
            "image size that is a multiple of the model's stride"
        )
    return x.reshape(B, height, H // height, width, W // width, C).mean((2, 4))


def smooth(distribution: np.ndarray, *, sigma: float = SIGMA) -> np.ndarray:
    """Spreads every bin's share, [313], over its neighbours by a Gaussian in ab space."""
    bins = ab_bins().astype(np.float64)
    square = ((bins[:, None] - bins) ** 2).sum(-1)
    kernel = np.exp(-square / (2 * sigma**2))
    return kernel / kernel.sum(0) @ np.asarray(distribution, np.float64)


def class_weights(
    distribution: np.ndarray, *, uniform: float = 0.5, sigma: float = SIGMA
) -> np.ndarray:
    """Weights that make rare colours count: 1 / ((1 - l) p + l / Q) with the smoothed
    distribution p, scaled so that their mean under p is 1.

    Args:
        distribution: float [Q], >= 0; how often each bin occurs, on any scale.
        uniform: l in (0, 1]: how much of a uniform distribution is mixed in. 1/2 in the
            paper; 1 weighs all alike.
        sigma: of the smoothing, in units of ab.

    Returns:
        float32 [Q].

    Raises:
        ValueError: not a distribution over the 313 bins, or l outside (0, 1].
    """
    p = np.asarray(distribution, np.float64)
    if p.shape != (NUM_BINS,) or not (p >= 0).all() or not 0 < p.sum() < np.inf:
        raise ValueError(
            f"a prior of shape {p.shape} that sums to {p.sum()}; give {NUM_BINS} numbers "
            ">= 0, as vision.ops.lab.bin_distribution counts them"
        )
    if not 0 < uniform <= 1:
        raise ValueError(f"uniform is {uniform}; it must lie in (0, 1], 0.5 say")
    p = smooth(p / p.sum(), sigma=sigma)
    weight = 1 / ((1 - uniform) * p + uniform / len(p))
    return (weight / (p * weight).sum()).astype(np.float32)
