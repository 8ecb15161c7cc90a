"""Rules and layouts that files of a few architectures need."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from training.weight_naming import (
    Layout,
    Linear,
    Rule,
    Shape,
    torch_batch_norm,
    torch_conv,
)


@dataclasses.dataclass(frozen=True)
class FromOne(Rule):
    """A rule whose numbers the file counts from 1.

    Args:
        digits: of each number there; 2 for 01, 02, ...
    """

    digits: int = 1

    def source(self, path: str) -> str | None:
        if not (match := self._pattern.fullmatch(path)):
            return None
        numbers = (f"{int(n) + 1:0{self.digits}d}" for n in match.groups())
        return self.theirs.format(*numbers)


def from_one(rules: Sequence[Rule], digits: int = 1) -> list[Rule]:
    """These rules, their numbers counted from 1 in the file."""
    return [FromOne(r.ours, r.theirs, r.layout, digits) for r in rules]


@dataclasses.dataclass(frozen=True)
class Leading(Layout):
    """A number of axes of length 1 there, before the axes here."""

    count: int

    def theirs(self, ours: Shape) -> Shape:
        return (1,) * self.count + tuple(ours)

    def load(self, tensor: np.ndarray, ours: Shape) -> np.ndarray:
        return tensor.reshape(ours)


@dataclasses.dataclass(frozen=True)
class Trailing(Layout):
    """A number of axes of length 1 there, after the axes here."""

    count: int

    def theirs(self, ours: Shape) -> Shape:
        return tuple(ours) + (1,) * self.count

    def load(self, tensor: np.ndarray, ours: Shape) -> np.ndarray:
        return tensor.reshape(ours)


@dataclasses.dataclass(frozen=True)
class Pixel(Linear):
    """torch's Conv2d weight of one pixel, [out, in, 1, 1], where we have a Dense."""

    def theirs(self, ours: Shape) -> Shape:
        return (*super().theirs(ours), 1, 1)

    def load(self, tensor: np.ndarray, ours: Shape) -> np.ndarray:
        matrix = tensor.reshape(-1, math.prod(ours[: self.in_axes]))
        return super().load(matrix, ours)


def torch_pixel(ours: str, theirs: str) -> list[Rule]:
    """A Dense here, torch's convolution of one pixel there."""
    return [
        Rule(f"params/{ours}/kernel", f"{theirs}.weight", Pixel()),
        Rule(f"params/{ours}/bias", f"{theirs}.bias"),
    ]


def conv_norm(ours: str, theirs: str) -> list[Rule]:
    """A convolution `conv` with its norm `norm`; `conv` and `bn` in the file."""
    return [
        *torch_conv(f"{ours}/conv", f"{theirs}.conv"),
        *torch_batch_norm(f"{ours}/norm", f"{theirs}.bn"),
    ]
