"""Ridge regression: scikit-learn's solution, sums that add up, streaming, the choice."""

import numpy as np
import pytest
import sklearn.linear_model
from sklearn.preprocessing import StandardScaler

from training.errors import RunError
from vision.evaluators.representation import Split
from vision.evaluators.ridge import Linear, Moments, Ridge, accuracies


def example(count=200, dim=12, num_classes=4, noise=1.0, seed=0):
    """Gaussian classes whose features have very different means and spreads."""
    centres = np.random.default_rng(99).normal(size=(num_classes, dim))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, count)
    features = centres[labels] + noise * rng.normal(size=(count, dim))
    features = features * np.logspace(-3, 3, dim) + np.linspace(-50, 50, dim)
    return Split(features.astype(np.float32), labels)


@pytest.mark.parametrize("l2", [1e-6, 0.1, 30.0])
def test_the_solution_is_that_of_scikit_learn(l2):
    train, test = example(), example(seed=1)
    scaler = StandardScaler().fit(train.features.astype(np.float64))
    theirs = sklearn.linear_model.Ridge(alpha=l2 * len(train)).fit(
        scaler.transform(train.features.astype(np.float64)), np.eye(4)[train.labels]
    )
    expected = theirs.predict(scaler.transform(test.features.astype(np.float64)))
    ours = Moments.of(train, 4).solve(l2)(test.features)
    np.testing.assert_allclose(ours, expected, rtol=1e-7, atol=1e-8)


def test_moments_of_parts_add_up_whatever_the_chunks():
    train = example()
    whole = Moments.of(train, 4)
    first, second = np.split(np.random.default_rng(0).permutation(200), [70])
    part = Moments.of(train.select(first), 4, chunk=9)
    both = part + Moments.of(train.select(second), 4, chunk=1, origin=part.origin)
    np.testing.assert_array_equal(both.counts, np.bincount(train.labels))
    np.testing.assert_allclose(both.solve(0.1).kernel, whole.solve(0.1).kernel, 1e-7)
    np.testing.assert_allclose(both.solve(0.1).bias, whole.solve(0.1).bias, 1e-7)
    with pytest.raises(ValueError, match="different origins"):
        part + Moments.of(train.select(second), 4)


def test_a_far_origin_loses_nothing():
    """Features far from zero, as far as float32 can tell them apart at all."""
    rng = np.random.default_rng(0)
    near = rng.integers(-8, 9, (100, 5)).astype(np.float32)
    labels = (near[:, 0] > near[:, 1]).astype(int)
    far = near + np.float32(2**20)
    np.testing.assert_allclose(
        Moments.of(Split(far, labels), 2).solve(0.01)(far),
        Moments.of(Split(near, labels), 2).solve(0.01)(near),
        rtol=1e-6,
        atol=1e-6,
    )


class Disk:
    """An array that refuses to be read whole, as a memory map larger than memory."""

    def __init__(self, array, most):
        self.array, self.most, self.shape = array, most, array.shape

    def __getitem__(self, index):
        found = self.array[index]
        assert len(found) <= self.most
        return found


def test_features_are_streamed_in_chunks():
    train, test = example(), example(seed=1)
    lazy = [Split(Disk(s.features, 16), s.labels) for s in (train, test)]
    found = Ridge(chunk=16)(*lazy, 4)
    assert found == Ridge()(train, test, 4)


def test_constant_features_have_no_influence():
    train, test = example(), example(seed=1)

    def widened(split, values):
        extra = np.broadcast_to(np.float32(values), (len(split), 3))
        return Split(np.concatenate([split.features, extra], 1), split.labels)

    classifier = Moments.of(widened(train, [0, 1e-3, 1e6]), 4).solve(1e-6)
    np.testing.assert_allclose(
        classifier(widened(test, [7, -5, 0]).features),
        Moments.of(train, 4).solve(1e-6)(test.features),
        rtol=1e-9,
        atol=1e-9,
    )


def test_one_hot_features_are_right_and_constant_ones_are_chance():
    labels = np.array([0, 1, 1, 2, 3] * 20)
    perfect = Split(np.eye(4, dtype=np.float32)[labels], labels)
    assert Ridge()(perfect, perfect, 4)["accuracy"] == 1
    constant = Split(np.full((100, 3), 0.1, np.float32), labels)
    found = Ridge()(constant, constant, 4)
    assert found["accuracy"] == 0.4, "the most frequent class"
    assert found["l2"] == 10, "of equals the largest"


def test_l2_is_chosen_on_training_examples_alone_and_then_all_are_fitted():
    train, test = example(60, dim=40, noise=2), example(500, dim=40, noise=2, seed=1)
    head = Ridge(validation_share=0.3)
    found = head(train, test, 4)
    single = Ridge(l2=(found["l2"],))(train, test, 4)
    assert found == single, "the final fit is that of its l2 on all examples"
    fit, rest = train.divide(0.3, 0)
    scores = {
        l2: accuracies(
            train.select(rest), [Moments.of(train.select(fit), 4).solve(l2)]
        )[0]
        for l2 in head.l2
    }
    best = max(scores.values())
    assert found["l2"] == max(l2 for l2, score in scores.items() if score == best)
    assert len(set(scores.values())) > 1
    other = head(train, Split(test.features, (test.labels + 1) % 4), 4)
    assert other["l2"] == found["l2"] and other["accuracy"] < found["accuracy"]


def test_accuracies_by_hand():
    split = Split(np.array([[1, 0], [0, 1], [0, 0]], np.float32), np.array([0, 1, 1]))
    same, swapped = np.eye(2), np.eye(2)[::-1]
    classifiers = [Linear(kernel, np.zeros(2)) for kernel in (same, swapped)]
    # The last row is a tie, which goes to class 0 and is wrong.
    np.testing.assert_allclose(accuracies(split, classifiers, chunk=2), [2 / 3, 0])


def test_a_class_of_the_test_split_alone_is_never_guessed():
    train = example(num_classes=3)
    found = Ridge()(train, Split(train.features, np.full(200, 3)), 4)
    assert found["accuracy"] == 0


def test_one_example_cannot_be_divided():
    one = Split(np.ones((1, 2), np.float32), np.array([0]))
    with pytest.raises(RunError, match="1 of 1 training examples"):
        Ridge()(one, one, 1)
    assert Ridge(l2=(1.0,))(one, one, 1) == {"accuracy": 1, "l2": 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"l2": ()}, r"l2 is \(\)"),
        ({"l2": (0.0, 1.0)}, r"l2 is \(0.0, 1.0\)"),
        ({"validation_share": 0.0}, "validation_share is 0.0"),
        ({"chunk": 0}, "chunk is 0"),
    ],
)
def test_bad_fields(arguments, message):
    with pytest.raises(ValueError, match=message):
        Ridge(**arguments)
