"""Rules and layouts that files of a few architectures need."""

import dataclasses
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
class Window(Linear):
    """torch's Conv2d weight, [out, in, side, side], where we have a Dense of all its pixels,
    channel by channel.

    Args:
        side: height and width of what the convolution covers.
    """

    side: int = 1

    def theirs(self, ours: Shape) -> Shape:
        out, numbers = super().theirs(ours)
        return out, numbers // self.side**2, self.side, self.side

    def load(self, tensor: np.ndarray, ours: Shape) -> np.ndarray:
        return super().load(tensor.reshape(len(tensor), -1), ours)


def torch_window(ours: str, theirs: str, side: int = 1) -> list[Rule]:
    """A Dense here, torch's convolution of a whole map of side x side pixels there."""
    return [
        Rule(f"params/{ours}/kernel", f"{theirs}.weight", Window(side=side)),
        Rule(f"params/{ours}/bias", f"{theirs}.bias"),
    ]


def conv_norm(ours: str, theirs: str) -> list[Rule]:
    """A convolution `conv` with its norm `norm`; `conv` and `bn` in the file."""
    return [
        *torch_conv(f"{ours}/conv", f"{theirs}.conv"),
        *torch_batch_norm(f"{ours}/norm", f"{theirs}.bn"),
    ]
