"""What a field of an example is: its type, its range, and how to invent one.

A source declares its fields with these, so that wrong values are named before they
reach a device, and a run can be tried on invented data of the same kind
(`data.sources.Synthetic`).
"""

import dataclasses
from typing import Any, Protocol

import cv2
import numpy as np

# Where a side is not fixed: photographs of about the size ImageNet's have.
_PHOTO_SIDES = (375, 500)
# Invented words are made of these; the first letters come most often.
_CONSONANTS, _VOWELS = "tnshrdlcmwfgpb", "eaoiu"


class Feature(Protocol):
    """One field of an example."""

    def check(self, value: Any) -> None:
        """Raises ValueError, in one line, if `value` cannot be this field."""

    def sample(self, rng: np.random.Generator) -> Any:
        """A random value such as a real example would hold."""


@dataclasses.dataclass(frozen=True)
class Image:
    """A picture.

    Args:
        height: in pixels; None if it varies.
        width: in pixels; None if it varies.
        channels: 3 for colour (red, green, blue), 1 for grey.
        encoding: 'jpeg' or 'png' if the field holds a file's bytes; None if it holds
            uint8 [height, width, channels].
    """

    height: int | None = None
    width: int | None = None
    channels: int = 3
    encoding: str | None = None

    def __post_init__(self):
        if self.encoding not in (None, "jpeg", "png"):
            raise ValueError(
                f"encoding must be None, 'jpeg' or 'png', not {self.encoding!r}"
            )

    def check(self, value: Any) -> None:
        """Encoded: bytes, of whatever format (decoding tells). Else the exact shape.

        Raises:
            ValueError: if it is something else.
        """
        if self.encoding:
            if not isinstance(value, bytes):
                raise ValueError(
                    f"expected encoded bytes ({self.encoding}), got "
                    f"{_described(value)}; declare Image(encoding=None) for arrays"
                )
            return
        expected = (self.height, self.width, self.channels)
        if (
            not isinstance(value, np.ndarray)
            or value.dtype != np.uint8
            or value.ndim != 3
            or any(
                e not in (None, s) for e, s in zip(expected, value.shape, strict=True)
            )
        ):
            shape = ", ".join("?" if side is None else str(side) for side in expected)
            raise ValueError(f"expected uint8 [{shape}], got {_described(value)}")

    def sample(self, rng: np.random.Generator) -> Any:
        """Coloured clouds with grain: compresses about as well as a photograph."""
        height, width = (
            int(rng.integers(side * 4 // 5, side * 6 // 5)) if fixed is None else fixed
            for fixed, side in zip((self.height, self.width), _PHOTO_SIDES, strict=True)
        )
        clouds = rng.integers(0, 256, (6, 8, self.channels)).astype(np.float32)
        pixels = cv2.resize(clouds, (width, height), interpolation=cv2.INTER_CUBIC)
        pixels = pixels.reshape(height, width, self.channels)
        pixels += rng.normal(0, 8, pixels.shape)
        pixels = np.clip(pixels, 0, 255).astype(np.uint8)
        if self.encoding is None:
            return pixels
        _, encoded = cv2.imencode("." + self.encoding, pixels)
        return encoded.tobytes()


@dataclasses.dataclass(frozen=True)
class Label:
    """A class: an integer in [0, num_classes)."""

    num_classes: int

    def check(self, value: Any) -> None:
        """Raises ValueError unless `value` is an integer in range."""
        if not isinstance(value, (int, np.integer)):
            value = np.asarray(value)
            if value.shape or value.dtype.kind not in "iu":
                raise ValueError(f"expected one integer, got {_described(value)}")
        if not 0 <= value < self.num_classes:
            raise ValueError(
                f"{int(value)} is outside 0..{self.num_classes - 1} "
                f"(num_classes={self.num_classes})"
            )

    def sample(self, rng: np.random.Generator) -> int:
        """Every class equally often."""
        return int(rng.integers(self.num_classes))


@dataclasses.dataclass(frozen=True)
class Text:
    """A text, `str`.

    Args:
        max_length: in characters; None if it varies.
    """

    max_length: int | None = None

    def __post_init__(self):
        if self.max_length is not None and self.max_length < 1:
            raise ValueError(f"max_length is {self.max_length}; it must be at least 1")

    def check(self, value: Any) -> None:
        """Raises ValueError unless `value` is a text of at most `max_length`."""
        length = len(value) if isinstance(value, str) else None
        if length is None:
            raise ValueError(f"expected text (str), got {_described(value)}")
        if self.max_length is not None and length > self.max_length:
            raise ValueError(
                f"has {length} characters, more than max_length={self.max_length}"
            )

    def sample(self, rng: np.random.Generator) -> str:
        """Two to five sentences of four to twelve words, cut to `max_length`."""
        sentences = (
            " ".join(_word(rng) for _ in range(rng.integers(4, 13)))
            for _ in range(rng.integers(2, 6))
        )
        text = " ".join(f"{s[0].upper()}{s[1:]}." for s in sentences)
        return text[: self.max_length]


def _word(rng: np.random.Generator) -> str:
    """One to three syllables, the same few words again and again, as in a language."""
    draws = rng.random((min(3, int(rng.geometric(0.6))), 2)) ** 2.5
    return "".join(
        _CONSONANTS[int(c * len(_CONSONANTS))] + _VOWELS[int(v * len(_VOWELS))]
        for c, v in draws
    )


def _described(value: Any) -> str:
    if isinstance(value, (np.ndarray, np.generic)):
        return f"{value.dtype} {list(value.shape)}"
    return type(value).__name__
