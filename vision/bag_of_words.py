"""Bag of visual words: local descriptors, a vocabulary, histograms, a linear SVM.

What recognition was before deep networks, as a baseline for them. A picture is described
on a dense grid, every descriptor votes for its nearest words of a k-means vocabulary, the
votes are counted in the cells of a spatial pyramid, and one linear classifier reads the
counts. G. Csurka, C. Dance, L. Fan, J. Willamowski, C. Bray, "Visual Categorization with
Bags of Keypoints", 2004; dense grids and the pyramid: S. Lazebnik, C. Schmid, J. Ponce,
"Beyond Bags of Features", 2006, https://doi.org/10.1109/CVPR.2006.68; soft votes:
J. van Gemert, J.-M. Geusebroek, C. Veenman, A. Smeulders, "Kernel Codebooks for Scene
Categorization", 2008, https://doi.org/10.1007/978-3-540-88690-7_52.

Deviations: Lazebnik's SVM has the histogram intersection as its kernel; here the square
root of the counts stands for a kernel, so that the SVM is linear and learns in seconds.
Soft votes go to a few nearest words, not to all.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from vision.dense_descriptors import (
    DenseSIFT,
    Places,
    normalized,
    require_positive,
)

Descriptor = Callable[[np.ndarray], tuple[np.ndarray, Places]]


@dataclasses.dataclass(frozen=True)
class BagOfWords:
    """The recipe of a classifier of pictures; `fit` learns one.

    Args:
        descriptor: picture -> (descriptors [N, D], places [N, 2]).
        num_words: of the vocabulary.
        pyramid: cells along each side, per level; (1,) is a plain histogram.
        neighbors: words a descriptor votes for; 1 is hard assignment.
        softness: of soft assignment: the deviation of a normal distribution of the
            distance to a word.
        C: of the SVM, the inverse strength of its regularisation.
        vocabulary_images: training pictures whose descriptors make the vocabulary.
        seed: of the choice of these pictures, of k-means and of the SVM.
        num_threads: pictures at a time, and threads of the linear algebra.
    """

    descriptor: Descriptor = dataclasses.field(default_factory=DenseSIFT)
    num_words: int = 1000
    pyramid: tuple[int, ...] = (1, 2, 4)
    neighbors: int = 1
    softness: float = 0.3
    C: float = 1.0
    vocabulary_images: int = 200
    seed: int = 0
    num_threads: int = 1

    def __post_init__(self):
        require_positive(
            num_words=self.num_words,
            pyramid=min(self.pyramid, default=0),
            neighbors=self.neighbors,
            softness=self.softness,
            C=self.C,
            vocabulary_images=self.vocabulary_images,
            num_threads=self.num_threads,
        )

    def fit(self, images: Sequence[np.ndarray], labels: np.ndarray) -> "Classifier":
        """Learns the vocabulary and the classifier.

        Args:
            images: uint8 [H, W, 1 or 3] each, of any sizes; read twice at most.
            labels: int [N].

        Raises:
            ValueError: fewer descriptors than words, or labels of one class.
        """
        # Imported here: a second, and nothing else in this room needs them.
        from sklearn.svm import LinearSVC
        from threadpoolctl import threadpool_limits  # scikit-learn's own

        if len(np.unique(labels)) < 2:
            raise ValueError("labels are of one class; a classifier needs two or more")
        with threadpool_limits(self.num_threads):
            words = self.vocabulary(images)
            counts = self.encode(images, words)
            svm = LinearSVC(C=self.C, random_state=self.seed).fit(counts, labels)
        return Classifier(self, words, svm)

    def vocabulary(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """The words, by k-means: float32 [num_words, D]."""
        from sklearn.cluster import MiniBatchKMeans

        order = np.random.default_rng(self.seed).permutation(len(images))
        chosen = sorted(order[: self.vocabulary_images].tolist())
        found = np.concatenate(
            [d for d, _ in self._map(lambda i: self.descriptor(images[i]), chosen)]
        )
        if len(found) < self.num_words:
            raise ValueError(
                f"{len(found)} descriptors for num_words={self.num_words}; take fewer "
                "words, or more vocabulary_images"
            )
        means = MiniBatchKMeans(
            self.num_words, batch_size=4096, n_init=1, random_state=self.seed
        )
        return means.fit(found).cluster_centers_.astype(np.float32)

    def encode(self, images: Sequence[np.ndarray], words: np.ndarray) -> np.ndarray:
        """What the SVM sees: float32 [N, cells * num_words], see `histogram`."""

        def one(i: int) -> np.ndarray:
            descriptors, places = self.descriptor(images[i])
            votes = assign(descriptors, words, self.neighbors, self.softness)
            return histogram(*votes, places, len(words), self.pyramid)

        return np.stack(list(self._map(one, range(len(images)))))

    def _map(self, function: Callable, values: Sequence[int]) -> Iterator[Any]:
        with ThreadPoolExecutor(self.num_threads) as pool:
            yield from pool.map(function, values)


@dataclasses.dataclass(frozen=True)
class Classifier:
    """What `BagOfWords.fit` learned.

    Args:
        recipe: the recipe.
        words: float32 [K, D].
        svm: scikit-learn's, on `recipe.encode`.
    """

    recipe: BagOfWords
    words: np.ndarray
    svm: Any

    def predict(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Classes of pictures, int [N]."""
        return self.svm.predict(self.recipe.encode(images, self.words))


def assign(
    descriptors: np.ndarray, words: np.ndarray, neighbors: int, softness: float
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest words of each descriptor and its votes for them, 1 together.

    Args:
        descriptors: float32 [N, D].
        words: float32 [K, D].
        neighbors, softness: as of `BagOfWords`.

    Returns:
        int [N, neighbors] and float32 [N, neighbors].
    """
    squares = (words**2).sum(1) - 2 * descriptors @ words.T  # but for a constant
    neighbors = min(neighbors, len(words))
    if neighbors == 1:
        return squares.argmin(1)[:, None], np.ones((len(descriptors), 1), np.float32)
    nearest = np.argpartition(squares, neighbors - 1, axis=1)[:, :neighbors]
    squares = np.take_along_axis(squares, nearest, axis=1)
    votes = np.exp(-(squares - squares.min(1, keepdims=True)) / (2 * softness**2))
    return nearest, np.float32(votes / votes.sum(1, keepdims=True))


def histogram(
    nearest: np.ndarray,
    votes: np.ndarray,
    places: Places,
    num_words: int,
    pyramid: Sequence[int],
) -> np.ndarray:
    """Square roots of the votes in every cell of the pyramid, of L2 norm 1.

    The cells of a level share its weight: the finest counts half, every coarser one half
    as much again, and the coarsest as much as the one after it.

    Args:
        nearest: int [N, A], words.
        votes: float32 [N, A].
        places: float32 [N, 2], (x, y) in [0, 1).
        num_words: of the vocabulary.
        pyramid: cells along each side, per level, the coarsest first.

    Returns:
        float32 [sum of cells, num_words], flat, level by level and row by row.
    """
    parts = []
    for level, side in enumerate(pyramid):
        x, y = np.minimum((places * side).astype(int), side - 1).T
        index = (y * side + x)[:, None] * num_words + nearest
        counts = np.bincount(index.ravel(), votes.ravel(), side * side * num_words)
        weight = 0.5 ** (len(pyramid) - max(level, 1))
        parts.append(weight * counts)
    # The root makes the linear kernel of two histograms that of Bhattacharyya.
    return normalized(np.sqrt(np.concatenate(parts))[None])[0].astype(np.float32)
