"""Representations of real runs: once extracted, the same on disk and on any devices."""

import dataclasses

import jax
import numpy as np
import pytest
from test_configs import load

from data.pipeline import Pipeline
from data.sources import Arrays
from training import config as configs
from training.errors import RunError
from training.run import Run
from vision.evaluators import representation
from vision.evaluators.representation import Representation, Split

HEADS = {
    "knn": {"type": "vision.evaluators.nearest_neighbors.NearestNeighbors"},
    "ridge": {"type": "vision.evaluators.ridge.Ridge"},
    "logistic": {
        "type": "vision.evaluators.logistic_regression.LogisticRegression",
        "l2": (1e-3, 1e-1),
    },
    "few_shot": {
        "type": "vision.evaluators.few_shot.FewShot",
        "shots": (5, 10),
        "seeds": 2,
    },
}


def node(**changes):
    def digits(split):
        return {
            "type": "data.pipeline.Pipeline",
            "source": {"type": "data.sources.Digits", "split": split},
            "num_threads": 0,
        }

    return {
        "type": "vision.evaluators.representation.Representation",
        "train": digits("train"),
        "test": digits("test"),
        "heads": HEADS,
    } | changes


def config(name="lenet_digits", **changes):
    return {**load(name), "evals": {"probe": node(**changes)}}


@pytest.fixture(scope="module")
def lenet():
    """A run and its first state, compiled once for all tests."""
    run = Run.from_config(config())
    return run, run.init()


@pytest.fixture(scope="module")
def vit():
    small = config("vit_digits")
    small["task"]["model"] |= {"num_layers": 1, "embed_dim": 16, "mlp_dim": 16}
    run = Run.from_config(small)
    return run, run.init()


def evaluator(**changes):
    return configs.build(node(**changes))


@pytest.fixture(scope="module")
def plain(lenet):
    run, state = lenet
    return run.experiment.evals["probe"](run, state).metrics


def test_metrics_are_named_by_head_and_far_above_chance(plain):
    assert list(plain) == [
        *("knn_accuracy", "knn_k", "ridge_accuracy", "ridge_l2"),
        *("logistic_accuracy", "logistic_l2", "logistic_iterations"),
        *("few_shot_5", "few_shot_5_std", "few_shot_10", "few_shot_10_std"),
    ]
    assert all(type(value) is float for value in plain.values())
    # Random convolutions keep digits apart; a tenth would be chance.
    for name in ("knn_accuracy", "ridge_accuracy", "logistic_accuracy"):
        assert 0.85 < plain[name] < 1, name
    assert 0.5 < plain["few_shot_5"] < plain["few_shot_10"] < plain["ridge_accuracy"]


def test_repeated_spilled_and_otherwise_batched_it_is_the_same(
    lenet, plain, tmp_path, monkeypatch
):
    kinds, check = [], representation._check_finite

    def spy(values, name):
        kinds.append(type(values))
        check(values, name)

    monkeypatch.setattr(representation, "_check_finite", spy)
    folder = tmp_path / "new" / "folder"
    spilled = evaluator(spill=str(folder))(*lenet)
    assert spilled.metrics == plain and spilled.skipped == 0
    assert kinds == [np.memmap, np.memmap]
    assert folder.is_dir() and not list(folder.iterdir())
    quick = {name: HEADS[name] for name in ("knn", "ridge")}
    again = evaluator(batch_size=200, heads=quick)(*lenet).metrics
    assert len(again) == 4
    for name, value in again.items():
        assert value == pytest.approx(plain[name], abs=0.003), name


def test_one_device_finds_what_eight_find(plain):
    assert jax.device_count() == 8
    run = Run.from_config(config(), jax.devices()[:1])
    one = run.experiment.evals["probe"](run, run.init()).metrics
    for name in plain:
        if name.endswith(("accuracy", "_5", "_10")):
            assert one[name] == pytest.approx(plain[name], abs=0.003), name


