"""Transforms of examples on the host: `transform(example, rng) -> example`, in numpy.

Each is a frozen dataclass whose fields are its config. It replaces the field `key`
(uint8 [H, W, C]; encoded bytes where it says so) and leaves all others, and never writes
into the arrays it is given. Pictures stay uint8 all the way to the device, where the task
normalises them, usually with the constants below.

Raises ValueError, in one line, for a picture that cannot be transformed.
"""

import dataclasses
import math
from typing import Any

import cv2
import numpy as np

from vision.decode import (
    Box,
    JpegHeader,
    convert_channels,
    decode,
    decode_box,
    pixels,
    read_jpeg_header,
)
from vision.randaugment import RandAugment

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "CenterCrop",
    "Decode",
    "PadAndCrop",
    "RandAugment",
    "RandomCrop",
    "RandomErasing",
    "RandomFlip",
    "RandomResizedCrop",
    "Resize",
    "ScaleJitter",
]

Example = dict[str, Any]
Size = int | tuple[int, int]

# Of red, green and blue in 0..1, over ImageNet's training pictures.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_INTERPOLATIONS = {
    "nearest": cv2.INTER_NEAREST,
    "linear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
}


@dataclasses.dataclass(frozen=True)
class Decode:
    """A file's bytes, or uint8 [H, W, any channels], to uint8 [H, W, channels].

    Args:
        channels: 3 for red, green, blue; 1 for grey.
        key: the field.
    """

    channels: int = 3
    key: str = "image"

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        image = example[self.key]
        if isinstance(image, bytes):
            image = decode(image, self.channels)
        else:
            image = convert_channels(image, self.channels)
        return {**example, self.key: image}


