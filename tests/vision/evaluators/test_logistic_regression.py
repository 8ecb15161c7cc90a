"""Logistic regression: scikit-learn's minimum, the choice of l2, warm starts, limits."""

import numpy as np
import pytest
import sklearn.linear_model
from threadpoolctl import threadpool_limits

from data.sources import Digits
from training.errors import RunError
from vision.evaluators.logistic_regression import LogisticRegression, _Problem
from vision.evaluators.representation import Split
from vision.evaluators.ridge import accuracies


def digits(split):
    source = Digits(split)
    rows = [source[i] for i in range(len(source))]
    pixels = np.stack([row["image"].ravel() for row in rows]).astype(np.float32)
    return Split(pixels, np.array([row["label"] for row in rows]))


def objective(scores, kernel, labels, l2):
    """Mean cross-entropy and penalty, float64."""
    scores = scores - scores.max(1, keepdims=True)
    log_odds = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    return -log_odds[np.arange(len(labels)), labels].mean() + l2 / 2 * (kernel**2).sum()


@pytest.mark.parametrize("C", [1.0, 0.01])
def test_the_minimum_is_that_of_scikit_learn(C):
    train, test = digits("train"), digits("test")
    l2 = 1 / (C * len(train))
    mean = train.features.mean(0, dtype=np.float64)
    scale = train.features.std(0, dtype=np.float64)
    scale = np.where(scale > 0, scale, 1)
    standard = [(s.features - mean) / scale for s in (train, test)]
    with threadpool_limits(1):  # its small products are slower with more
        theirs = sklearn.linear_model.LogisticRegression(C=C, tol=1e-6, max_iter=5000)
        theirs.fit(standard[0], train.labels)
    ours = LogisticRegression().fit(train, 10, l2)
    reached = objective(
        ours(train.features), ours.kernel * scale[:, None], train.labels, l2
    )
    expected = objective(
        theirs.decision_function(standard[0]), theirs.coef_, train.labels, l2
    )
    np.testing.assert_allclose(reached, expected, rtol=1e-4)
    (accuracy,) = accuracies(test, [ours])
    assert abs(accuracy - theirs.score(standard[1], test.labels)) <= 0.005
    assert accuracy > 0.94


# All of one shape, because compiling is what takes the time.
def blobs(count=150, dim=20, noise=1.0, seed=0):
    centres = np.random.default_rng(99).normal(size=(3, dim))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    features = centres[labels] + noise * rng.normal(size=(count, dim))
    return Split((1e3 * features + 1e4).astype(np.float32), labels)


def test_l2_is_chosen_on_training_examples_alone_and_then_all_are_fitted():
    train, test = blobs(noise=3), blobs(500, noise=3, seed=1)
    head = LogisticRegression(l2=(1e-3, 1.0, 100.0), validation_share=0.3)
    found = head(train, test, 3)
    (accuracy,) = accuracies(test, [head.fit(train, 3, found["l2"])])
    assert found["accuracy"] == pytest.approx(accuracy, abs=0.005)
    other = head(train, Split(test.features, (test.labels + 1) % 3), 3)
    assert other["l2"] == found["l2"] and other["accuracy"] < found["accuracy"]
    assert head(train, test, 3) == found


def test_examples_without_weight_teach_nothing():
    train, weights = blobs(), np.ones(150, np.float32)
    weights[::3] = 0
    labels = np.where(weights > 0, train.labels, 0)
    head, fitted = LogisticRegression(), []
    for split in (train, Split(train.features, labels)):
        problem = _Problem(split, 3, head)
        fitted.append(problem.solve(problem.start(), weights, 0.1)[0]["kernel"])
    np.testing.assert_array_equal(*fitted)
    assert (train.labels != labels).any()


def test_a_fit_ends_when_it_has_converged():
    train = blobs()
    found = LogisticRegression(l2=(0.1,))(train, train, 3)
    assert 2 < found["iterations"] < 100
    cut = LogisticRegression(l2=(0.1,), max_iterations=3)(train, train, 3)
    assert cut["iterations"] == 3
    loose = LogisticRegression(l2=(0.1,), tolerance=1e9)(train, train, 3)
    assert loose["iterations"] == 1
    # No float32 gradient is that small: it ends because nothing improves any more.
    tight = LogisticRegression(l2=(0.1,), tolerance=1e-30)(train, train, 3)
    assert found["iterations"] <= tight["iterations"] < 200


def test_warm_starts_save_iterations():
    """The refit on all examples starts from what validation found."""
    train = blobs()
    cold = LogisticRegression(l2=(1e-4,))(train, train, 3)
    warm = LogisticRegression(l2=(1e-4, 1.1e-4), validation_share=0.01)(train, train, 3)
    assert warm["iterations"] < cold["iterations"]


def test_one_hot_features_are_right_and_constant_ones_are_chance():
    labels = np.array([0, 1, 1, 2, 2] * 30)
    labels[0] = 1
    perfect = Split(np.eye(20, dtype=np.float32)[labels], labels)
    assert LogisticRegression()(perfect, perfect, 3)["accuracy"] == 1
    constant = Split(np.full((150, 20), 0.1, np.float32), labels)
    found = LogisticRegression()(constant, constant, 3)
    assert found["accuracy"] == 61 / 150, "the most frequent class"
    assert found["l2"] == 1, "of equals the largest"


def test_scale_and_origin_of_features_do_not_matter():
    train = blobs()
    powers = 2.0 ** np.arange(-10, 10)  # exact in float32
    scaled = Split((train.features * powers).astype(np.float32), train.labels)
    head = LogisticRegression()
    np.testing.assert_allclose(
        head.fit(scaled, 3, 0.01)(scaled.features),
        head.fit(train, 3, 0.01)(train.features),
        rtol=1e-3,
        atol=1e-3,
    )


def test_one_example_cannot_be_divided():
    one = Split(np.ones((1, 2), np.float32), np.array([0]))
    with pytest.raises(RunError, match="1 of 1 training examples"):
        LogisticRegression()(one, one, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"l2": (-1.0,)}, r"l2 is \(-1.0,\)"),
        ({"validation_share": 2.0}, "validation_share is 2.0"),
        ({"tolerance": 0.0}, "tolerance is 0.0"),
        ({"max_iterations": 0}, "max_iterations 0"),
        ({"chunk": 0}, "chunk is 0"),
    ],
)
def test_bad_fields(arguments, message):
    with pytest.raises(ValueError, match=message):
        LogisticRegression(**arguments)
