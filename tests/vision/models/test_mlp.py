"""Perceptron and MLP: exact forward, what depth alone cannot do, XOR, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from layers.activations import sigmoid
from vision.models.mlp import MLP, Perceptron

IMAGE = jnp.asarray(np.random.default_rng(3).normal(size=(5, 4, 3, 2)), jnp.float32)
# Labels of `overfit` alternate: 0, 1, 0, 1.
EXCLUSIVE_OR = jnp.array([[0.0, 0], [0, 1], [1, 1], [1, 0]]).reshape(4, 1, 2, 1)
SECOND_BIT = jnp.array([[0.0, 0], [0, 1], [1, 0], [1, 1]]).reshape(4, 1, 2, 1)


def test_the_perceptron_is_the_sigmoid_of_a_weighted_sum():
    model = Perceptron(num_classes=1)
    image = jnp.array([2.0, -1.0, 0.5]).reshape(1, 1, 3, 1)
    head = {"kernel": jnp.array([[1.0], [3.0], [4.0]]), "bias": jnp.array([0.5])}
    logit = model.apply({"params": {"head": head}}, image)
    # 2 * 1 - 1 * 3 + 0.5 * 4 + 0.5 = 1.5
    np.testing.assert_allclose(sigmoid(logit), [[1 / (1 + np.exp(-1.5))]], rtol=1e-6)


def test_linear_layers_on_top_of_each_other_are_one_linear_layer(random_variables):
    deep = MLP(num_classes=3, hidden_dims=(7, 9, 5), activation="identity")
    params = random_variables(deep, IMAGE)["params"]
    kernel, bias = np.eye(24), np.zeros(24)
    for name in ("dense_0", "dense_1", "dense_2", "head"):
        kernel = kernel @ params[name]["kernel"]
        bias = bias @ params[name]["kernel"] + params[name]["bias"]
    merged = {"head": {"kernel": kernel, "bias": bias}}
    one = Perceptron(num_classes=3).apply({"params": merged}, IMAGE)
    np.testing.assert_allclose(deep.apply({"params": params}, IMAGE), one, atol=1e-5)
    # With an activation between them they are not.
    bent = MLP(num_classes=3, hidden_dims=(7, 9, 5)).apply({"params": params}, IMAGE)
    assert np.abs(bent - one).max() > 0.1


@pytest.mark.parametrize(
    ("fields", "learns"),
    [
        ({"hidden_dims": ()}, False),
        ({"hidden_dims": (16, 16), "activation": "identity"}, False),
        ({"hidden_dims": (16,), "activation": "tanh"}, True),
    ],
    ids=["perceptron", "linear layers", "mlp"],
)
def test_exclusive_or_needs_a_hidden_layer_and_a_non_linearity(fields, learns, overfit):
    model = MLP(num_classes=2, **fields)
    losses = overfit(model, EXCLUSIVE_OR, steps=120, learning_rate=0.05)
    # No line does better on it than not looking: log 2 per example.
    assert losses[-1] < 0.1 if learns else min(losses) > np.log(2) - 1e-5


def test_a_perceptron_learns_what_a_line_separates(overfit):
    model = Perceptron(num_classes=2)
    losses = overfit(model, SECOND_BIT, steps=120, learning_rate=0.1)
    assert losses[-1] < 0.1


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (Perceptron(num_classes=10), 7_850),
        (MLP(num_classes=10, hidden_dims=(300, 100)), 266_610),  # of LeCun et al. 1998
    ],
)
def test_parameter_counts(model, expected, count_parameters):
    assert count_parameters(model, (1, 28, 28, 1)) == expected


def test_logits_are_the_head_of_the_representation(random_variables):
    model = MLP(num_classes=3, hidden_dims=(7, 5))
    variables = random_variables(model, IMAGE)
    vectors = model.apply(variables, IMAGE, method="represent")
    token = model.apply(variables, IMAGE, method="features")
    head = variables["params"]["head"]
    assert vectors.shape == (5, 5)
    np.testing.assert_array_equal(token[:, 0], vectors)
    expected = vectors @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(model.apply(variables, IMAGE), expected, rtol=1e-5)
    headless = MLP(num_classes=0, hidden_dims=(7, 5))
    np.testing.assert_array_equal(headless.apply(variables, IMAGE), vectors)


def test_dropout_only_in_training(assert_dropout_in_training_only):
    assert_dropout_in_training_only(MLP(num_classes=3, dropout_rate=0.5), IMAGE)


def test_half_precision_keeps_float32_parameters(assert_half_precision):
    assert_half_precision(MLP(num_classes=3, dtype="bfloat16"), IMAGE)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"hidden_dims": (4, 0)},
            r"hidden_dims are \(4, 0\); every layer needs a unit",
        ),
        ({"activation": "sine"}, "unknown activation 'sine'"),
    ],
)
def test_errors_name_the_value(fields, message):
    with pytest.raises(ValueError, match=message):
        MLP(num_classes=2, **fields).init(jax.random.key(0), IMAGE)
