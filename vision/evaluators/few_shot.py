"""Few-shot accuracy: ridge regression on a handful of images per class, averaged over draws.

The protocol of A. Dosovitskiy et al., "An Image is Worth 16x16 Words", 2020,
https://arxiv.org/abs/2010.11929, section 4: regularised least squares from a frozen
representation to the classes. Nothing is chosen, since there is nothing to choose by: l2
is given.

Deviation: targets are one-hot, and l2 is relative to the number of examples, so that one
value serves any number of shots and classes.
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from training.errors import RunError
from vision.evaluators.representation import Split
from vision.evaluators.ridge import Moments, accuracies


@dataclasses.dataclass(frozen=True, kw_only=True)
class FewShot:
    """A head of `vision.evaluators.representation`: for every number of shots n, metrics
    `n`, the mean test accuracy over the draws, and `n_std`, their standard deviation.

    Args:
        shots: training examples per class.
        seeds: number of draws; draw s is a function of s and the training labels, and
            more shots of it add to the fewer.
        l2: per example, see `Moments.solve`; 1 is the mean eigenvalue of the correlations
            it is added to.
        chunk: test examples at a time.
    """

    shots: Sequence[int] = (1, 5, 10, 25)
    seeds: int = 5
    l2: float = 1.0
    chunk: int = 4096
    # A smoke run has too few examples.
    needs_every_class: ClassVar[bool] = True

    def __post_init__(self):
        if not self.shots or min(self.shots) < 1:
            raise ValueError(f"shots is {self.shots}; give positive numbers")
        if self.seeds < 1:
            raise ValueError(f"seeds is {self.seeds}; there must be at least one draw")
        if self.l2 <= 0:
            raise ValueError(f"l2 is {self.l2}; it must be positive")
        if self.chunk < 1:
            raise ValueError(f"chunk is {self.chunk}; it must be positive")

    def __call__(self, train: Split, test: Split, num_classes: int) -> dict[str, float]:
        """Raises RunError if a class of either split has fewer examples than `shots`."""
        self._check(train, test, num_classes)
        classifiers = [
            Moments.of(train.select(draw(train.labels, n, seed)), num_classes).solve(
                self.l2
            )
            for n in self.shots
            for seed in range(self.seeds)
        ]
        found = np.reshape(accuracies(test, classifiers, self.chunk), (-1, self.seeds))
        metrics = {}
        for n, values in zip(self.shots, found, strict=True):
            metrics |= {f"{n}": float(values.mean()), f"{n}_std": float(values.std())}
        return metrics

    def _check(self, train: Split, test: Split, num_classes: int) -> None:
        counts = np.bincount(train.labels, minlength=num_classes)
        present = np.union1d(train.labels, test.labels)
        least = present[counts[present].argmin()]
        if counts[least] < max(self.shots):
            raise RunError(
                f"{max(self.shots)} shots, but class {least} has {counts[least]} training "
                f"examples; take shots of at most {counts[least]}, or a larger train split"
            )


def draw(labels: np.ndarray, shots: int, seed: int) -> np.ndarray:
    """Rows of `shots` examples of each class, at random: int [M], ascending.

    Args:
        labels: int [N].
        shots: per class; fewer where a class has fewer.
        seed: with the labels, all that the draw depends on.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    _, first, counts = np.unique(labels[order], return_index=True, return_counts=True)
    rank = np.arange(len(order)) - np.repeat(first, counts)
    return np.sort(order[rank < shots])
