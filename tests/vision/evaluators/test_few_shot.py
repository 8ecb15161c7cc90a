"""Few shots: how examples are drawn, the mean and spread over draws, too many shots."""

import numpy as np
import pytest

from training.errors import RunError
from vision.evaluators.few_shot import FewShot, draw
from vision.evaluators.representation import Split
from vision.evaluators.ridge import Moments, accuracies


def example(count=200, noise=1.5, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, count)
    features = np.eye(4, 10)[labels] + noise * rng.normal(size=(count, 10))
    return Split(features.astype(np.float32), labels)


def test_a_draw_has_n_of_each_class_and_depends_on_the_seed_alone():
    labels = example().labels
    rows = draw(labels, 7, 3)
    np.testing.assert_array_equal(np.bincount(labels[rows]), [7] * 4)
    assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(draw(labels, 7, 3), rows)
    assert not np.array_equal(draw(labels, 7, 4), rows)
    assert set(draw(labels, 5, 3)) < set(rows), "more shots add to the fewer"


def test_every_example_of_a_class_can_be_drawn():
    labels = np.arange(12) % 3
    seen = {row for seed in range(60) for row in draw(labels, 1, seed)}
    assert seen == set(range(12))


def test_mean_and_spread_by_hand():
    train, test = example(), example(seed=1)
    found = FewShot(shots=(2, 10), seeds=3, l2=0.5)(train, test, 4)
    assert list(found) == ["2", "2_std", "10", "10_std"]
    for n in (2, 10):
        values = []
        for seed in range(3):
            few = train.select(draw(train.labels, n, seed))
            values += accuracies(test, [Moments.of(few, 4).solve(0.5)])
        assert found[f"{n}"] == pytest.approx(np.mean(values))
        assert found[f"{n}_std"] == pytest.approx(np.std(values))
    assert found["2_std"] > 0 and found["10"] > found["2"]


def test_one_hot_features_are_right_and_constant_ones_are_chance():
    labels = np.array([0, 1, 2, 3] * 10)
    perfect = Split(np.eye(4, dtype=np.float32)[labels], labels)
    head = FewShot(shots=(1, 5), seeds=2)
    found = head(perfect, perfect, 4)
    assert found == {"1": 1, "1_std": 0, "5": 1, "5_std": 0}
    constant = Split(np.full((40, 3), 0.1, np.float32), labels)
    found = head(constant, constant, 4)
    assert found == {"1": 0.25, "1_std": 0, "5": 0.25, "5_std": 0}


def test_all_examples_are_the_most_that_can_be_drawn():
    train = Split(
        np.eye(2, dtype=np.float32)[[0, 1, 0, 1, 1]], np.array([0, 1, 0, 1, 1])
    )
    assert FewShot(shots=(2,), seeds=1)(train, train, 2)["2"] == 1
    with pytest.raises(RunError, match="3 shots, but class 0 has 2 training") as error:
        FewShot(shots=(1, 3), seeds=1)(train, train, 2)
    assert "shots of at most 2" in str(error.value) and "\n" not in str(error.value)


def test_a_class_of_the_test_split_needs_training_examples():
    train = Split(np.ones((4, 2), np.float32), np.array([0, 0, 5, 5]))
    test = Split(np.ones((1, 2), np.float32), np.array([3]))
    # Classes that neither split has are none: 1, 2 and 4 are not complained of.
    with pytest.raises(RunError, match="class 3 has 0 training examples"):
        FewShot(shots=(1,))(train, test, 6)
    assert FewShot(shots=(1,), seeds=1)(train, train, 6)["1"] == 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shots": ()}, r"shots is \(\)"),
        ({"shots": (0, 1)}, r"shots is \(0, 1\)"),
        ({"seeds": 0}, "seeds is 0"),
        ({"l2": 0.0}, "l2 is 0.0"),
        ({"chunk": 0}, "chunk is 0"),
    ],
)
def test_bad_fields(arguments, message):
    with pytest.raises(ValueError, match=message):
        FewShot(**arguments)