@dataclasses.dataclass(frozen=True)
class Resize:
    """To a given size, or to a given shorter side. Decodes too.

    A JPEG picture of at least twice the size is decoded at a fraction of its own.

    Args:
        size: the shorter side (the other follows), or (height, width).
        interpolation: 'area' averages what falls into a pixel, and is linear when
            enlarging; or 'linear', 'cubic', 'nearest', which take the nearest few.
        channels: of what is decoded, as for `Decode`.
        key: the field: encoded bytes or uint8 [H, W, C].
    """

    size: Size
    interpolation: str = "area"
    channels: int = 3
    key: str = "image"

    def __post_init__(self):
        _check_interpolation(self.interpolation)

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        image = example[self.key]
        header = _header(image)
        if header is not None:
            size = self.target(header.height, header.width)
            whole = Box(0, 0, header.height, header.width)
            image = decode_box(image, header, whole, self.channels, least=size)
        else:
            if isinstance(image, bytes):
                image = decode(image, self.channels)
            size = self.target(*image.shape[:2])
        return {**example, self.key: resize(image, size, self.interpolation)}

    def target(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) that a picture of this height and width becomes."""
        if not isinstance(self.size, int):
            return tuple(self.size)
        scale = self.size / min(height, width)
        return (
            max(self.size, round(height * scale)),
            max(self.size, round(width * scale)),
        )


@dataclasses.dataclass(frozen=True)
class ScaleJitter:
    """To a random shorter side, before a `RandomCrop`. Decodes too.

    Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
    Recognition", 2014, https://arxiv.org/abs/1409.1556, from 256 to 512; the residual
    networks of 2015 to 480.

    Args:
        low, high: the shorter side, uniform between the two, both possible.
        interpolation, channels, key: as for `Resize`.
    """

    low: int = 256
    high: int = 480
    interpolation: str = "area"
    channels: int = 3
    key: str = "image"

    def __post_init__(self):
        _check_interpolation(self.interpolation)
        if not 0 < self.low <= self.high:
            raise ValueError(
                f"the shorter side is from {self.low} to {self.high}; give 0 < low <= high"
            )

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        size = int(rng.integers(self.low, self.high + 1))
        return Resize(size, self.interpolation, self.channels, self.key)(example, rng)


@dataclasses.dataclass(frozen=True)
class CenterCrop:
    """The middle of a picture that is at least as large.

    Args:
        size: the side, or (height, width).
        key: the field.
    """

    size: Size
    key: str = "image"

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        image = pixels(example, self.key)
        height, width = _pair(self.size)
        down, right = _spare(image, height, width)
        top, left = down // 2, right // 2
        crop = image[top : top + height, left : left + width]
        return {**example, self.key: crop}


@dataclasses.dataclass(frozen=True)
class RandomCrop:
    """A random part, of its own size, of a picture that is at least as large.

    Args:
        size: the side, or (height, width).
        key: the field.
    """

    size: Size
    key: str = "image"

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        image = pixels(example, self.key)
        height, width = _pair(self.size)
        top, left = (int(rng.integers(n + 1)) for n in _spare(image, height, width))
        crop = image[top : top + height, left : left + width]
        return {**example, self.key: crop}


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop:
    """A random part of random shape, resized: ImageNet's usual training crop.

    Szegedy et al., "Going Deeper with Convolutions", 2014,
    https://arxiv.org/abs/1409.4842. Decodes too, and only what it needs.

    Args:
        size: of the result: the side, or (height, width).
        area: the part's share of the picture, uniform between the two.
        aspect_ratio: its width over its height, log-uniform between the two.
        channels: as for `Decode`.
        interpolation: as for `Resize`. 'linear' is the custom, and the fastest.
        key: the field: encoded bytes or uint8 [H, W, C].
    """

    size: Size
    area: tuple[float, float] = (0.08, 1.0)
    aspect_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    channels: int = 3
    interpolation: str = "linear"
    key: str = "image"

    def __post_init__(self):
        _check_interpolation(self.interpolation)

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        image, size = example[self.key], _pair(self.size)
        header = _header(image)
        if header is not None:
            box = self.box(header.height, header.width, rng)
            crop = decode_box(image, header, box, self.channels, least=size)
        else:
            image = Decode(self.channels, self.key)(example, rng)[self.key]
            box = self.box(*image.shape[:2], rng)
            crop = image[
                box.top : box.top + box.height, box.left : box.left + box.width
            ]
        return {**example, self.key: resize(crop, size, self.interpolation)}

    def box(self, height: int, width: int, rng: np.random.Generator) -> Box:
        """Draws the part: ten attempts, then the largest middle one that fits."""
        low, high = self.aspect_ratio
        for _ in range(10):
            area = rng.uniform(*self.area) * height * width
            ratio = math.exp(rng.uniform(math.log(low), math.log(high)))
            wide, tall = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < wide <= width and 0 < tall <= height:
                top = int(rng.integers(height - tall + 1))
                left = int(rng.integers(width - wide + 1))
                return Box(top, left, tall, wide)
        tall = min(height, max(1, round(width / low)))
        wide = min(width, max(1, round(height * high)))
        return Box((height - tall) // 2, (width - wide) // 2, tall, wide)


@dataclasses.dataclass(frozen=True)
class RandomFlip:
    """Left becomes right.

    Args:
        probability: of it.
        key: the field.
    """

    probability: float = 0.5
    key: str = "image"

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        image = pixels(example, self.key)
        if rng.random() >= self.probability:
            return example
        return {**example, self.key: cv2.flip(image, 1).reshape(image.shape)}


@dataclasses.dataclass(frozen=True)
class PadAndCrop:
    """Shifts a picture at random by at most `padding`, along each axis.

    He et al., "Deep Residual Learning for Image Recognition", 2015,
    https://arxiv.org/abs/1512.03385 (section 4.2).

    Args:
        padding: pixels added on every side before a crop of the old size.
        fill: their value.
        key: the field.
    """

    padding: int = 4
    fill: int = 0
    key: str = "image"

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        image = pixels(example, self.key)
        height, width = image.shape[:2]
        top, left = rng.integers(0, 2 * self.padding + 1, 2).tolist()
        padded = cv2.copyMakeBorder(
            image, *(self.padding,) * 4, cv2.BORDER_CONSTANT, value=(self.fill,) * 4
        )
        crop = padded[top : top + height, left : left + width]
        return {**example, self.key: crop.reshape(image.shape)}


@dataclasses.dataclass(frozen=True)
class RandomErasing:
    """Covers a random rectangle.

    Zhong et al., "Random Erasing Data Augmentation", 2017,
    https://arxiv.org/abs/1708.04896.

    Args:
        probability: of it.
        area: the rectangle's share of the picture, uniform between the two.
        aspect_ratio: its height over its width, log-uniform between the two.
        fill: its value; None for a random one in every pixel and channel.
        key: the field.
    """

    probability: float = 0.25
    area: tuple[float, float] = (0.02, 1 / 3)
    aspect_ratio: tuple[float, float] = (0.3, 1 / 0.3)
    fill: int | None = None
    key: str = "image"

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        image = pixels(example, self.key)
        if rng.random() >= self.probability:
            return example
        height, width, channels = image.shape
        for _ in range(10):
            area = rng.uniform(*self.area) * height * width
            low, high = self.aspect_ratio
            ratio = math.exp(rng.uniform(math.log(low), math.log(high)))
            tall, wide = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if not (0 < tall < height and 0 < wide < width):
                continue
            top = int(rng.integers(height - tall + 1))
            left = int(rng.integers(width - wide + 1))
            image = image.copy()
            image[top : top + tall, left : left + wide] = (
                rng.integers(0, 256, (tall, wide, channels), np.uint8)
                if self.fill is None
                else self.fill
            )
            return {**example, self.key: image}
        return example


def resize(image: np.ndarray, size: tuple[int, int], interpolation: str) -> np.ndarray:
    """uint8 [H, W, C] to [*size, C]."""
    height, width = size
    if image.shape[:2] == (height, width):
        return image
    if interpolation == "area" and height >= image.shape[0] and width >= image.shape[1]:
        interpolation = "linear"
    resized = cv2.resize(
        image, (width, height), interpolation=_INTERPOLATIONS[interpolation]
    )
    return resized.reshape(height, width, image.shape[2])


def _header(image: Any) -> JpegHeader | None:
    """Of a JPEG file whose parts can be decoded."""
    header = read_jpeg_header(image) if isinstance(image, bytes) else None
    return header if header is not None and header.components in (1, 3) else None


def _pair(size: Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)


def _spare(image: np.ndarray, height: int, width: int) -> tuple[int, int]:
    """Rows and columns beyond those of a crop."""
    if image.shape[0] < height or image.shape[1] < width:
        raise ValueError(
            f"cannot crop {height} x {width} from a picture of "
            f"{image.shape[0]} x {image.shape[1]}; add a Resize before the crop"
        )
    return image.shape[0] - height, image.shape[1] - width


def _check_interpolation(name: str) -> None:
    if name not in _INTERPOLATIONS:
        raise ValueError(
            f"interpolation must be one of {', '.join(_INTERPOLATIONS)}, not {name!r}"
        )
