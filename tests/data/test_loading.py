import logging
import pickle

import numpy as np
import pytest

from data.features import Image, Label
from data.loading import Cached, Reader
from data.pipeline import Pipeline
from data.sources import Arrays, Synthetic
from vision.transforms import Decode, Resize

PNG = Image(6, 5, 3, "png").sample(np.random.default_rng(0))


class Source:
    """Encoded pictures whose numbers `broken` are cut short."""

    def __init__(self, length: int, broken: tuple[int, ...] = ()):
        self.features = {"image": Image(encoding="png"), "label": Label(10)}
        self.length, self.broken, self.reads = length, broken, 0

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        self.reads += 1
        image = PNG[:50] if index in self.broken else PNG
        return {"image": image, "label": index, "file_name": f"{index}.png"}

    def describe(self, index):
        return f"record {index} ({index}.png)"


def labels(batches, steps: int) -> list[list[int]]:
    return [next(batches)["label"].tolist() for _ in range(steps)]


def test_only_numbers_go_into_a_batch():
    element = Pipeline(Source(3), (Decode(),)).element()
    assert set(element) == {"image", "label"}
    element = Pipeline(Source(3), (Decode(),), keys=("label",)).element()
    assert set(element) == {"label"}
    assert element["label"].dtype == np.int32
    with pytest.raises(ValueError, match="field 'file_name' is <U5.*numbers"):
        Pipeline(Source(3), (Decode(),), keys=("file_name",)).element()
    with pytest.raises(ValueError, match="no field 'lable'.*image, label"):
        Pipeline(Source(3), (Decode(),), keys=("lable",)).element()


def test_a_picture_left_encoded_is_an_error():
    with pytest.raises(TypeError, match="still encoded.*Decode"):
        Pipeline(Source(3)).element()


def test_wide_numbers_become_what_jax_would_make_of_them():
    arrays = {"id": np.arange(4), "x": np.ones(4), "flag": np.ones(4, bool)}
    pipeline = Pipeline(Arrays(arrays=arrays), num_threads=0)
    batch = next(pipeline.train_batches(batch_size=2, seed=0))
    for fields in (batch, pipeline.element()):
        assert fields["id"].dtype == np.int32
        assert fields["x"].dtype == np.float32
        assert fields["flag"].dtype == bool
    arrays["id"][2] = 2**40
    with pytest.raises(ValueError, match="'id' holds integers up to 1099511627776"):
        next(Pipeline(Arrays(arrays=arrays)).eval_batches(batch_size=4))


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_label_out_of_range_stops_the_run_and_is_named(on_error):
    source = Source(12)
    pipeline = Pipeline(source, (Decode(),), on_error=on_error)
    text = r"record 10 \(10.png\): label 10 is outside 0..9 \(num_classes=10\)"
    with pytest.raises(ValueError, match=text):
        list(pipeline.eval_batches(batch_size=4))


def test_a_declared_field_has_to_be_there():
    source = Arrays(arrays={"x": np.zeros(3)}, features={"label": Label(10)})
    with pytest.raises(ValueError, match="no field 'label', which is declared.*x"):
        Pipeline(source).element()


@pytest.mark.parametrize(
    "where", [{"num_threads": 0}, {"num_threads": 2}, {"num_workers": 1}]
)
def test_an_unreadable_example_is_named(where):
    pipeline = Pipeline(Source(5, broken=(3,)), (Decode(),), **where)
    for make in (
        lambda: pipeline.eval_batches(batch_size=5),
        lambda: pipeline.train_batches(batch_size=5, seed=0),
    ):
        with (
            make() as batches,
            pytest.raises(ValueError, match=r"record 3 \(3.png\): truncated PNG") as e,
        ):
            next(batches)
        assert "\n" not in str(e.value)


def test_skipping_takes_the_next_example_and_counts(caplog):
    def pipeline(broken):
        source = Source(10, broken)
        return Pipeline(source, (Decode(),), on_error="skip", num_threads=0)

    whole = pipeline(()).train_batches(batch_size=10, seed=1)
    broken = pipeline((3, 4, 9)).train_batches(batch_size=10, seed=1)
    substitutes = {3: 5, 4: 5, 9: 0}
    with caplog.at_level(logging.WARNING):
        for step in range(1, 4):
            expected = next(whole)["label"].tolist()
            found = next(broken)["label"].tolist()
            assert found == [substitutes.get(label, label) for label in expected]
            assert broken.skipped == 3 * step
            assert whole.skipped == 0
    named = sorted(record.getMessage().split(":")[0] for record in caplog.records)
    assert named == [f"skipped record {i} ({i}.png)" for i in (3, 4, 9)]


def test_skipping_is_the_same_in_worker_processes_and_after_resuming():
    def run(start_step=0, **where):
        pipeline = Pipeline(
            Source(10, (3, 4, 9)), (Decode(),), on_error="skip", **where
        )
        with pipeline.train_batches(
            batch_size=4, seed=1, start_step=start_step
        ) as batches:
            return labels(batches, 6 - start_step), batches.skipped

    expected, count = run(num_threads=0)
    assert count > 0
    assert run(num_workers=2, num_threads=0) == (expected, count)
    assert run(start_step=2, num_threads=0)[0] == expected[2:]


def test_skipping_masks_rows_in_evaluation():
    pipeline = Pipeline(Source(7, (0, 5)), (Decode(),), on_error="skip")
    batches = pipeline.eval_batches(batch_size=4)
    found = list(batches)
    assert batches.skipped == 2
    mask = np.concatenate([batch["mask"] for batch in found])
    assert mask.tolist() == [False] + [True] * 4 + [False, True, False]
    image = np.concatenate([batch["image"] for batch in found])
    assert image[mask].any(axis=(1, 2, 3)).all()
    assert not image[~mask].any()


def test_nothing_readable_is_an_error():
    pipeline = Pipeline(Source(3, (0, 1, 2)), (Decode(),), on_error="skip")
    with pytest.raises(ValueError, match=r"record \d.*all of the 2 examples after it"):
        next(pipeline.train_batches(batch_size=2, seed=0))
    with pytest.raises(ValueError, match="none of the first 3 examples can be read"):
        pipeline.element()


def test_pictures_of_different_sizes_cannot_be_stacked():
    source = Synthetic({"image": Image(encoding="png")}, 4)
    with pytest.raises(ValueError, match="image has shape.*add a Resize") as caught:
        next(Pipeline(source, (Decode(),)).eval_batches(batch_size=4))
    assert "\n" not in str(caught.value)
    batch = next(
        Pipeline(source, (Decode(), Resize((8, 9)))).eval_batches(batch_size=4)
    )
    assert batch["image"].shape == (4, 8, 9, 3)


def test_a_cache_reads_each_example_once():
    for cache, reads in ((True, 5), (False, 15)):
        source = Source(5)
        pipeline = Pipeline(source, (Decode(),), cache=cache, num_threads=0)
        for _ in range(3):
            assert (
                sum(b["mask"].sum() for b in pipeline.eval_batches(batch_size=2)) == 5
            )
        assert source.reads == reads


def test_a_cache_is_the_source_it_keeps():
    source = Cached(Source(5))
    assert source.features == Source(5).features
    assert source.describe(2) == "record 2 (2.png)"
    source[0]["label"] = "changed"  # by somebody who keeps the dictionary
    assert source[0]["label"] == 0
    travelled = pickle.loads(pickle.dumps(source))
    assert travelled[0] == source[0]
    plain = Cached(Arrays(arrays={"x": np.zeros(2)}))
    assert not hasattr(plain, "describe")
    assert Reader(plain).name(1) == "record 1"