def test_features_are_extracted_once_for_all_heads(lenet, monkeypatch):
    calls, original = [], representation.extract

    def extract(run, state, data, **kwargs):
        calls.append(data)
        return original(run, state, data, **kwargs)

    monkeypatch.setattr(representation, "extract", extract)
    seen = []
    heads = {name: lambda *a: seen.append(a) or {"x": 1} for name in ("a", "b", "c")}
    probe = dataclasses.replace(evaluator(), heads=heads)
    assert probe(*lenet).metrics == {"a_x": 1, "b_x": 1, "c_x": 1}
    assert calls == [probe.train, probe.test]
    assert all(one[0] is seen[0][0] and one[1] is seen[0][1] for one in seen)
    train, test, num_classes = seen[0]
    assert (len(train), len(test), num_classes) == (1442, 355, 10)
    assert train.features.shape == (1442, 84) and train.labels.dtype.kind == "i"


@pytest.mark.parametrize(
    ("name", "layer", "dim"), [("lenet", "conv_1", 32), ("vit", "encoder/block_0", 16)]
)
def test_a_layer_is_averaged_over_places(name, layer, dim, request, tmp_path):
    run, state = request.getfixturevalue(name)
    seen = []

    def head(train, test, num_classes):
        seen.append(np.array(test.features))
        return {}

    for folder in (None, str(tmp_path)):
        probe = evaluator(layer=layer, spill=folder, train_limit=20)
        dataclasses.replace(probe, heads={"a": head})(run, state)
    image = np.stack([probe.test.source[i]["image"] for i in range(20)])
    raw = run.experiment.task.represent(
        state.eval_params, state.collections, {"image": image}, layer=layer
    )
    assert raw.ndim > 2 and seen[0].shape == (355, dim)
    expected = np.asarray(raw).reshape(20, -1, dim).mean(1)
    np.testing.assert_allclose(seen[0][:20], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(seen[1], seen[0])
    assert not list(tmp_path.iterdir())


def test_train_limit(lenet):
    sizes = lambda train, test, num_classes: {"a": len(train), "b": len(test)}
    probe = evaluator(train_limit=100)
    report = dataclasses.replace(probe, heads={"n": sizes})(*lenet)
    assert report.metrics == {"n_a": 100, "n_b": 355} and report.skipped == 0


@dataclasses.dataclass(frozen=True)
class Broken:
    """A source some of whose examples cannot be read."""

    bad: frozenset
    length: int = 40

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if index in self.bad:
            raise ValueError("torn")
        return {
            "image": np.full((8, 8, 1), 6 * index, np.uint8),
            "label": np.int32(index % 2),
        }


def test_unreadable_examples_are_counted_and_left_out(lenet):
    seen = []
    head = lambda train, test, num_classes: seen.append((train, test)) or {}
    torn = Pipeline(source=Broken(frozenset({3, 17})), on_error="skip")
    whole = Pipeline(source=Broken(frozenset()))
    report = Representation(train=torn, test=whole, heads={"a": head})(*lenet)
    assert report.skipped == 2
    (train, test), kept = seen[0], np.delete(np.arange(40), [3, 17])
    np.testing.assert_array_equal(train.labels, kept % 2)
    np.testing.assert_allclose(train.features, test.features[kept], rtol=1e-5)


def pipeline(**changes):
    arrays = {
        "image": np.random.default_rng(0).integers(0, 255, (12, 8, 8, 1), np.uint8),
        "label": np.arange(12, dtype=np.int32) % 3,
    }
    return Pipeline(source=Arrays(arrays=arrays | changes), num_threads=0)


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        (
            {"other": np.zeros(12, np.float32)},
            {"label_key": "other"},
            "'other' of the train split is float32.*set label_key",
        ),
        (
            {"other": np.zeros((12, 3), np.int32)},
            {"label_key": "other"},
            r"int32 of shape \(12, 3\)",
        ),
        (
            {"other": np.full(12, -1, np.int32)},
            {"label_key": "other"},
            "class -1; classes count from 0",
        ),
        ({}, {"label_key": "missing"}, "no 'missing'.*image, label, mask"),
        ({}, {"layer": "conv_9"}, "no layer 'conv_9'.*conv_1"),
    ],
)
def test_what_no_head_can_learn_from_is_named_in_one_line(
    lenet, changes, arguments, message
):
    data = pipeline(**changes)
    head = lambda train, test, num_classes: {}
    probe = Representation(train=data, test=data, heads={"a": head}, **arguments)
    with pytest.raises(RunError, match=message) as error:
        probe(*lenet)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("spill", [False, True])
