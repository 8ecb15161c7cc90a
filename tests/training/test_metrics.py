import jax.numpy as jnp
import numpy as np

from training import metrics
from training.metrics import Mean, accuracy


def test_merge_of_unequal_parts_is_the_mean_of_all():
    values = np.arange(10.0)
    parts = Mean.of(values[:3]).merge(Mean.of(values[3:]))
    assert float(parts.compute()) == values.mean()


def test_masked_values_have_no_influence_even_as_nan():
    mean = Mean.of(jnp.array([1.0, jnp.nan, 3.0]), jnp.array([True, False, True]))
    assert float(mean.compute()) == 2.0


def test_mask_of_examples_covers_their_tokens():
    mean = Mean.of(jnp.ones((3, 4)), jnp.array([1, 0, 1]))
    assert float(mean.count) == 8


def test_nothing_counted_is_zero():
    assert float(Mean.of(jnp.ones(3), jnp.zeros(3)).compute()) == 0.0


def test_accuracy_at_k():
    logits = jnp.array([[0.1, 0.5, 0.4], [0.9, 0.05, 0.05]])
    labels = jnp.array([2, 1])
    assert float(accuracy(logits, labels).compute()) == 0.0
    assert float(accuracy(logits, labels, k=2).compute()) == 0.5
    assert float(accuracy(logits, labels, k=3).compute()) == 1.0


def test_ties_and_nan_do_not_count_as_hits():
    labels = jnp.array([0, 1])
    assert float(accuracy(jnp.zeros((2, 3)), labels).compute()) == 0.0
    assert float(accuracy(jnp.full((2, 3), jnp.nan), labels).compute()) == 0.0


def test_host_sums_are_float64():
    totals = None
    for _ in range(3):
        batch = metrics.on_host({"loss": Mean.of(jnp.array([1e8, 1.0]))})
        totals = metrics.merge(totals, batch)
    assert totals["loss"].total.dtype == np.float64
    assert metrics.compute(totals)["loss"] == totals["loss"].total / 6
