"""Multinomial logistic regression on frozen features: the linear probe, without a schedule.

The objective is convex, so that L-BFGS with a line search finds its one minimum and there
is no learning rate to tune. It runs on the device in one compiled loop (`optax.lbfgs`),
which on an accelerator is far quicker than scikit-learn's, and finds the same minimum.

L-BFGS: D. C. Liu, J. Nocedal, "On the limited memory BFGS method for large scale
optimization", 1989, https://doi.org/10.1007/BF01589116; as a probe: S. Kornblith,
J. Shlens, Q. V. Le, "Do Better ImageNet Models Transfer Better?", 2018,
https://arxiv.org/abs/1805.08974.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vision.evaluators.representation import Split
from vision.evaluators.ridge import (
    Linear,
    accuracies,
    check_choice,
    standard_deviation,
)

_PATIENCE = 10  # steps without progress, as many as L-BFGS remembers


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogisticRegression:
    """A head of `vision.evaluators.representation`: metrics `accuracy`, the chosen `l2`,
    and the `iterations` of the last fit (`max_iterations` where it did not converge).

    The standardised training features lie on the device whole, N * D * 4 bytes.

    Args:
        l2: candidates, the factor of half the squared kernel beside the mean loss: on N
            examples 1 / (N * l2) is what scikit-learn calls C. Of those that validate
            equally well the largest is taken.
        validation_share: of the training examples, to choose l2 by; the final classifier
            is fitted to all of them.
        tolerance: a fit ends where no entry of its gradient is larger.
        max_iterations: or after so many steps; or where float32 can do no better.
        chunk: test examples at a time.
        seed: of the validation part.
    """

    l2: Sequence[float] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    validation_share: float = 0.1
    tolerance: float = 1e-6
    max_iterations: int = 1000
    chunk: int = 4096
    seed: int = 0

    def __post_init__(self):
        check_choice(self.l2, self.validation_share)
        if self.tolerance <= 0 or self.max_iterations < 1:
            raise ValueError(
                f"tolerance is {self.tolerance} and max_iterations "
                f"{self.max_iterations}; both must be positive"
            )
        if self.chunk < 1:
            raise ValueError(f"chunk is {self.chunk}; it must be positive")

    def __call__(self, train: Split, test: Split, num_classes: int) -> dict[str, float]:
        """Raises RunError if there are too few examples to choose by."""
        problem = _Problem(train, num_classes, self)
        everything = np.ones(len(train), np.float32)
        candidates = sorted(self.l2, reverse=True)
        params, chosen = problem.start(), 0
        if len(candidates) > 1:
            _, validation = train.divide(self.validation_share, self.seed)
            weights = everything.copy()
            weights[validation] = 0
            path = []
            for l2 in candidates:  # from the smoothest on, each from the last
                params, _ = problem.solve(params, weights, l2)
                path.append(params)
            found = accuracies(
                train.select(validation), [problem.linear(p) for p in path], self.chunk
            )
            chosen = int(np.argmax(found))
            params = path[chosen]
        params, iterations = problem.solve(params, everything, candidates[chosen])
        (accuracy,) = accuracies(test, [problem.linear(params)], self.chunk)
        return {
            "accuracy": accuracy,
            "l2": candidates[chosen],
            "iterations": int(iterations),
        }

    def fit(self, train: Split, num_classes: int, l2: float) -> Linear:
        """The classifier of one l2 on all examples of a split."""
        problem = _Problem(train, num_classes, self)
        weights = np.ones(len(train), np.float32)
        return problem.linear(problem.solve(problem.start(), weights, l2)[0])


class _Problem:
    """Standardised training features on the device, to be fitted again and again.

    All examples are always there, some perhaps with zero weight: one shape, one
    compilation, one copy.
    """

    def __init__(self, train: Split, num_classes: int, settings: LogisticRegression):
        self._settings, self._num_classes = settings, num_classes
        self._mean, self._scale = _standardisation(train, settings.chunk)
        values = np.empty(train.features.shape, np.float32)
        start = 0
        for features, labels in train.chunks(settings.chunk):
            rows = slice(start, start + len(labels))
            values[rows] = (features - self._mean) / self._scale
            start = rows.stop
        self._features = jnp.asarray(values)
        self._labels = jnp.asarray(train.labels, jnp.int32)

    def start(self) -> dict[str, jax.Array]:
        """All zeros."""
        return {
            "kernel": jnp.zeros((self._features.shape[1], self._num_classes)),
            "bias": jnp.zeros(self._num_classes),
        }

    def solve(self, params: Any, weights: np.ndarray, l2: float) -> tuple[Any, Any]:
        """Parameters at the minimum, found from `params`, and the iterations it took."""
        return _minimise(
            params,
            self._features,
            self._labels,
            weights,
            l2,
            self._settings.tolerance,
            self._settings.max_iterations,
        )

    def linear(self, params: Any) -> Linear:
        """The classifier of features that are not standardised."""
        kernel, bias = (np.asarray(params[k], np.float64) for k in ("kernel", "bias"))
        kernel = kernel / self._scale[:, None]
        return Linear(kernel, bias - self._mean @ kernel)


def _standardisation(split: Split, chunk: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of features, float64 [D] each, in two passes."""
    mean = sum(x.sum(0, dtype=np.float64) for x, _ in split.chunks(chunk)) / len(split)
    squares = sum(((x - mean) ** 2).sum(0) for x, _ in split.chunks(chunk))
    return mean, standard_deviation(mean, squares / len(split))


@jax.jit
def _minimise(
    params: Any,
    features: jax.Array,
    labels: jax.Array,
    weights: jax.Array,
    l2: jax.Array,
    tolerance: jax.Array,
    max_iterations: jax.Array,
) -> tuple[Any, jax.Array]:
    """L-BFGS until no entry of the gradient exceeds `tolerance`, or until the objective
    has not fallen for some steps: float32 cannot tell better parameters any more."""

    def objective(params):
        logits = jnp.matmul(features, params["kernel"], precision="highest")
        losses = optax.softmax_cross_entropy_with_integer_labels(
            logits + params["bias"], labels
        )
        mean = (weights * losses).sum() / weights.sum()
        return mean + l2 / 2 * jnp.square(params["kernel"]).sum()

    optimizer = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(objective)

    def step(carry):
        params, state, i, least, stale, _ = carry
        value, grad = value_and_grad(params, state=state)
        stale = jnp.where(value < least, 0, stale + 1)
        updates, state = optimizer.update(
            grad, state, params, value=value, grad=grad, value_fn=objective
        )
        steepest = optax.tree.norm(optax.tree.get(state, "grad"), ord="inf")
        params = optax.apply_updates(params, updates)
        return params, state, i + 1, jnp.minimum(value, least), stale, steepest

    def unfinished(carry):
        _, _, i, _, stale, steepest = carry
        return (i < max_iterations) & (steepest > tolerance) & (stale < _PATIENCE)

    start = (params, optimizer.init(params), 0, jnp.inf, 0, jnp.inf)
    params, _, i, *_ = jax.lax.while_loop(unfinished, step, start)
    return params, i
