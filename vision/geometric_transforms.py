"""Turning, scaling and shifting pictures about their middle, by fixed or random amounts.

Transforms as in `vision.transforms`. Fixed amounts make the test sets of robustness
curves, random ones augment training.
"""

import dataclasses
import math
from typing import Any

import cv2
import numpy as np

from vision.decode import pixels

Amount = float | tuple[float, float]

_INTERPOLATIONS = {
    "nearest": cv2.INTER_NEAREST,
    "linear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
}


@dataclasses.dataclass(frozen=True)
class Affine:
    """Turns and scales a picture about its middle, then shifts it; its size stays.

    Each amount is a number, or (low, high): drawn uniformly between the two.

    Args:
        rotation: degrees, counter-clockwise.
        scale: what a length becomes, as a factor > 0; below 1 more of the outside shows.
            A range is drawn log-uniformly.
        down, right: pixels.
        interpolation: 'linear', 'cubic' or 'nearest'.
        fill: the value of pixels from outside the picture.
        key: the field, uint8 [H, W, C].
    """

    rotation: Amount = 0.0
    scale: Amount = 1.0
    down: Amount = 0.0
    right: Amount = 0.0
    interpolation: str = "linear"
    fill: int = 0
    key: str = "image"

    def __post_init__(self):
        if self.interpolation not in _INTERPOLATIONS:
            raise ValueError(
                f"interpolation must be one of {', '.join(_INTERPOLATIONS)}, not "
                f"{self.interpolation!r}"
            )
        for name in ("rotation", "scale", "down", "right"):
            low, high = _range(getattr(self, name))
            if low > high:
                raise ValueError(
                    f"{name} is ({low}, {high}); the lower end comes first"
                )
        if _range(self.scale)[0] <= 0:
            raise ValueError(f"scale is {self.scale}; it must be positive")

    def __call__(
        self, example: dict[str, Any], rng: np.random.Generator
    ) -> dict[str, Any]:
        image = pixels(example, self.key)
        turned = cv2.warpAffine(
            image,
            self.matrix(*image.shape[:2], rng),
            (image.shape[1], image.shape[0]),
            flags=_INTERPOLATIONS[self.interpolation],
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=(self.fill,) * 4,
        )
        return {**example, self.key: turned.reshape(image.shape)}

    def matrix(self, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
        """Draws where a pixel (x, y, 1) goes: float64 [2, 3]."""
        angle = math.radians(_draw(self.rotation, rng))
        low, high = _range(self.scale)
        scale = math.exp(_draw((math.log(low), math.log(high)), rng))
        down, right = _draw(self.down, rng), _draw(self.right, rng)
        cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
        # y points down: this turns counter-clockwise as one sees it.
        turn = np.array([[cosine, sine], [-sine, cosine]])
        middle = np.array([(width - 1) / 2, (height - 1) / 2])
        shift = middle + (right, down) - turn @ middle
        return np.column_stack([turn, shift])


def _range(amount: Amount) -> tuple[float, float]:
    if isinstance(amount, int | float):
        return amount, amount
    low, high = amount
    return low, high


def _draw(amount: Amount, rng: np.random.Generator) -> float:
    """A fixed amount draws nothing, so that it leaves other draws as they are."""
    low, high = _range(amount)
    return low if low == high else rng.uniform(low, high)
