"""RandAugment: a few random distortions, all of one strength.

Cubuk et al., "RandAugment: Practical automated data augmentation with a reduced search
space", 2019, https://arxiv.org/abs/1909.13719. Strengths are those of the authors' code,
whose scale ends at 10 (published recipes go beyond: the formulas go on). Where it counts
in pixels of a 224-pixel picture, here stand shares of the side. Geometry is interpolated
linearly (there: nearest), and `Contrast` mixes with the mean grey (there, by a slip, with
the pixel count).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from vision.decode import pixels

# The fourteen of the paper.
PAPER = (
    "Identity",
    "AutoContrast",
    "Equalize",
    "Rotate",
    "Solarize",
    "Color",
    "Posterize",
    "Contrast",
    "Brightness",
    "Sharpness",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
)
# The sixteen of the authors' code, with which recipes for ImageNet were found.
CODE = (*PAPER[1:], "Invert", "Cutout", "SolarizeAdd")


@dataclasses.dataclass(frozen=True)
class RandAugment:
    """Applies `num_layers` operations drawn at random, with repetition.

    Args:
        num_layers: how many.
        magnitude: strength, 0..30; the figures below are for 10.
        operations: names to draw from; or 'paper' for its fourteen, 'code' for the
            sixteen of the authors' code: 'Invert', 'Cutout' and 'SolarizeAdd' besides,
            no 'Identity'.
        increasing: in the authors' code some operations grow weaker, or turn from dark
            to bright, as the magnitude grows. If True, all grow stronger, up or down at
            random, as in later libraries.
        fill: the value of pixels from outside the picture.
        key: the field, uint8 [H, W, 1 or 3].
    """

    num_layers: int = 2
    magnitude: float = 9
    operations: str | tuple[str, ...] = "paper"
    increasing: bool = False
    fill: int = 128
    key: str = "image"

    def __post_init__(self):
        for name in self.names:
            if name not in _OPERATIONS:
                raise ValueError(
                    f"unknown operation {name!r}; there are: {', '.join(_OPERATIONS)}"
                )
        if not 0 <= self.magnitude <= 30:
            raise ValueError(f"magnitude must lie in 0..30, not {self.magnitude}")

    def __call__(self, example: dict[str, Any], rng: np.random.Generator) -> dict:
        image = pixels(example, self.key)
        names = self.names
        for _ in range(self.num_layers):
            name = names[rng.integers(len(names))]
            image = _OPERATIONS[name](image, self, rng).reshape(image.shape)
        return {**example, self.key: image}

    @property
    def names(self) -> tuple[str, ...]:
        """The operations to draw from."""
        if isinstance(self.operations, str):
            return {"paper": PAPER, "code": CODE}.get(
                self.operations, (self.operations,)
            )
        return self.operations

    @property
    def strength(self) -> float:
        """As a share of the authors' scale."""
        return self.magnitude / 10


def _identity(image: np.ndarray, how: RandAugment, rng: np.random.Generator):
    return image


def _auto_contrast(image: np.ndarray, how: RandAugment, rng: np.random.Generator):
    """Stretches each channel to 0..255."""
    tables = []
    for channel in cv2.split(image):
        low, high, _, _ = cv2.minMaxLoc(channel)
        scale = 255 / (high - low) if high > low else 1
        shift = low if high > low else 0
        tables.append(np.clip((np.arange(256) - shift) * scale, 0, 255))
    return _look_up(image, tables)