def test_features_that_are_not_finite_are_named(lenet, spill, tmp_path):
    run, state = lenet
    kernel = state.params["dense_1"]["kernel"].at[0, 0].set(np.nan)
    params = {**state.params, "dense_1": {**state.params["dense_1"], "kernel": kernel}}
    probe = Representation(
        train=pipeline(),
        test=pipeline(),
        heads={"a": lambda *_: {}},
        spill=str(tmp_path) if spill else None,
    )
    with pytest.raises(RunError, match="12 of 12 train examples are not finite.*rate"):
        probe(run, dataclasses.replace(state, params=params))
    assert not list(tmp_path.iterdir()), "nothing is left behind"


class Lost(Pipeline):
    """A pipeline whose every example turns out unreadable."""

    def eval_batches(self, **kwargs):
        for batch in super().eval_batches(**kwargs):
            yield {**batch, "mask": np.zeros_like(batch["mask"])}


def test_an_empty_split_is_named(lenet):
    good, lost = pipeline(), Lost(source=pipeline().source, num_threads=0)
    for train, test, name in ((lost, good, "train"), (good, lost, "test")):
        probe = Representation(train=train, test=test, heads={"a": lambda *_: {}})
        with pytest.raises(RunError, match=f"no example of the {name} split"):
            probe(*lenet)


def test_a_spill_folder_that_cannot_be(lenet, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="spill folder .* cannot be written"):
        evaluator(spill=str(tmp_path / "file" / "folder"))(*lenet)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"heads": {}}, "heads is empty"),
        ({"train_limit": 0}, "train_limit is 0"),
        ({"batch_size": -1}, "batch_size is -1"),
    ],
)
def test_bad_fields(arguments, message):
    with pytest.raises(ValueError, match=message):
        Representation(
            **{"train": None, "test": None, "heads": {"a": print}} | arguments
        )


def split_of(labels):
    return Split(np.zeros((len(labels), 1), np.float32), np.asarray(labels))


def test_a_division_is_stratified_and_depends_on_the_seed_alone():
    labels = np.repeat([0, 1, 2], [500, 400, 100])
    np.random.default_rng(1).shuffle(labels)
    split = split_of(labels)
    fit, chosen = split.divide(0.1, 7)
    np.testing.assert_array_equal(
        np.sort(np.concatenate([fit, chosen])), np.arange(1000)
    )
    assert (np.diff(fit) > 0).all() and (np.diff(chosen) > 0).all()
    np.testing.assert_allclose(np.bincount(labels[chosen]), [50, 40, 10], atol=1)
    for same in (split.divide(0.1, 7), split_of(labels.copy()).divide(0.1, 7)):
        np.testing.assert_array_equal(same[1], chosen)
    assert len(set(split.divide(0.1, 8)[1]) & set(chosen)) < 30


def test_classes_of_few_examples_have_a_share_together():
    _, chosen = split_of(np.arange(400) // 4).divide(0.1, 0)
    assert len(chosen) == 40
    assert np.bincount(np.arange(400)[chosen] // 4).max() == 1


@pytest.mark.parametrize("size", [1, 3, 100])
def test_chunks_and_selections(size):
    split = Split(np.arange(20, dtype=np.float32).reshape(10, 2), np.arange(10))
    rows = np.array([7, 2, 5, 9])
    chosen = split.select(rows)
    assert chosen.features.shape == (4, 2) and len(chosen) == 4
    features, labels = (
        np.concatenate(x) for x in zip(*chosen.chunks(size), strict=True)
    )
    np.testing.assert_array_equal(labels, rows)
    np.testing.assert_array_equal(features, split.features[rows])
    again = chosen.select(np.array([3, 0]))
    np.testing.assert_array_equal(next(again.chunks(5))[0], split.features[[9, 7]])
    assert max(len(labels) for _, labels in split.chunks(size)) == min(size, 10)
