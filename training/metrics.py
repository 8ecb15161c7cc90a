"""Metrics that add up: each carries (total, count), so that padded batches, unequal token
counts, accumulated micro-batches and hosts combine exactly by addition."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mean:
    """A weighted mean, kept as its numerator and denominator.

    Args:
        total: float32 []; sum of weighted values.
        count: float32 []; sum of weights.
    """

    total: Any
    count: Any

    @classmethod
    def of(cls, values: jax.Array, mask: jax.Array | None = None) -> "Mean":
        """The mean of `values` where `mask` holds.

        Args:
            values: [...] of any real dtype; summed in float32.
            mask: bool or weights, of the leading shape of `values`; None counts all. A
                value under a zero weight has no influence, even if it is NaN.
        """
        values = jnp.asarray(values, jnp.float32)
        if mask is None:
            return cls(values.sum(), jnp.float32(values.size))
        weights = jnp.asarray(mask, jnp.float32)
        weights = weights.reshape(weights.shape + (1,) * (values.ndim - weights.ndim))
        weights = jnp.broadcast_to(weights, values.shape)
        return cls(jnp.where(weights != 0, values * weights, 0).sum(), weights.sum())

    def merge(self, other: "Mean") -> "Mean":
        """The mean over both sets of values."""
        return type(self)(self.total + other.total, self.count + other.count)

    def compute(self) -> Any:
        """total / count, float32 []; 0 where nothing was counted, never NaN by 0/0."""
        if isinstance(self.total, np.ndarray | np.generic | float):
            return self.total / self.count if self.count else self.total * 0
        return jnp.where(self.count == 0, 0.0, self.total / jnp.maximum(self.count, 1))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Perplexity(Mean):
    """exp of a mean loss in nats: merged before the exponential, so that the parts of a
    text give the perplexity of the whole."""

    def compute(self) -> Any:
        """exp(total / count), float32 []; 1 where nothing was counted."""
        mean = super().compute()
        if isinstance(mean, np.ndarray | np.generic | float):
            with np.errstate(over="ignore"):  # infinite, as on the device
                return np.exp(mean)
        return jnp.exp(mean)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sum:
    """A weighted sum of means over different things (tokens and sentences, say), which no
    single mean is: the parts merge one by one.

    Args:
        parts: `Mean`s; the first gives `count`, by which accumulation weighs micro-batches.
        weights: one float per part; not traced.
    """

    parts: tuple[Mean, ...]
    weights: tuple[float, ...] = dataclasses.field(metadata=dict(static=True))

    @property
    def count(self) -> Any:
        """float32 []; what the first part counts."""
        return self.parts[0].count

    @property
    def total(self) -> Any:
        """float32 []; `compute()` times `count`."""
        return self.compute() * self.count

    def merge(self, other: "Sum") -> "Sum":
        """The sum of the merged parts."""
        pairs = zip(self.parts, other.parts, strict=True)
        return Sum(tuple(a.merge(b) for a, b in pairs), self.weights)

    def compute(self) -> Any:
        """float32 []; a part that counted nothing adds 0."""
        pairs = zip(self.weights, self.parts, strict=True)
        return sum(weight * part.compute() for weight, part in pairs)


def accuracy(
    logits: jax.Array, labels: jax.Array, mask: jax.Array | None = None, k: int = 1
) -> Mean:
    """Share of examples whose label is among the k highest logits.

    A tie counts against the label, so that constant logits score 0 and not 1.

    Args:
        logits: float [..., K].
        labels: int32 [...], in [0, K).
        mask: bool or weights [...].
        k: how many guesses count.
    """
    logits = jnp.asarray(logits, jnp.float32)
    own = jnp.take_along_axis(logits, labels[..., None], axis=-1)
    rivals = (logits >= own).sum(-1) - 1
    # NaN compares false with everything and must not look like a perfect rank.
    return Mean.of((rivals < k) & jnp.isfinite(own[..., 0]), mask)


def plain(metric: Any) -> list:
    """A metric of host numbers as lists, names and floats, which survive JSON."""
    if isinstance(metric, Sum):
        return ["Sum", [plain(part) for part in metric.parts], list(metric.weights)]
    return [type(metric).__name__, float(metric.total), float(metric.count)]


def from_plain(kind: str, *values: Any) -> Any:
    """Undoes `plain`: `from_plain(*plain(metric))`."""
    if kind == "Sum":
        parts, weights = values
        return Sum(tuple(from_plain(*part) for part in parts), tuple(weights))
    kinds = {cls.__name__: cls for cls in (Mean, Perplexity)}
    if kind not in kinds:
        raise ValueError(
            f"unknown kind of metric {kind!r}; known: Sum, {', '.join(kinds)}"
        )
    return kinds[kind](*map(np.float64, values))


def plain_window(metrics: Mapping[str, Any] | None) -> dict[str, list]:
    """`plain` of metrics by name; None stands for nothing yet."""
    return {name: plain(metric) for name, metric in (metrics or {}).items()}


def window_from_plain(window: Mapping[str, list] | None) -> dict[str, Any] | None:
    """Undoes `plain_window`.

    Raises:
        ValueError: they are of no known kind.
    """
    return {
        name: from_plain(*values) for name, values in (window or {}).items()
    } or None


def merge(a: Mapping[str, Any] | None, b: Mapping[str, Any]) -> dict[str, Any]:
    """Merges two dicts of metrics by name; None stands for nothing yet."""
    if a is None:
        return dict(b)
    if a.keys() != b.keys():
        raise ValueError(f"metrics changed from {sorted(a)} to {sorted(b)}")
    return {name: a[name].merge(b[name]) for name in a}


def compute(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The value of each metric as a Python float."""
    return {name: float(metric.compute()) for name, metric in metrics.items()}


def on_host(metrics: Any) -> Any:
    """Metrics of device scalars (a dict of them, or a list of dicts) as metrics of
    float64, so that long sums stay exact.

    Waits for the device.
    """
    return jax.tree.map(np.float64, jax.device_get(metrics))
