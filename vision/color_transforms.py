"""Colour transforms of examples on the host: jitter, principal colours, grey, blur.

Like those of `vision.transforms`: uint8 in and out, `transform(example, rng)`. Semantics
are those of torchvision's transforms of these names. Their use and strengths in
self-supervision: T. Chen, S. Kornblith, M. Norouzi, G. Hinton, "A Simple Framework for
Contrastive Learning of Visual Representations", 2020, https://arxiv.org/abs/2002.05709,
appendix A.

Deviation: hue is turned in float32, not in steps of 1/255 of the circle.
"""

import dataclasses
from typing import Any

import cv2
import numpy as np

from vision.decode import pixels

Example = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class ColorJitter:
    """Brightness, contrast, saturation and hue, each by a random factor, in random order.

    A factor of brightness, contrast or saturation is uniform in [max(0, 1 - s), 1 + s] and
    blends the picture (factor) with what lacks the quality (1 - factor): black; its mean
    grey; its own grey. Values are rounded and clipped to 0..255 after each. Grey pictures
    of one channel have no saturation and no hue.

    Args:
        brightness, contrast, saturation: s >= 0; 0 leaves it alone. SimCLR: 0.8 times its
            strength, which is 1 for ImageNet and 0.5 for CIFAR-10.
        hue: the colour circle is turned by a share uniform in [-hue, hue]; 0..0.5.
            SimCLR: 0.2 times its strength.
        probability: that a picture is touched at all.
        key: the field, uint8 [H, W, 1 or 3].
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    probability: float = 1.0
    key: str = "image"

    def __post_init__(self):
        _check_probability(self.probability)
        for name in ("brightness", "contrast", "saturation"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be >= 0")
        if not 0 <= self.hue <= 0.5:
            raise ValueError(
                f"hue is {self.hue}; it is a share of the circle, in 0..0.5"
            )

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        image = pixels(example, self.key)
        if rng.random() >= self.probability:
            return example
        for index in rng.permutation(4):
            if index == 3:
                if self.hue:
                    image = turn_hue(image, rng.uniform(-self.hue, self.hue))
                continue
            name, adjust = _ADJUSTMENTS[index]
            strength = getattr(self, name)
            if strength:
                factor = rng.uniform(max(0.0, 1 - strength), 1 + strength)
                image = adjust(image, factor)
        return {**example, self.key: image}


@dataclasses.dataclass(frozen=True)
class PrincipalColors:
    """Adds to all pixels a random mixture of the principal components of colours.

    A. Krizhevsky, I. Sutskever, G. Hinton, "ImageNet Classification with Deep
    Convolutional Neural Networks", 2012, section 4.1: more or less light, mostly, and a
    little of another tint. ImageNet's components are those that published
    implementations share.

    Deviation: the paper calls the spreads eigenvalues of the covariance; the numbers in
    use have the size of its deviations.

    Args:
        sigma: deviation of the three factors, normal about 0.
        spreads: of the components, for colours in 0..1.
        components: directions (red, green, blue), one for each spread.
        key: the field, uint8 [H, W, 3].
    """

    sigma: float = 0.1
    spreads: tuple[float, ...] = (0.2175, 0.0188, 0.0045)
    components: tuple[tuple[float, ...], ...] = (
        (-0.5675, -0.5808, -0.5836),
        (0.7192, -0.0045, -0.6948),
        (0.4009, -0.8140, 0.4203),
    )
    key: str = "image"

    def __post_init__(self):
        if self.sigma < 0:
            raise ValueError(f"sigma is {self.sigma}; it must be >= 0")
        shape = np.shape(self.components)
        if shape != (len(self.spreads), 3):
            raise ValueError(
                f"components have shape {shape} for {len(self.spreads)} spreads; give one "
                "direction of three colours for each spread"
            )

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        image = pixels(example, self.key)
        if image.shape[-1] != 3:
            raise ValueError(
                f"a picture of {image.shape[-1]} channels has no principal colours; "
                "decode three channels"
            )
        factors = self.sigma * rng.standard_normal(len(self.spreads))
        shift = 255 * (factors * self.spreads) @ np.array(self.components)
        return {**example, self.key: _look_up(image, np.arange(256)[:, None] + shift)}


@dataclasses.dataclass(frozen=True)
class Grayscale:
    """Colour becomes grey (BT.601 luma), in as many channels as before.

    Args:
        probability: of it.
        key: the field, uint8 [H, W, 1 or 3].
    """

    probability: float = 0.2
    key: str = "image"

    def __post_init__(self):
        _check_probability(self.probability)

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        image = pixels(example, self.key)
        if rng.random() >= self.probability:
            return example
        return {**example, self.key: adjust_saturation(image, 0.0)}


@dataclasses.dataclass(frozen=True)
class GaussianBlur:
    """Weighted means of neighbours, by a normal distribution; borders are mirrored.

    Args:
        probability: of it.
        sigma: the deviation in pixels, uniform between the two.
        kernel_size: odd number of pixels the weights reach over; None takes a tenth of
            the shorter side, as SimCLR does, made odd and at least 3.
        key: the field, uint8 [H, W, C].
    """

    probability: float = 0.5
    sigma: tuple[float, float] = (0.1, 2.0)
    kernel_size: int | None = None
    key: str = "image"

    def __post_init__(self):
        _check_probability(self.probability)
        if len(self.sigma) != 2 or not 0 < self.sigma[0] <= self.sigma[1]:
            raise ValueError(f"sigma is {self.sigma}; give 0 < low <= high")
        if self.kernel_size is not None and (
            self.kernel_size < 1 or self.kernel_size % 2 == 0
        ):
            raise ValueError(f"kernel_size is {self.kernel_size}; it must be odd")

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        image = pixels(example, self.key)
        if rng.random() >= self.probability:
            return example
        size = self.kernel_size or max(3, min(image.shape[:2]) // 10 // 2 * 2 + 1)
        blurred = cv2.GaussianBlur(
            image,
            (size, size),
            rng.uniform(*self.sigma),
            borderType=cv2.BORDER_REFLECT_101,
        )
        return {**example, self.key: blurred.reshape(image.shape)}


def adjust_brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """factor * image: uint8 [H, W, C], the same out; 0 is black, 1 the picture."""
    return _look_up(image, factor * np.arange(256))


def adjust_contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Away from the mean grey (rounded), by a factor: uint8 [H, W, C], the same out."""
    mean = np.floor(_grey(image).mean() + 0.5)
    return _look_up(image, mean + factor * (np.arange(256) - mean))


