"""NASNet-A: two cells found by a search, stacked.

Paper: B. Zoph, V. Vasudevan, J. Shlens, Q. Le, "Learning Transferable Architectures for
Scalable Image Recognition", 2017, https://arxiv.org/abs/1707.07012.

Deviations: drop path keeps one rate for the whole training, where the paper's "scheduled"
one grows with the steps. What the paper's figure 4 leaves open (how a cell's inputs are
brought to one shape, the stem, the auxiliary head) is as in the authors' released network,
which timm and Keras have too.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers.activations import relu
from layers.convolution import Conv
from layers.dense import Dense
from layers.drop_path import DropPath
from layers.normalization import BatchNorm
from layers.pooling import avg_pool, max_pool
from vision.layers.auxiliary import AuxiliaryHead
from vision.layers.conv_norm import ConvNorm
from vision.layers.padding import padding_named
from vision.layers.separable import SeparableConvNorm

# Figure 4 (A): each block adds two operations. An operand is the cell's input ('current'),
# the input of the cell before ('previous'), or the result of an earlier block.
Operand = tuple[str, str | int]
NORMAL: tuple[tuple[Operand, Operand], ...] = (
    (("separable_5", "current"), ("separable_3", "previous")),
    (("separable_5", "previous"), ("separable_3", "previous")),
    (("average", "current"), ("identity", "previous")),
    (("average", "previous"), ("average", "previous")),
    (("separable_3", "current"), ("identity", "current")),
)
REDUCTION: tuple[tuple[Operand, Operand], ...] = (
    (("separable_5", "current"), ("separable_7", "previous")),
    (("max", "current"), ("separable_7", "previous")),
    (("average", "current"), ("separable_5", "previous")),
    (("average", 0), ("identity", 1)),
    (("separable_3", 0), ("max", "current")),
)
SIDES = ("left", "right")
# What a cell puts side by side: all that no other block has used.
NORMAL_OUTPUT = ("previous", 0, 1, 2, 3, 4)
REDUCTION_OUTPUT = (1, 2, 3, 4)


class NASNet(nn.Module):
    """Stem of two reduction cells, three stacks of normal cells with reductions between.

    Submodules: `stem`, `stem_cell_<i>`, `cell_<i>` (counted through), `reduction_cell_<i>`,
    `auxiliary_head`, `head`.

    Args:
        num_classes: K; 0 leaves the heads out.
        penultimate_width: channels of the last map; a multiple of 96.
        num_cells: N, normal cells of each of the three stacks.
        stem_width: channels of the first convolution.
        skip_reduction: the cell behind a reduction takes, as the input of the cell before,
            that of the one before the reduction's (the large network), not the
            reduction's own (the mobile one).
        padding: 'SAME', in which the published weights were trained, or 'symmetric'.
        auxiliary: a second head, behind two thirds of the cells, for training; its
            parameters depend on the image's size.
        drop_path_rate: of the last cell's operations; smaller in earlier cells.
        dropout_rate: before the head.
        norm_momentum, norm_epsilon: of BatchNorm; momentum weighs the old statistics.
        dtype: of the computation; None takes the input's.
        param_dtype: of the parameters.
    """

    num_classes: int
    penultimate_width: int
    num_cells: int
    stem_width: int
    skip_reduction: bool = True
    padding: str = "SAME"
    auxiliary: bool = False
    drop_path_rate: float = 0.0
    dropout_rate: float = 0.5
    norm_momentum: float = 0.9
    norm_epsilon: float = 1e-3
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self):
        padding_named(self.padding, 3)
        if self.penultimate_width % 96:
            raise ValueError(
                f"penultimate_width is {self.penultimate_width}; it must be a multiple "
                "of 96: six results of four times the first stack's width, in whose stem "
                "there is a quarter of it"
            )
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norms = {
            "norm_momentum": self.norm_momentum,
            "norm_epsilon": self.norm_epsilon,
        }
        self.unit = partial(ConvNorm, **norms, **dtypes)
        self.cell = partial(Cell, padding=self.padding, **norms, **dtypes)
        if self.num_classes:
            self.head = Dense(self.num_classes, **dtypes)
        if self.num_classes and self.auxiliary:
            self.auxiliary_head = AuxiliaryHead(
                self.num_classes, unit=self.unit, kernel_size=None, **dtypes
            )

    @nn.compact
    def stages(self, image: jax.Array, *, train: bool = False) -> tuple[jax.Array, ...]:
        """The maps at strides 8, 16 and 32, before the relu: [B, h, w, C] each."""

        def normal(x, previous, width, **fields):
            cell = self.cell(width, NORMAL, NORMAL_OUTPUT, stride=1, **fields)
            return cell(x, previous, train=train)

        def reduction(x, previous, width, **fields):
            cell = self.cell(width, REDUCTION, REDUCTION_OUTPUT, stride=2, **fields)
            return cell(x, previous, train=train)

        stem = self.unit(
            self.stem_width,
            kernel_size=3,
            strides=2,
            padding="VALID",
            activation="identity",
            name="stem",
        )(image, train=train)
        width = self.penultimate_width // 24
        previous = reduction(stem, None, width // 4, name="stem_cell_0")
        x = reduction(previous, stem, width // 2, name="stem_cell_1")
        outputs = []
        for k in range(3):
            if k:
                skipped = previous if self.skip_reduction else x
                name = f"reduction_cell_{k - 1}"
                previous, x = skipped, reduction(x, previous, width, name=name)
            for i in range(k * self.num_cells, (k + 1) * self.num_cells):
                rate = self.drop_path_rate * (i + 1) / (3 * self.num_cells)
                fields = {"drop_path_rate": rate, "name": f"cell_{i}"}
                previous, x = x, normal(x, previous, width, **fields)
            outputs.append(x)
            width *= 2
        return tuple(outputs)

    def features(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """The last map: [B, h, w, C]."""
        return relu(self.stages(image, train=train)[-1])

    def represent(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """One vector per image, what the head sees: [B, C]."""
        return self.features(image, train=train).mean((1, 2))

    @nn.compact
    def __call__(
        self, image: jax.Array, *, train: bool = False
    ) -> jax.Array | tuple[jax.Array, jax.Array]:
        """Logits [B, K] of normalised images, float [B, H, W, C].

        With an auxiliary head, training returns (logits, auxiliary logits).

        Raises:
            ValueError: images too small for the auxiliary head.
        """
        _, middle, last = self.stages(image, train=train)
        x = relu(last).mean((1, 2))
        if not self.num_classes:
            return x
        dropout = nn.Dropout(self.dropout_rate, name="dropout")
        logits = self.head(dropout(x, deterministic=not train))
        if not self.auxiliary or not (train or self.is_initializing()):
            return logits
        auxiliary = self.auxiliary_head(relu(middle), train=train)
        return (logits, auxiliary) if train else logits


class Cell(nn.Module):
    """The blocks of a table, each the sum of two operations; some of them concatenated.

    Submodules: `current`, `previous` (or `previous_path_0`, `previous_path_1`,
    `previous_norm`), `left_<i>`, `right_<i>` for the separable convolutions of block i.

    Args:
        width: channels of every block.
        table, output: the cell's, as above.
        stride: of the operations that read the cell's inputs.
        padding: of all operations.
        drop_path_rate: of all operations but the identity.
        norm_momentum, norm_epsilon: of BatchNorm.
    """

    width: int
    table: tuple[tuple[Operand, Operand], ...]
    output: tuple[str | int, ...]
    stride: int
    padding: str
    norm_momentum: float
    norm_epsilon: float
    drop_path_rate: float = 0.0
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def options(self) -> dict[str, Any]:
        """The fields that all normalised convolutions of the cell share."""
        return {
            "norm_momentum": self.norm_momentum,
            "norm_epsilon": self.norm_epsilon,
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
        }

    @nn.compact
    def __call__(
        self, x: jax.Array, previous: jax.Array | None, *, train: bool = False
    ) -> jax.Array:
        """[B, H, W, C] -> [B, ceil(H / stride), ceil(W / stride), blocks * width].

        Args:
            x: what the cell before returned.
            previous: what the one before that did, perhaps of twice the size; None takes x
                as it is.
        """
        unit = partial(ConvNorm, self.width, activation="identity", **self.options())
        values = {"current": unit(name="current")(relu(x), train=train)}
        if previous is None:
            values["previous"] = x
        elif previous.shape[1:3] != x.shape[1:3]:
            values["previous"] = self._halve(relu(previous), train)
        else:
            values["previous"] = unit(name="previous")(relu(previous), train=train)
        for i, block in enumerate(self.table):
            results = [
                self._operate(operation, operand, values[operand], f"{side}_{i}", train)
                for side, (operation, operand) in zip(SIDES, block, strict=True)
            ]
            values[i] = results[0] + results[1]
        return jnp.concatenate([values[name] for name in self.output], -1)

    def _operate(
        self, operation: str, operand: str | int, x: jax.Array, name: str, train: bool
    ) -> jax.Array:
        """One operation of the table on the operand's value: [B, h, w, width]."""
        stride = self.stride if isinstance(operand, str) else 1
        kind, _, kernel = operation.partition("_")
        if kind == "identity":
            return x
        if kind == "separable":
            twice = SeparableTwice(
                self.width, int(kernel), stride, self.padding, self.options(), name=name
            )
            x = twice(x, train=train)
        else:
            pool = {"max": max_pool, "average": avg_pool}[kind]
            x = pool(x, (3, 3), (stride, stride), padding_named(self.padding, 3))
        drop_path = DropPath(self.drop_path_rate, name=f"{name}_drop_path")
        return drop_path(x, train=train)

    def _halve(self, x: jax.Array, train: bool) -> jax.Array:
        """Half the size without losing every second pixel: two grids, one pixel apart."""
        shifted = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))[:, 1:, 1:]
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = partial(Conv, kernel_size=(1, 1), use_bias=False, **dtypes)
        paths = [
            conv(self.width // 2, name=f"previous_path_{i}")(grid[:, ::2, ::2])
            for i, grid in enumerate((x, shifted))
        ]
        return BatchNorm(
            use_running_average=not train,
            momentum=self.norm_momentum,
            epsilon=self.norm_epsilon,
            name="previous_norm",
            **dtypes,
        )(jnp.concatenate(paths, -1))


class SeparableTwice(nn.Module):
    """Twice relu and a normalised separable convolution; the first of them strides.

    Submodules: `conv_0`, `conv_1`.

    Args:
        options: further fields of the convolutions.
    """

    width: int
    kernel_size: int
    stride: int
    padding: str
    options: Mapping[str, Any]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """[B, H, W, C] -> [B, ceil(H / stride), ceil(W / stride), width]."""
        for i in range(2):
            conv = SeparableConvNorm(
                self.width,
                kernel_size=self.kernel_size,
                strides=1 if i else self.stride,
                padding=padding_named(self.padding, self.kernel_size),
                name=f"conv_{i}",
                **self.options,
            )
            x = conv(relu(x), train=train)
        return x


NASNetA_Large = partial(NASNet, penultimate_width=4032, num_cells=6, stem_width=96)
NASNetA_Mobile = partial(
    NASNet, penultimate_width=1056, num_cells=4, stem_width=32, skip_reduction=False
)
