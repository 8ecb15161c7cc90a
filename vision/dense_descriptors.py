"""Descriptors of a picture's parts on a dense grid: SIFT and HOG, in numpy on the host.

SIFT: D. Lowe, "Distinctive Image Features from Scale-Invariant Keypoints", 2004,
https://doi.org/10.1023/B:VISI.0000029664.99615.94, by OpenCV, with the square root of R.
Arandjelovic, A. Zisserman, "Three Things Everyone Should Know to Improve Object Retrieval",
2012. HOG: N. Dalal, B. Triggs, "Histograms of Oriented Gradients for Human Detection",
2005, https://doi.org/10.1109/CVPR.2005.177.

Deviations: nothing is turned to a main direction, as is the custom for categories. HOG's
gradients vote for the nearest two directions, but not for neighbouring cells, and colour
becomes grey.
"""

import dataclasses

import cv2
import numpy as np

Places = np.ndarray
_SIFT_CELLS = 4  # along each side of a descriptor
_SIFT_CELL = 1.5  # pixels of such a cell for a keypoint of size 1, in OpenCV
_HOG_BINS = 9


@dataclasses.dataclass(frozen=True)
class DenseSIFT:
    """SIFT, unturned, at every point of a grid: 128 numbers of L2 norm 1.

    Args:
        step: pixels between the points.
        patch_sizes: pixels along a side of what a descriptor looks at; one descriptor of
            each at every point.
        root: L1 norm, then the square root, so that the product of two is Hellinger's.
    """

    step: int = 8
    patch_sizes: tuple[int, ...] = (16, 24, 32)
    root: bool = True

    def __post_init__(self):
        require_positive(step=self.step, patch_sizes=min(self.patch_sizes, default=0))

    def __call__(self, image: np.ndarray) -> tuple[np.ndarray, Places]:
        """Descriptors of a picture, uint8 [H, W, 1 or 3].

        Returns:
            float32 [N, 128], and where they are, float32 [N, 2]: (x, y) as shares of the
            width and height, in [0, 1).
        """
        grey = _grey(image)
        height, width = grey.shape
        points = [
            cv2.KeyPoint(float(x), float(y), size / (_SIFT_CELLS * _SIFT_CELL), 0.0)
            for size in self.patch_sizes
            for y in _middles(height, self.step)
            for x in _middles(width, self.step)
        ]
        # OpenCV may drop points: those that it returns count.
        points, found = cv2.SIFT_create().compute(grey, points)
        places = np.float32([p.pt for p in points]) / np.float32([width, height])
        if self.root:
            found = np.sqrt(found / np.maximum(found.sum(1, keepdims=True), 1e-12))
        return normalized(found), places


@dataclasses.dataclass(frozen=True)
class DenseHOG:
    """Histograms of gradients in 2 x 2 cells, at every cell: 36 numbers of L2 norm 1.

    Args:
        cell: pixels along its side.
    """

    cell: int = 8

    def __post_init__(self):
        require_positive(cell=self.cell)

    def __call__(self, image: np.ndarray) -> tuple[np.ndarray, Places]:
        """Descriptors of a picture of at least 2 x 2 cells; as `DenseSIFT`'s."""
        grey, cell = _grey(image), self.cell
        rows, columns = (side // cell for side in grey.shape)
        if min(rows, columns) < 2:
            raise ValueError(
                f"a picture of {grey.shape[0]} x {grey.shape[1]} has less than 2 x 2 cells "
                f"of {cell} pixels; enlarge it by a Resize"
            )
        cells = _orientations(grey)[: rows * cell, : columns * cell]
        cells = cells.reshape(rows, cell, columns, cell, _HOG_BINS).sum((1, 3))
        blocks = [
            cells[i : rows - 1 + i, j : columns - 1 + j] for i, j in np.ndindex(2, 2)
        ]
        found = np.concatenate(blocks, axis=-1).reshape(-1, 4 * _HOG_BINS)
        # No single gradient counts for more than a fifth.
        found = normalized(np.minimum(normalized(found), 0.2))
        y, x = np.meshgrid(
            np.arange(1, rows) * cell, np.arange(1, columns) * cell, indexing="ij"
        )
        places = np.stack([x.ravel() / grey.shape[1], y.ravel() / grey.shape[0]], 1)
        return found, np.float32(places)


def normalized(values: np.ndarray) -> np.ndarray:
    """Rows of L2 norm 1: float [N, D]; a row of zeros stays."""
    norms = np.linalg.norm(values, axis=-1, keepdims=True)
    return values / np.where(norms > 0, norms, 1)


def _grey(image: np.ndarray) -> np.ndarray:
    """uint8 [H, W] of uint8 [H, W, 1 or 3]."""
    if image.shape[-1] == 1:
        return np.ascontiguousarray(image[..., 0])
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def _orientations(grey: np.ndarray) -> np.ndarray:
    """Gradients by direction, without its sign: uint8 [H, W] -> float32 [H, W, bins].

    The magnitude is shared by the two nearest bins, the first of which is about 0 degrees.
    """
    y, x = np.gradient(grey.astype(np.float32))
    place = np.arctan2(y, x) % np.pi * (_HOG_BINS / np.pi)
    lower = np.floor(place).astype(int)
    share, magnitude = np.float32(place - lower)[..., None], np.hypot(y, x)[..., None]
    bins = np.eye(_HOG_BINS, dtype=np.float32)
    first, second = bins[lower % _HOG_BINS], bins[(lower + 1) % _HOG_BINS]
    return magnitude * ((1 - share) * first + share * second)


def _middles(length: int, step: int) -> np.ndarray:
    """Points `step` apart that leave as much at one end as at the other."""
    count = max(1, length // step)
    return (length - 1) / 2 + step * (np.arange(count) - (count - 1) / 2)


def require_positive(**values: float) -> None:
    """Raises ValueError for the first that is not, by its name."""
    for name, value in values.items():
        if value <= 0:
            raise ValueError(f"{name} is {value}; it must be positive")
