import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from training import metrics
from training.metrics import (
    Mean,
    Perplexity,
    Sum,
    accuracy,
    from_plain,
    plain,
    plain_window,
    window_from_plain,
)


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


def test_perplexity_of_the_parts_is_that_of_the_whole():
    losses = np.array([0.5, 1.0, 3.0, 2.0])
    parts = [Perplexity.of(losses[:1]), Perplexity.of(losses[1:])]
    merged = metrics.merge({"p": parts[0]}, {"p": parts[1]})["p"]
    assert isinstance(merged, Perplexity)
    np.testing.assert_allclose(merged.compute(), np.exp(1.625), rtol=1e-6)
    host = metrics.on_host(merged)
    assert isinstance(host, Perplexity)
    np.testing.assert_allclose(host.compute(), np.exp(1.625), rtol=1e-6)
    assert float(Perplexity.of(jnp.ones(2), jnp.zeros(2)).compute()) == 1.0


def test_perplexity_of_a_hopeless_model_is_infinite_everywhere():
    huge = Perplexity(jnp.float32(1e6), jnp.float32(1))
    assert np.isinf(huge.compute()) and np.isinf(metrics.on_host(huge).compute())


def test_a_sum_merges_its_parts_one_by_one():
    tokens, rows = np.array([1.0, 2.0, 6.0]), np.array([4.0, 8.0])
    weights = (1.0, 0.5)
    first = Sum((Mean.of(tokens[:1]), Mean.of(rows[:1])), weights)
    second = Sum((Mean.of(tokens[1:]), Mean.of(rows[1:])), weights)
    merged = first.merge(second)
    np.testing.assert_allclose(merged.compute(), 3 + 0.5 * 6)
    assert merged.count == 3 and merged.total == 18
    # What accumulation does: metrics as leaves, stacked and added.
    stacked = jax.tree.map(lambda *x: jnp.stack(x).sum(0), first, second)
    np.testing.assert_allclose(stacked.compute(), 6)
    assert metrics.on_host(stacked).parts[0].total.dtype == np.float64


def test_a_part_of_a_sum_that_counts_nothing_adds_nothing():
    empty = Mean.of(jnp.full(2, jnp.nan), jnp.zeros(2))
    assert float(Sum((Mean.of(jnp.ones(3)), empty), (1.0, 50.0)).compute()) == 1.0


def test_metrics_survive_json_with_their_kind():
    mean = Mean(np.float64(3.25), np.float64(4))
    metrics = (mean, Perplexity(mean.total, mean.count), Sum((mean, mean), (1.0, 0.1)))
    for metric in metrics:
        kept = from_plain(*json.loads(json.dumps(plain(metric))))
        assert type(kept) is type(metric) and kept.compute() == metric.compute()
        merged = kept.merge(metric)
        assert float(merged.count) == 2 * float(metric.count)


def test_metrics_of_an_unknown_kind_are_named():
    with pytest.raises(ValueError, match=r"unknown kind of metric 3\.25"):
        window_from_plain({"loss": [3.25, 4.0]})  # saved without its kind
    assert window_from_plain(plain_window(None)) is None