def adjust_saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """Away from its own grey, by a factor: uint8 [H, W, C], the same out; 0 is grey."""
    if image.shape[-1] == 1:
        return image
    grey = cv2.cvtColor(_grey(image), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(image, factor, grey, 1 - factor, 0)


def turn_hue(image: np.ndarray, share: float) -> np.ndarray:
    """Turns the colour circle: uint8 [H, W, C], the same out; 1/3 makes red green."""
    if image.shape[-1] == 1:
        return image
    hsv = cv2.cvtColor(np.float32(image) / 255, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0] + 360 * share) % 360
    rgb = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return np.rint(255 * rgb).clip(0, 255).astype(np.uint8)


_ADJUSTMENTS = (
    ("brightness", adjust_brightness),
    ("contrast", adjust_contrast),
    ("saturation", adjust_saturation),
)


def _grey(image: np.ndarray) -> np.ndarray:
    """uint8 [H, W] of uint8 [H, W, 1 or 3]."""
    if image.shape[-1] == 1:
        return image[..., 0]
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def _look_up(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Values by a table [256], or by one for each channel, [256, C]."""
    table = np.rint(table).clip(0, 255).astype(np.uint8)
    return cv2.LUT(image, table[None] if table.ndim > 1 else table).reshape(image.shape)


def _check_probability(probability: float) -> None:
    if not 0 <= probability <= 1:
        raise ValueError(f"probability is {probability}; it must lie in 0..1")
