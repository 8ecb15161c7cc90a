"""Ridge regression to one-hot targets in closed form, and the sums it is made of.

Features are standardised and the intercept is not penalised. The normal equations need
only sums over examples, which are kept in float64 on the host: features may be streamed
from disk, and the sums of two parts of a split add up to those of the whole.
"""

import dataclasses
from collections.abc import Sequence
from typing import Self

import numpy as np

from vision.evaluators.representation import Split


@dataclasses.dataclass(frozen=True)
class Linear:
    """A linear classifier.

    Args:
        kernel: float64 [D, K].
        bias: float64 [K].
    """

    kernel: np.ndarray
    bias: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Scores [n, K] of features [n, D]."""
        return features.astype(np.float64) @ self.kernel + self.bias


def accuracies(
    split: Split, classifiers: Sequence[Linear], chunk: int = 4096
) -> list[float]:
    """Share of right answers of each classifier, in one pass; of equal scores the lower
    class is the answer."""
    right = np.zeros(len(classifiers))
    for features, labels in split.chunks(chunk):
        for i, classifier in enumerate(classifiers):
            right[i] += (classifier(features).argmax(1) == labels).sum()
    return (right / len(split)).tolist()


@dataclasses.dataclass(frozen=True)
class Moments:
    """Sums over examples; features are taken relative to an origin near their mean, so
    that differences of large sums lose nothing.

    Args:
        origin: float64 [D].
        counts: float64 [K]; examples per class.
        sums: float64 [K, D]; of features, per class.
        products: float64 [D, D]; of features times features.
    """

    origin: np.ndarray
    counts: np.ndarray
    sums: np.ndarray
    products: np.ndarray

    @classmethod
    def of(
        cls,
        split: Split,
        num_classes: int,
        *,
        chunk: int = 4096,
        origin: np.ndarray | None = None,
    ) -> Self:
        """One pass over a split; None takes the mean of the first chunk as origin."""
        dim = split.features.shape[1]
        counts = np.bincount(split.labels, minlength=num_classes).astype(np.float64)
        sums, products = np.zeros((num_classes, dim)), np.zeros((dim, dim))
        for features, labels in split.chunks(chunk):
            x = features.astype(np.float64)
            if origin is None:
                origin = x.mean(0)
            x -= origin
            products += x.T @ x
            order = np.argsort(labels, kind="stable")
            present, first = np.unique(labels[order], return_index=True)
            sums[present] += np.add.reduceat(x[order], first)
        return cls(origin, counts, sums, products)

    def __add__(self, other: "Moments") -> "Moments":
        """Those of both sets of examples, which share an origin."""
        if not np.array_equal(self.origin, other.origin):
            raise ValueError(
                "moments of different origins; give the second the first's"
            )
        return Moments(
            self.origin,
            self.counts + other.counts,
            self.sums + other.sums,
            self.products + other.products,
        )

    def solve(self, l2: float) -> Linear:
        """The least mean squared error plus l2 times the squared kernel, both halved.

        Args:
            l2: per example: N * l2 is what scikit-learn's Ridge calls alpha.
        """
        total = self.counts.sum()
        shift = self.sums.sum(0) / total
        mean = self.origin + shift
        covariance = self.products / total - np.outer(shift, shift)
        scale = standard_deviation(mean, covariance.diagonal())
        correlation = covariance / scale / scale[:, None]
        targets = (self.sums - self.counts[:, None] * shift) / total / scale
        kernel = np.linalg.solve(correlation + l2 * np.eye(len(scale)), targets.T)
        kernel /= scale[:, None]
        return Linear(kernel, self.counts / total - mean @ kernel)


def standard_deviation(mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """What standardised features are divided by, [D]; infinite for those whose variation
    is rounding alone, so that they have no influence."""
    deviation = np.sqrt(variance.clip(0))
    constant = deviation <= 1e-6 * np.abs(mean)
    return np.where(constant, np.inf, deviation)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ridge:
    """A head of `vision.evaluators.representation`: metrics `accuracy` and the chosen
    `l2`.

    Args:
        l2: candidates, per example, see `Moments.solve`; of those that validate equally
            well the largest is taken.
        validation_share: of the training examples, to choose l2 by; the final classifier
            is fitted to all of them.
        chunk: examples in float64 at a time.
        seed: of the validation part.
    """

    l2: Sequence[float] = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
    validation_share: float = 0.1
    chunk: int = 4096
    seed: int = 0

    def __post_init__(self):
        check_choice(self.l2, self.validation_share)
        if self.chunk < 1:
            raise ValueError(f"chunk is {self.chunk}; it must be positive")

    def __call__(self, train: Split, test: Split, num_classes: int) -> dict[str, float]:
        """Raises RunError if there are too few examples to choose by."""
        if len(self.l2) == 1:
            (l2,) = self.l2
            moments = Moments.of(train, num_classes, chunk=self.chunk)
        else:
            l2, moments = self._choose(train, num_classes)
        (accuracy,) = accuracies(test, [moments.solve(l2)], self.chunk)
        return {"accuracy": accuracy, "l2": l2}

    def _choose(self, train: Split, num_classes: int) -> tuple[float, Moments]:
        """The best l2, and the moments of all training examples."""
        fit, validation = map(
            train.select, train.divide(self.validation_share, self.seed)
        )
        moments = Moments.of(fit, num_classes, chunk=self.chunk)
        candidates = sorted(self.l2, reverse=True)
        found = accuracies(
            validation, [moments.solve(x) for x in candidates], self.chunk
        )
        rest = Moments.of(
            validation, num_classes, chunk=self.chunk, origin=moments.origin
        )
        return candidates[int(np.argmax(found))], moments + rest


def check_choice(l2: Sequence[float], validation_share: float) -> None:
    """Raises ValueError for candidates, or a share, that cannot be."""
    if not l2 or min(l2) <= 0:
        raise ValueError(f"l2 is {l2}; give positive candidates")
    if not 0 < validation_share < 1:
        raise ValueError(
            f"validation_share is {validation_share}; it must lie in (0, 1)"
        )
