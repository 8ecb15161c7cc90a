"""Nearest neighbours: scikit-learn's predictions, ties, streaming, the choice of k."""

import jax
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from data.sources import Digits
from training.errors import RunError
from vision.evaluators import nearest_neighbors
from vision.evaluators.nearest_neighbors import NearestNeighbors
from vision.evaluators.representation import Split


def digits(split, count):
    source = Digits(split)
    rows = [source[i] for i in range(count)]
    pixels = np.stack([row["image"].ravel() for row in rows]).astype(np.float32)
    return Split(pixels, np.array([row["label"] for row in rows]))


def clusters(count=300, noise=0.3, seed=0):
    """Two far clusters; some labels of the training examples are wrong."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, count)
    features = np.eye(8)[truth] + 0.1 * rng.normal(size=(count, 8))
    labels = np.where(rng.random(count) < noise, 1 - truth, truth)
    return Split(features.astype(np.float32), labels), truth


@pytest.mark.parametrize("chunk", [64, 5000])
@pytest.mark.parametrize("weights", ["similarity", "uniform"])
def test_predictions_are_those_of_scikit_learn(weights, chunk):
    train, test = digits("train", 1000), digits("test", 300)
    votes = {
        "similarity": lambda distance: np.exp((1 - distance) / 0.07),
        "uniform": "uniform",
    }[weights]
    ours = NearestNeighbors(weights=weights, chunk=chunk).predict(
        train, test, 10, [1, 5, 10, 50, 200, 1000]
    )
    for k, predictions in ours.items():
        theirs = KNeighborsClassifier(
            k, metric="cosine", algorithm="brute", weights=votes
        ).fit(train.features.astype(np.float64), train.labels)
        expected = theirs.predict(test.features.astype(np.float64))
        np.testing.assert_array_equal(predictions, expected, err_msg=f"k = {k}")
    assert len({tuple(p) for p in ours.values()}) >= 4, "k must matter here"


def test_temperature_moves_weight_to_the_nearest():
    train = Split(
        np.array([[1, 0], [0.9, 0.5], [0.9, -0.5]], np.float32), np.array([0, 1, 1])
    )
    test = Split(np.array([[1, 0]], np.float32), np.array([0]))
    # cos = 1 against two of 0.9 / sqrt(1.06) = 0.874: exp(-0.126 / t) * 2 < 1 if t < 0.18
    for temperature, expected in ((0.17, 0), (0.19, 1), (1e-4, 0)):
        head = NearestNeighbors(temperature=temperature)
        assert head.predict(train, test, 2, [3])[3] == [expected]


@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
def test_of_equals_the_earlier_training_example_is_nearer(chunk):
    features = np.array([[2, 0], [1, 0], [3, 0], [0, 1]], np.float32)
    test = Split(np.array([[5, 0], [0, 0]], np.float32), np.array([0, 0]))
    for labels in ([0, 1, 2, 0], [2, 1, 0, 0], [1, 2, 0, 0]):
        train = Split(features, np.array(labels))
        found = NearestNeighbors(chunk=chunk).predict(train, test, 3, [1, 3])
        # A row of zeros is equally far from everything.
        np.testing.assert_array_equal(found[1], [labels[0]] * 2)
        # Three equal votes for three classes: the lowest.
        np.testing.assert_array_equal(found[3], [0, 0])


def test_neighbours_do_not_depend_on_scale_or_chunks():
    train, _ = clusters()
    test, _ = clusters(seed=1)
    candidates = [1, 7, 30]
    whole = NearestNeighbors().predict(train, test, 2, candidates)
    for factor, chunk in ((1, 7), (1, 299), (1e30, 64), (1e-30, 300)):
        scaled = Split(train.features * np.float32(factor), train.labels)
        found = NearestNeighbors(chunk=chunk).predict(scaled, test, 2, candidates)
        jax.tree.map(np.testing.assert_array_equal, found, whole)


def test_no_matrix_of_all_pairs(monkeypatch):
    shapes = []

    def merge(best, queries, keys, start, total, original=nearest_neighbors._merge):
        shapes.append((best[0].shape, queries.shape, keys.shape))
        return original(best, queries, keys, start, total)

    monkeypatch.setattr(nearest_neighbors, "_merge", merge)
    train, _ = clusters(100)
    test, _ = clusters(50, seed=1)
    NearestNeighbors(chunk=20).predict(train, test, 2, [1, 5])
    assert len(shapes) == 5 * 3
    assert set(shapes) == {((20, 5), (20, 8), (20, 8))}


def test_k_is_chosen_on_training_examples_alone():
    train, _ = clusters()
    test, truth = clusters(seed=1)
    head = NearestNeighbors(k=(1, 5, 20, 50), validation_share=0.3)
    found = head(train, Split(test.features, truth), 2)
    assert found["k"] >= 5, "the nearest has a wrong label in three of ten cases"
    assert found["accuracy"] > 0.98
    assert NearestNeighbors(k=(1,))(train, Split(test.features, truth), 2) == {
        "k": 1,
        "accuracy": pytest.approx(0.7, abs=0.1),
    }
    # Other test labels: another accuracy, the same choice.
    wrong = head(train, Split(test.features, 1 - truth), 2)
    assert wrong["k"] == found["k"] and wrong["accuracy"] < 0.02
    assert head(train, Split(test.features, truth), 2) == found


def test_the_final_neighbours_come_from_all_training_examples():
    """Every example is its own nearest neighbour only if none is held back."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 32)).astype(np.float32)
    train = Split(features, rng.integers(0, 5, 60))
    found = NearestNeighbors(k=(1, 2), temperature=1e-3)(train, train, 5)
    assert found["accuracy"] == 1


def test_one_hot_features_are_right_and_constant_ones_are_chance():
    labels = np.arange(200) % 4
    perfect = Split(np.eye(4, dtype=np.float32)[labels], labels)
    assert NearestNeighbors()(perfect, perfect, 4)["accuracy"] == 1
    constant = Split(np.ones((200, 3), np.float32), labels)
    assert NearestNeighbors()(constant, constant, 4)["accuracy"] == 0.25


def test_more_neighbours_than_examples():
    train, _ = clusters(30)
    found = NearestNeighbors(k=(3, 29, 30, 500))(train, train, 2)
    assert found["k"] in (3, 29, 30)
    assert NearestNeighbors(k=(30, 31))(train, train, 2)["k"] == 30
    # 29 and 30 both exceed what is left beside the validation part.
    assert NearestNeighbors(k=(29, 30))(train, train, 2)["k"] == 29
    with pytest.raises(RunError, match="k is 31 or more for 30 training examples"):
        NearestNeighbors(k=(31, 200))(train, train, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": ()}, r"k is \(\)"),
        ({"k": (0, 5)}, r"k is \(0, 5\)"),
        ({"weights": "distance"}, "weights is 'distance'"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"validation_share": 1.0}, "validation_share is 1.0"),
        ({"chunk": 0}, "chunk is 0"),
    ],
)
def test_bad_fields(arguments, message):
    with pytest.raises(ValueError, match=message):
        NearestNeighbors(**arguments)
