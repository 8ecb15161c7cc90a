"""Rules from our parameter paths to the tensor names and layouts of published files.

A `Naming` is a table of `Rule`s: which tensor of the file fills which of our leaves, and how
its axes lie there. The functions below each give the rules of one layer, so that a table
reads like the architecture. `{}` stands for a number, the same in both names.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Sequence

import numpy as np

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Layout:
    """The same axes in both.

    A layout moves numbers and never changes them, so that `load` alone tells the way back.
    """

    def theirs(self, ours: Shape) -> Shape:
        """The shape a tensor of the file must have to fill a leaf of shape `ours`."""
        return ours

    def load(self, tensor: np.ndarray, ours: Shape) -> np.ndarray:
        """The leaf, of shape `ours`, from a tensor of shape `theirs(ours)`."""
        del ours
        return tensor

    def places(self, ours: Shape) -> np.ndarray:
        """Where in the file's tensor, flattened, each number of a leaf lies.

        Returns:
            integers of shape `ours`: `load` of every place's number.
        """
        shape = self.theirs(ours)
        size = math.prod(shape)
        numbers = np.arange(size, dtype=np.int32 if size < 2**31 else np.int64)
        return self.load(numbers.reshape(shape), ours)

    def store(self, leaf: np.ndarray, tensor: np.ndarray) -> None:
        """Writes a leaf where `load` finds it.

        Args:
            leaf: any shape, `ours` say.
            tensor: of shape `theirs(ours)`, in C order. Of a tensor that several leaves
                share only this one's part is written.
        """
        tensor.reshape(-1)[self.places(leaf.shape)] = leaf


@dataclasses.dataclass(frozen=True)
class Flat(Layout):
    """One axis there, perhaps several here: torch's biases, (heads * head_dim)."""

    def theirs(self, ours: Shape) -> Shape:
        return (math.prod(ours),)

    def load(self, tensor: np.ndarray, ours: Shape) -> np.ndarray:
        return tensor.reshape(ours)


@dataclasses.dataclass(frozen=True)
class Linear(Layout):
    """torch's Linear weight, [out, in]; the first `in_axes` axes here are the input."""

    in_axes: int = 1

    def theirs(self, ours: Shape) -> Shape:
        return math.prod(ours[self.in_axes :]), math.prod(ours[: self.in_axes])

    def load(self, tensor: np.ndarray, ours: Shape) -> np.ndarray:
        return tensor.T.reshape(ours)


@dataclasses.dataclass(frozen=True)
class Matrix(Layout):
    """[in, out], as here: GPT-2's "Conv1D"; the first `in_axes` axes here are the input."""

    in_axes: int = 1

    def theirs(self, ours: Shape) -> Shape:
        return math.prod(ours[: self.in_axes]), math.prod(ours[self.in_axes :])

    def load(self, tensor: np.ndarray, ours: Shape) -> np.ndarray:
        return tensor.reshape(ours)


@dataclasses.dataclass(frozen=True)
class Convolution(Layout):
    """torch's Conv2d weight, [out, in, H, W]; here [H, W, in, out]."""

    def theirs(self, ours: Shape) -> Shape:
        height, width, in_channels, out_channels = ours
        return out_channels, in_channels, height, width

    def load(self, tensor: np.ndarray, ours: Shape) -> np.ndarray:
        return tensor.transpose(2, 3, 1, 0)


@dataclasses.dataclass(frozen=True)
class Part(Layout):
    """One of `count` equal parts of an axis there: torch's fused query, key and value."""

    index: int
    count: int
    whole: Layout
    axis: int = 0

    def theirs(self, ours: Shape) -> Shape:
        shape = list(self.whole.theirs(ours))
        shape[self.axis] *= self.count
        return tuple(shape)

    def load(self, tensor: np.ndarray, ours: Shape) -> np.ndarray:
        parts = np.split(tensor, self.count, self.axis)
        return self.whole.load(parts[self.index], ours)


