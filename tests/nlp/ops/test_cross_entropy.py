"""Cross-entropy over a vocabulary: by hand, smoothed, in half precision, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nlp.ops.cross_entropy import cross_entropy, smoothed_cross_entropy

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(2, 3, 7)).astype(np.float32) * 3
LABELS = RNG.integers(1, 7, (2, 3)).astype(np.int32)
LOG_ODDS = LOGITS - np.log(np.exp(LOGITS).sum(-1, keepdims=True))


def test_by_hand():
    own = np.take_along_axis(LOG_ODDS, LABELS[..., None], -1)[..., 0]
    np.testing.assert_allclose(cross_entropy(LOGITS, LABELS), -own, rtol=1e-5)
    constant = cross_entropy(jnp.full((4, 7), 90.0), jnp.arange(4))
    np.testing.assert_allclose(constant, np.log(7), rtol=1e-4)


def test_the_gradient_is_the_distance_to_the_truth():
    gradient = jax.grad(lambda x: cross_entropy(x, LABELS).sum())(LOGITS)
    np.testing.assert_allclose(
        gradient, np.exp(LOG_ODDS) - np.eye(7)[LABELS], atol=1e-6
    )


@pytest.mark.parametrize("pad_id", [0, 3])
def test_smoothing_spreads_evenly_but_not_on_padding(pad_id):
    labels = np.where(LABELS == pad_id, 5, LABELS)
    target = 0.9 * np.eye(7)[labels] + 0.1 / 6 * (np.arange(7) != pad_id)
    np.testing.assert_allclose(target.sum(-1), 1)
    found = smoothed_cross_entropy(LOGITS, labels, 0.1, pad_id)
    np.testing.assert_allclose(found, -(target * LOG_ODDS).sum(-1), rtol=1e-5)
    plain = smoothed_cross_entropy(LOGITS, labels, 0.0, pad_id)
    np.testing.assert_array_equal(plain, cross_entropy(LOGITS, labels))


def test_a_model_that_rules_padding_out_has_a_finite_smoothed_loss():
    logits = jnp.asarray(LOGITS).at[..., 0].set(-jnp.inf)
    loss, gradient = jax.value_and_grad(
        lambda x: smoothed_cross_entropy(x, LABELS, 0.1, 0).sum()
    )(logits)
    assert np.isfinite(loss) and np.isfinite(gradient).all()


def test_the_smoothed_gradient_is_that_of_the_definition():
    """Of half a batch smoothed and half not, weighted: softmax minus the target."""
    labels, weights = LABELS, RNG.normal(size=(2, 3)).astype(np.float32)
    smoothing = np.array([[0.3], [0.0]], np.float32)
    target = (1 - smoothing[..., None]) * np.eye(7)[labels]
    target = target + smoothing[..., None] / 6 * (np.arange(7) != 0)
    gradient = jax.jit(
        jax.grad(
            lambda x: (smoothed_cross_entropy(x, labels, smoothing, 0) * weights).sum()
        )
    )
    expected = (np.exp(LOG_ODDS) - target) * weights[..., None]
    np.testing.assert_allclose(gradient(LOGITS), expected, atol=1e-6)
    half = gradient(jnp.asarray(LOGITS, jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(np.float32), expected, atol=0.05)


def test_half_precision_is_summed_in_single():
    half = jnp.asarray(LOGITS, jnp.bfloat16)
    found = cross_entropy(half, LABELS)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(
        found, cross_entropy(half.astype(jnp.float32), LABELS)
    )