def _equalize(image: np.ndarray, how: RandAugment, rng: np.random.Generator):
    """Makes each channel's values about equally frequent."""
    tables = []
    for channel in cv2.split(image):
        counts = np.bincount(channel.ravel(), minlength=256)
        used = np.flatnonzero(counts)
        step = (channel.size - counts[used[-1]]) // 255
        if step == 0:
            tables.append(np.arange(256))
            continue
        before = np.cumsum(counts) - counts
        tables.append(np.minimum((before + step // 2) // step, 255))
    return _look_up(image, tables)


def _invert(image: np.ndarray, how: RandAugment, rng: np.random.Generator):
    return cv2.bitwise_not(image)


def _posterize(image: np.ndarray, how: RandAugment, rng: np.random.Generator):
    """Keeps the upper bits: 4 of them."""
    lost = min(int(4 * how.strength), 8)
    lost = lost if how.increasing else 8 - lost
    return _look_up(image, [np.arange(256) >> lost << lost])


def _solarize(image: np.ndarray, how: RandAugment, rng: np.random.Generator):
    """Inverts what is brighter than a threshold."""
    threshold = int(256 * how.strength)
    threshold = 256 - threshold if how.increasing else threshold
    values = np.arange(256)
    return _look_up(image, [np.where(values < threshold, values, 255 - values)])


def _solarize_add(image: np.ndarray, how: RandAugment, rng: np.random.Generator):
    """Brightens the darker half."""
    values = np.arange(256)
    brighter = np.minimum(values + int(110 * how.strength), 255)
    return _look_up(image, [np.where(values < 128, brighter, values)])


def _factor(how: RandAugment, rng: np.random.Generator) -> float:
    """0 gives the degenerate picture, 1 the picture, above 1 its exaggeration."""
    if how.increasing:
        return 1 + _sign(rng) * 0.9 * how.strength
    return 0.1 + 1.8 * how.strength


def _color(image: np.ndarray, how: RandAugment, rng: np.random.Generator):
    factor = _factor(how, rng)
    if image.shape[-1] == 1:
        return image
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(image, factor, grey, 1 - factor, 0)


def _contrast(image: np.ndarray, how: RandAugment, rng: np.random.Generator):
    factor = _factor(how, rng)
    grey = image if image.shape[-1] == 1 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    mean = grey.mean()
    return _look_up(image, [np.clip(mean + factor * (np.arange(256) - mean), 0, 255)])


def _brightness(image: np.ndarray, how: RandAugment, rng: np.random.Generator):
    factor = _factor(how, rng)
    return _look_up(image, [np.clip(factor * np.arange(256), 0, 255)])


_SMOOTHING = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13


def _sharpness(image: np.ndarray, how: RandAugment, rng: np.random.Generator):
    factor = _factor(how, rng)
    smooth = image.copy()
    filtered = cv2.filter2D(image, -1, _SMOOTHING).reshape(image.shape)
    smooth[1:-1, 1:-1] = filtered[1:-1, 1:-1]
    return cv2.addWeighted(image, factor, smooth, 1 - factor, 0)


def _rotate(image: np.ndarray, how: RandAugment, rng: np.random.Generator):
    """By up to 30 degrees about the middle."""
    middle = ((image.shape[1] - 1) / 2, (image.shape[0] - 1) / 2)
    angle = _sign(rng) * 30 * how.strength
    return _warp(image, cv2.getRotationMatrix2D(middle, angle, 1), how)


def _shear_x(image: np.ndarray, how: RandAugment, rng: np.random.Generator):
    return _warp(image, [[1, _sign(rng) * 0.3 * how.strength, 0], [0, 1, 0]], how)


def _shear_y(image: np.ndarray, how: RandAugment, rng: np.random.Generator):
    return _warp(image, [[1, 0, 0], [_sign(rng) * 0.3 * how.strength, 1, 0]], how)


# The code's 100 pixels of 224.
_TRANSLATION = 100 / 224
_CUTOUT = 40 / 224


def _translate_x(image: np.ndarray, how: RandAugment, rng: np.random.Generator):
    shift = _sign(rng) * _TRANSLATION * how.strength * image.shape[1]
    return _warp(image, [[1, 0, shift], [0, 1, 0]], how)


def _translate_y(image: np.ndarray, how: RandAugment, rng: np.random.Generator):
    shift = _sign(rng) * _TRANSLATION * how.strength * image.shape[0]
    return _warp(image, [[1, 0, 0], [0, 1, shift]], how)


def _cutout(image: np.ndarray, how: RandAugment, rng: np.random.Generator):
    """Fills a square about any pixel, of 5/14 of the side."""
    height, width = image.shape[:2]
    half = int(_CUTOUT * how.strength * min(height, width))
    y, x = int(rng.integers(height)), int(rng.integers(width))
    image = image.copy()
    image[max(0, y - half) : y + half, max(0, x - half) : x + half] = how.fill
    return image


def _sign(rng: np.random.Generator) -> int:
    return 1 if rng.random() < 0.5 else -1


def _look_up(image: np.ndarray, tables: list[np.ndarray]) -> np.ndarray:
    """Replaces values by a table for all channels, or by one for each."""
    table = np.rint(np.stack(tables, axis=-1)).astype(np.uint8)
    return cv2.LUT(image, table[None] if len(tables) > 1 else table)


def _warp(image: np.ndarray, matrix: Any, how: RandAugment) -> np.ndarray:
    """Output pixel (x, y) comes from input pixel matrix @ (x, y, 1)."""
    return cv2.warpAffine(
        image,
        np.asarray(matrix, np.float64),
        (image.shape[1], image.shape[0]),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(how.fill,) * 4,
    )


_Operation = Callable[[np.ndarray, RandAugment, np.random.Generator], np.ndarray]
_OPERATIONS: dict[str, _Operation] = {
    "Identity": _identity,
    "AutoContrast": _auto_contrast,
    "Equalize": _equalize,
    "Invert": _invert,
    "Rotate": _rotate,
    "Posterize": _posterize,
    "Solarize": _solarize,
    "SolarizeAdd": _solarize_add,
    "Color": _color,
    "Contrast": _contrast,
    "Brightness": _brightness,
    "Sharpness": _sharpness,
    "ShearX": _shear_x,
    "ShearY": _shear_y,
    "TranslateX": _translate_x,
    "TranslateY": _translate_y,
    "Cutout": _cutout,
}