@dataclasses.dataclass(frozen=True)
class Rule:
    """One leaf of ours and the tensor that fills it.

    Args:
        ours: path with its collection, 'params/head/kernel'.
        theirs: the tensor's name in the file.
    """

    ours: str
    theirs: str
    layout: Layout = Layout()

    @functools.cached_property
    def _pattern(self) -> re.Pattern:
        return re.compile(re.escape(self.ours).replace(re.escape("{}"), r"(\d+)"))

    def source(self, path: str) -> str | None:
        """The tensor's name for the leaf at `path`; None if the rule is not about it."""
        match = self._pattern.fullmatch(path)
        return self.theirs.format(*match.groups()) if match else None


@dataclasses.dataclass(frozen=True)
class Naming:
    """The table of one architecture in one publisher's files.

    Args:
        name: for people and for `naming=`.
        rules: at most one per leaf.
        ignored: regular expressions of tensors that no model of ours needs.
        prefixes: some files have one of these in front of every name.
    """

    name: str
    rules: tuple[Rule, ...]
    ignored: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()

    def find(self, path: str) -> tuple[str, Layout] | None:
        """(tensor name, layout) for the leaf at `path`; None if there is no rule."""
        rule = self.rule(path)
        return rule and (rule.source(path), rule.layout)

    def rule(self, path: str) -> Rule | None:
        """The rule about the leaf at `path`: of several the first."""
        if path not in self._looked_up:
            rules = (rule for rule in self.rules if rule.source(path))
            self._looked_up[path] = next(rules, None)
        return self._looked_up[path]

    @functools.cached_property
    def _looked_up(self) -> dict[str, Rule | None]:
        """The same paths are asked for several times, and a table may be long."""
        return {}

    def ignores(self, name: str) -> bool:
        """Whether no model of ours needs the tensor of this name."""
        return any(re.fullmatch(pattern, name) for pattern in self.ignored)

    def is_called(self, name: str) -> bool:
        """Whether `name` means this table: its publisher alone may stand for it."""
        return name in (self.name, self.name.split()[0])


def same(ours: str, theirs: str) -> list[Rule]:
    """A parameter of its own, equal in both: a class token, positions."""
    return [Rule(f"params/{ours}", theirs)]


def torch_linear(ours: str, theirs: str, *, in_axes: int = 1) -> list[Rule]:
    return [
        Rule(f"params/{ours}/kernel", f"{theirs}.weight", Linear(in_axes)),
        Rule(f"params/{ours}/bias", f"{theirs}.bias", Flat()),
    ]


def torch_fused(ours: Sequence[str], theirs: str) -> list[Rule]:
    """Several linear layers of ours that are one of torch's."""
    count = len(ours)
    return [
        rule
        for i, name in enumerate(ours)
        for rule in (
            Rule(f"params/{name}/kernel", f"{theirs}.weight", Part(i, count, Linear())),
            Rule(f"params/{name}/bias", f"{theirs}.bias", Part(i, count, Flat())),
        )
    ]


def torch_conv(ours: str, theirs: str) -> list[Rule]:
    return [
        Rule(f"params/{ours}/kernel", f"{theirs}.weight", Convolution()),
        Rule(f"params/{ours}/bias", f"{theirs}.bias"),
    ]


def torch_norm(ours: str, theirs: str) -> list[Rule]:
    """LayerNorm, and the parameters of BatchNorm."""
    return [
        Rule(f"params/{ours}/scale", f"{theirs}.weight"),
        Rule(f"params/{ours}/bias", f"{theirs}.bias"),
    ]


def torch_batch_norm(ours: str, theirs: str) -> list[Rule]:
    return [
        *torch_norm(ours, theirs),
        Rule(f"batch_stats/{ours}/mean", f"{theirs}.running_mean"),
        Rule(f"batch_stats/{ours}/var", f"{theirs}.running_var"),
    ]


def flax_dense(ours: str, theirs: str) -> list[Rule]:
    """Dense, DenseGeneral or Conv: our layouts are Linen's."""
    return [
        Rule(f"params/{ours}/{leaf}", f"{theirs}/{leaf}") for leaf in ("kernel", "bias")
    ]


def flax_norm(ours: str, theirs: str) -> list[Rule]:
    return [
        Rule(f"params/{ours}/{leaf}", f"{theirs}/{leaf}") for leaf in ("scale", "bias")
    ]
