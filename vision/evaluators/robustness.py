"""Accuracy against how far an image is turned, scaled or shifted, as curves.

A convolutional network is not invariant to rotation or scale, and to shifts only in part;
these curves show how much it lacks: those that motivated capsules, S. Sabour, N. Frosst,
G. Hinton, "Dynamic Routing Between Capsules", 2017, https://arxiv.org/abs/1710.09829, and
the measurements of L. Engstrom, B. Tran, D. Tsipras, L. Schmidt, A. Madry, "Exploring the
Landscape of Spatial Robustness", 2017, https://arxiv.org/abs/1712.02779.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates

from training import metrics as metric_types
from training.errors import RunError
from training.evaluation import Batches, Report
from training.metrics import Mean, accuracy
from vision.charts import curves

_LABELS = {
    "rotation": "rotation, degrees, either way",
    "scale": "scale",
    "shift": "shift, share of the side, four ways",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Robustness:
    """Accuracy on turned, scaled and shifted images.

    Metrics `rotation_30`, `scale_0.75`, `shift_0.1`, ..., one for each amount, and their
    means `rotation`, `scale` and `shift`; a picture `robustness`. Nothing is random:
    a rotation's accuracy is the mean over both senses, a shift's over right, left, down
    and up. Images are warped (bilinearly) and classified on the device, one warp after
    the other in one compiled loop.

    Args:
        data: a pipeline with `eval_batches`.
        rotations: degrees.
        scales: what a length becomes, as factors; below 1 more of the outside shows.
        shifts: shares of the image's side.
        fill: what is outside the image: a value in 0..1, black by default.
        batch_size: examples a step; None takes the training batch size.
        label_key: the field with one class per example.
    """

    data: Any
    rotations: Sequence[float] = (0, 15, 30, 45, 60, 90, 120, 150, 180)
    scales: Sequence[float] = (0.5, 0.625, 0.75, 0.875, 1, 1.25, 1.5, 2)
    shifts: Sequence[float] = (0, 0.05, 0.1, 0.15, 0.2, 0.25)
    fill: float = 0.0
    batch_size: int | None = None
    label_key: str = "label"

    def __post_init__(self):
        if not self.amounts:
            raise ValueError("no rotations, scales or shifts; give one amount or more")
        if self.scales and min(self.scales) <= 0:
            raise ValueError(f"a scale is {min(self.scales)}; it must be positive")

    @property
    def amounts(self) -> dict[str, tuple[float, ...]]:
        """What the curves are over."""
        found = {
            "rotation": tuple(self.rotations),
            "scale": tuple(self.scales),
            "shift": tuple(self.shifts),
        }
        return {kind: values for kind, values in found.items() if values}

    def __call__(self, run: Any, state: Any) -> Report:
        """Classifies the whole split under every warp.

        Raises:
            RunError: labels that are not one class.
        """
        amounts = tuple(self.amounts.items())
        step = run.compile(
            self._step, key=("robustness", amounts, self.fill, self.label_key)
        )
        totals, pending = None, None
        size = self.batch_size or run.experiment.batch_size
        with Batches(self.data, run, size) as batches:
            for batch in batches:
                self._check(batch)
                found = step(state, batch)
                if pending is not None:  # read one step behind the device
                    totals = metric_types.merge(totals, metric_types.on_host(pending))
                pending = found
            totals = metric_types.merge(totals, metric_types.on_host(pending))
            skipped = batches.skipped
        metrics = metric_types.compute(totals)
        picture = self._draw(metrics)
        for kind, values in self.amounts.items():
            metrics[kind] = float(np.mean([metrics[_name(kind, v)] for v in values]))
        return Report(metrics, {"robustness": picture}, skipped)

    def _check(self, batch: Any) -> None:
        label = batch.get(self.label_key)
        if label is None or label.ndim != 1:
            raise RunError(
                f"{self.label_key!r} is not one class per example; set label_key to such "
                "a field"
            )

    def _step(self, state: Any, batch: Any, *, task: Any) -> dict[str, Mean]:
        image = batch[task.image_key]
        if jnp.issubdtype(image.dtype, jnp.integer):
            image = image.astype(jnp.float32) / 255
        variables = {"params": state.eval_params, **state.collections}
        points = [
            (_name(kind, value), warp)
            for kind, values in self.amounts.items()
            for value in values
            for warp in warps(kind, value, image.shape[1:3])
        ]

        def classify(inverse):
            warped = {**batch, task.image_key: warp(image, inverse, self.fill)}
            logits = task.model.apply(
                variables, *task.plain_inputs(warped), train=False
            )
            return accuracy(logits, batch[self.label_key], batch.get("mask"))

        found = jax.lax.map(classify, np.stack([w for _, w in points]))
        names = np.array([name for name, _ in points])
        # The ways of an amount are as good as more examples of it.
        return {
            name: Mean(
                found.total[names == name].sum(), found.count[names == name].sum()
            )
            for name in dict.fromkeys(names.tolist())
        }

    def _draw(self, metrics: dict[str, float]) -> np.ndarray:
        """The curves side by side."""
        panels = []
        for kind, values in self.amounts.items():
            values = sorted(values)
            y = [100 * metrics[_name(kind, value)] for value in values]
            panels.append(
                curves(
                    {kind: (values, y)},
                    x_label=_LABELS[kind],
                    y_label="accuracy, %",
                    y_range=(0, 100),
                )
            )
        return np.concatenate(panels, axis=1)


def warps(kind: str, value: float, shape: tuple[int, int]) -> list[np.ndarray]:
    """Where each output pixel comes from, for one amount, once for each way of it.

    Args:
        kind: 'rotation' (degrees), 'scale' (a factor) or 'shift' (a share of the side).
        value: the amount.
        shape: (height, width) of the images.

    Returns:
        float32 [2, 3] each: input (y, x) = matrix @ (output y, output x, 1).
    """
    middle = (np.array(shape) - 1) / 2
    if kind == "shift":
        if value == 0:
            return [_inverse(np.eye(2), np.zeros(2), middle)]
        moves = np.array([(0, 1), (0, -1), (1, 0), (-1, 0)]) * value * np.array(shape)
        return [_inverse(np.eye(2), move, middle) for move in moves]
    if kind == "scale":
        return [_inverse(np.eye(2) * value, np.zeros(2), middle)]
    found = []
    for angle in sorted({value % 360, -value % 360}):
        radians = math.radians(angle)
        sine, cosine = math.sin(radians), math.cos(radians)
        # y points down: counter-clockwise as one sees it.
        turn = np.array([[cosine, -sine], [sine, cosine]])
        found.append(_inverse(turn, np.zeros(2), middle))
    return found


def _inverse(turn: np.ndarray, move: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """Of p -> turn @ (p - middle) + middle + move."""
    back = np.linalg.inv(turn)
    return np.float32(np.column_stack([back, middle - back @ (middle + move)]))


def warp(image: jax.Array, inverse: jax.Array, fill: float) -> jax.Array:
    """Warps images by one matrix, bilinearly: float [B, H, W, C], the same out.

    Args:
        image: any values.
        inverse: float [2, 3], one of `warps`.
        fill: the value of what comes from outside.
    """
    height, width = image.shape[1:3]
    rows, columns = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    places = jnp.stack([rows, columns, jnp.ones_like(rows)]).astype(jnp.float32)
    y, x = jnp.einsum("IJ,JHW->IHW", inverse, places, precision="highest")

    def one(plane):
        return map_coordinates(plane, [y, x], order=1, mode="constant", cval=fill)

    over_channels = jax.vmap(one, in_axes=-1, out_axes=-1)
    return jax.vmap(over_channels)(image)


def _name(kind: str, value: float) -> str:
    return f"{kind}_{value:g}"
