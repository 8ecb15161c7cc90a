"""AutoAugment: pairs of distortions that a search found, with their odds and strengths.

Cubuk, Zoph, Mane, Vasudevan, Le, "AutoAugment: Learning Augmentation Policies from Data",
2018, https://arxiv.org/abs/1805.09501, tables 7 (CIFAR-10) and 9 (ImageNet). The
distortions are those of `vision.randaugment`, which comes from the same authors.

Deviations: those of `vision.randaugment`. Its strengths are those of the authors' code
for ImageNet; their code for CIFAR-10 makes what posterizing, solarizing and shifting do
a little different, up to 10 of 32 pixels of shift (here 14).
"""

import dataclasses
from typing import Any

import numpy as np

from vision.randaugment import RandAugment

# (operation, probability, magnitude); the magnitude of some operations means nothing.
Step = tuple[str, float, float]

IMAGENET: tuple[tuple[Step, Step], ...] = (
    (("Posterize", 0.4, 8), ("Rotate", 0.6, 9)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 5)),
    (("Equalize", 0.8, 8), ("Equalize", 0.6, 3)),
    (("Posterize", 0.6, 7), ("Posterize", 0.6, 6)),
    (("Equalize", 0.4, 7), ("Solarize", 0.2, 4)),
    (("Equalize", 0.4, 4), ("Rotate", 0.8, 8)),
    (("Solarize", 0.6, 3), ("Equalize", 0.6, 7)),
    (("Posterize", 0.8, 5), ("Equalize", 1.0, 2)),
    (("Rotate", 0.2, 3), ("Solarize", 0.6, 8)),
    (("Equalize", 0.6, 8), ("Posterize", 0.4, 6)),
    (("Rotate", 0.8, 8), ("Color", 0.4, 0)),
    (("Rotate", 0.4, 9), ("Equalize", 0.6, 2)),
    (("Equalize", 0.0, 7), ("Equalize", 0.8, 8)),
    (("Invert", 0.6, 4), ("Equalize", 1.0, 8)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Rotate", 0.8, 8), ("Color", 1.0, 2)),
    (("Color", 0.8, 8), ("Solarize", 0.8, 7)),
    (("Sharpness", 0.4, 7), ("Invert", 0.6, 8)),
    (("ShearX", 0.6, 5), ("Equalize", 1.0, 9)),
    (("Color", 0.4, 0), ("Equalize", 0.6, 3)),
    (("Equalize", 0.4, 7), ("Solarize", 0.2, 4)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 5)),
    (("Invert", 0.6, 4), ("Equalize", 1.0, 8)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Equalize", 0.8, 8), ("Equalize", 0.6, 3)),
)

CIFAR10: tuple[tuple[Step, Step], ...] = (
    (("Invert", 0.1, 7), ("Contrast", 0.2, 6)),
    (("Rotate", 0.7, 2), ("TranslateX", 0.3, 9)),
    (("Sharpness", 0.8, 1), ("Sharpness", 0.9, 3)),
    (("ShearY", 0.5, 8), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.5, 8), ("Equalize", 0.9, 2)),
    (("ShearY", 0.2, 7), ("Posterize", 0.3, 7)),
    (("Color", 0.4, 3), ("Brightness", 0.6, 7)),
    (("Sharpness", 0.3, 9), ("Brightness", 0.7, 9)),
    (("Equalize", 0.6, 5), ("Equalize", 0.5, 1)),
    (("Contrast", 0.6, 7), ("Sharpness", 0.6, 5)),
    (("Color", 0.7, 7), ("TranslateX", 0.5, 8)),
    (("Equalize", 0.3, 7), ("AutoContrast", 0.4, 8)),
    (("TranslateY", 0.4, 3), ("Sharpness", 0.2, 6)),
    (("Brightness", 0.9, 6), ("Color", 0.2, 8)),
    (("Solarize", 0.5, 2), ("Invert", 0.0, 3)),
    (("Equalize", 0.2, 0), ("AutoContrast", 0.6, 0)),
    (("Equalize", 0.2, 8), ("Equalize", 0.6, 4)),
    (("Color", 0.9, 9), ("Equalize", 0.6, 6)),
    (("AutoContrast", 0.8, 4), ("Solarize", 0.2, 8)),
    (("Brightness", 0.1, 3), ("Color", 0.7, 0)),
    (("Solarize", 0.4, 5), ("AutoContrast", 0.9, 3)),
    (("TranslateY", 0.9, 9), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.9, 2), ("Solarize", 0.8, 3)),
    (("Equalize", 0.8, 8), ("Invert", 0.1, 3)),
    (("TranslateY", 0.7, 9), ("AutoContrast", 0.9, 1)),
)

_POLICIES = {"imagenet": IMAGENET, "cifar10": CIFAR10}


@dataclasses.dataclass(frozen=True)
class AutoAugment:
    """Draws one sequence of steps of a policy, and each of its steps with its odds.

    Args:
        policy: 'imagenet', 'cifar10', or sequences of steps (operation, probability,
            magnitude in 0..10).
        increasing, fill, key: as for `RandAugment`.
    """

    policy: str | tuple[tuple[Step, ...], ...] = "imagenet"
    increasing: bool = False
    fill: int = 128
    key: str = "image"

    def __post_init__(self):
        if isinstance(self.policy, str) and self.policy not in _POLICIES:
            raise ValueError(
                f"policy is {self.policy!r}; give {', '.join(_POLICIES)}, or sequences of "
                "(operation, probability, magnitude)"
            )
        if not self.sequences:
            raise ValueError("policy is empty; give one sequence of steps or more")
        for name, probability, magnitude in {s for q in self.sequences for s in q}:
            self._operation(name, magnitude)  # refuses what it does not know
            if not 0 <= probability <= 1 or magnitude > 10:
                raise ValueError(
                    f"step {name!r} has probability {probability} and magnitude "
                    f"{magnitude}; they lie in 0..1 and 0..10"
                )

    @property
    def sequences(self) -> tuple[tuple[Step, ...], ...]:
        """What is drawn from."""
        return _POLICIES[self.policy] if isinstance(self.policy, str) else self.policy

    def __call__(self, example: dict[str, Any], rng: np.random.Generator) -> dict:
        steps = self.sequences[rng.integers(len(self.sequences))]
        for name, probability, magnitude in steps:
            if rng.random() < probability:
                example = self._operation(name, magnitude)(example, rng)
        return example

    def _operation(self, name: str, magnitude: float) -> RandAugment:
        """One operation of known strength."""
        return RandAugment(1, magnitude, (name,), self.increasing, self.fill, self.key)
