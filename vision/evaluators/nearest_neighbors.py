"""Weighted nearest neighbours by cosine similarity, exact, for sets of any size.

Paper: Z. Wu, Y. Xiong, S. X. Yu, D. Lin, "Unsupervised Feature Learning via Non-Parametric
Instance Discrimination", 2018, https://arxiv.org/abs/1805.01978: each of the k most similar
training examples votes for its class with weight exp(similarity / temperature).

Deviation: k is chosen on a part of the training examples; the paper has 200.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from training.errors import RunError
from vision.evaluators.representation import Split


@dataclasses.dataclass(frozen=True, kw_only=True)
class NearestNeighbors:
    """A head of `vision.evaluators.representation`: metrics `accuracy` and the chosen `k`.

    Of equally similar training examples the earlier is nearer; of classes with equal votes
    the lower wins; of k that validate equally well the smaller.

    Args:
        k: candidates; those beyond the number of training examples are dropped.
        weights: 'similarity', the paper's, or 'uniform', one vote each.
        temperature: of 'similarity'.
        validation_share: of the training examples, to choose k by; the final neighbours
            come from all of them.
        chunk: examples of each side on the device at a time.
        seed: of the validation part.
    """

    k: Sequence[int] = (1, 5, 10, 20, 50, 100, 200)
    weights: str = "similarity"
    temperature: float = 0.07
    validation_share: float = 0.1
    chunk: int = 4096
    seed: int = 0

    def __post_init__(self):
        if not self.k or min(self.k) < 1:
            raise ValueError(f"k is {self.k}; give positive candidates")
        if self.weights not in ("similarity", "uniform"):
            raise ValueError(
                f"weights is {self.weights!r}; known: 'similarity', 'uniform'"
            )
        if self.temperature <= 0:
            raise ValueError(f"temperature is {self.temperature}; it must be positive")
        if not 0 < self.validation_share < 1:
            raise ValueError(
                f"validation_share is {self.validation_share}; it must lie in (0, 1)"
            )
        if self.chunk < 1:
            raise ValueError(f"chunk is {self.chunk}; it must be positive")

    def __call__(self, train: Split, test: Split, num_classes: int) -> dict[str, float]:
        """Raises RunError if every candidate exceeds the training examples."""
        candidates = sorted({k for k in self.k if k <= len(train)})
        if not candidates:
            raise RunError(
                f"k is {min(self.k)} or more for {len(train)} training examples; add a "
                f"candidate of at most {len(train)}"
            )
        k = candidates[0]
        if len(candidates) > 1:
            k = self._choose(candidates, train, num_classes)
        predictions = self.predict(train, test, num_classes, [k])[k]
        return {"accuracy": float((predictions == test.labels).mean()), "k": k}

    def _choose(self, candidates: list[int], train: Split, num_classes: int) -> int:
        fit, validation = train.divide(self.validation_share, self.seed)
        possible = [k for k in candidates if k <= len(fit)] or candidates[:1]
        known, asked = train.select(fit), train.select(validation)
        found = self.predict(known, asked, num_classes, possible)
        return max(possible, key=lambda k: (found[k] == asked.labels).mean())

    def predict(
        self, train: Split, test: Split, num_classes: int, candidates: Sequence[int]
    ) -> dict[int, np.ndarray]:
        """Classes of the test examples, int [M], for every k of `candidates`, each at most
        the number of training examples."""
        parts = {k: [] for k in candidates}
        for similarity, index in _neighbors(train, test, max(candidates), self.chunk):
            labels = train.labels[index]
            for k in candidates:
                votes = self._votes(similarity[:, :k], labels[:, :k], num_classes)
                parts[k].append(votes.argmax(1))
        return {k: np.concatenate(part) for k, part in parts.items()}

    def _votes(
        self, similarity: np.ndarray, labels: np.ndarray, num_classes: int
    ) -> np.ndarray:
        """float64 [n, K] of neighbours [n, k], the nearest first."""
        weight = np.ones(similarity.shape)
        if self.weights == "similarity":
            # Relative to the nearest: a small temperature cannot underflow every vote.
            similarity = similarity.astype(np.float64)
            weight = np.exp((similarity - similarity[:, :1]) / self.temperature)
        cells = np.arange(len(labels))[:, None] * num_classes + labels
        votes = np.bincount(
            cells.ravel(), weight.ravel(), minlength=len(labels) * num_classes
        )
        return votes.reshape(len(labels), num_classes)


def _neighbors(
    train: Split, test: Split, k: int, chunk: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The k most similar training examples, the nearest first, of `chunk` test examples
    after the other: similarity float32 [n, k], index int [n, k].

    Training examples stream by once, and past each chunk of them all test examples; what
    stays on the device is the best k so far, never a matrix of all pairs.
    """
    sizes = [len(labels) for _, labels in test.chunks(chunk)]
    rows = min(chunk, len(test))
    best = [
        (jnp.full((rows, k), -jnp.inf), jnp.zeros((rows, k), jnp.int32)) for _ in sizes
    ]
    width = min(chunk, len(train))
    for start, (keys, _) in zip(
        range(0, len(train), width), train.chunks(width), strict=True
    ):
        keys = _unit(_padded(keys, width))
        for i, (queries, _) in enumerate(test.chunks(chunk)):
            best[i] = _merge(
                best[i], _unit(_padded(queries, rows)), keys, start, len(train)
            )
        jax.block_until_ready(best)  # or copies of all chunks would queue up
    for size, found in zip(sizes, best, strict=True):
        similarity, index = jax.device_get(found)
        yield similarity[:size], index[:size]


def _padded(values: np.ndarray, rows: int) -> np.ndarray:
    """With rows of zeros at the end: one shape, one compilation."""
    return np.pad(values, ((0, rows - len(values)), (0, 0)))


@jax.jit
def _unit(values: jax.Array) -> jax.Array:
    """Rows of length 1, float32 [n, D]; zeros stay zeros."""
    largest = jnp.abs(values).max(1, keepdims=True)
    values = values / jnp.where(largest > 0, largest, 1)  # squares stay finite
    norm = jnp.linalg.norm(values, axis=1, keepdims=True)
    return values / jnp.where(norm > 0, norm, 1)


@jax.jit
def _merge(
    best: tuple[jax.Array, jax.Array],
    queries: jax.Array,
    keys: jax.Array,
    start: jax.Array,
    total: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """The best k of those so far and of the training examples start, start + 1, ... (no
    example from `total` on). `top_k` prefers the first of equals, which is the earlier."""
    similarity = jnp.einsum("MD,ND->MN", queries, keys, precision="highest")
    index = start + jnp.arange(len(keys), dtype=jnp.int32)
    similarity = jnp.where(index < total, similarity, -jnp.inf)
    index = jnp.broadcast_to(index, similarity.shape)
    values = jnp.concatenate([best[0], similarity], axis=1)
    values, place = jax.lax.top_k(values, best[0].shape[1])
    index = jnp.concatenate([best[1], index], axis=1)
    return values, jnp.take_along_axis(index, place, axis=1)
