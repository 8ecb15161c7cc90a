import functools
import threading

import numpy as np
import pytest

from data.features import Image, Label
from data.pipeline import Pipeline
from data.sources import Arrays, Digits, Synthetic

N = 10


class Draw:
    """Adds a random number to each example."""

    def __call__(self, example, rng):
        return {**example, "draw": rng.random()}


SOURCE = Arrays(arrays={"id": np.arange(N)})


def train(steps, *, batch_size=12, seed=0, start_step=0, shard=(0, 1), **where):
    pipeline = Pipeline(SOURCE, (Draw(),), **{"num_threads": 0, **where})
    with pipeline.train_batches(
        batch_size=batch_size, seed=seed, start_step=start_step, shard=shard
    ) as batches:
        return [next(batches) for _ in range(steps)]


@functools.cache
def reference():
    return train(5)


def assert_equal(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert set(one) == set(other)
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


def test_each_epoch_is_a_new_order_of_all_examples():
    ids = np.concatenate([batch["id"] for batch in reference()]).reshape(-1, N)
    assert np.all(np.sort(ids, axis=1) == np.arange(N))
    assert len({tuple(epoch) for epoch in ids}) == len(ids) == 6
    draws = np.concatenate([batch["draw"] for batch in reference()])
    assert len(set(draws)) == len(draws)


def test_seeds_differ():
    other = train(1, seed=1)[0]
    assert (other["id"] != reference()[0]["id"]).any()
    assert (other["draw"] != reference()[0]["draw"]).all()


def test_without_shuffling_the_order_is_the_sources():
    ids = np.concatenate([batch["id"] for batch in train(2, shuffle=False)])
    assert ids.tolist() == [i % N for i in range(24)]


@pytest.mark.parametrize("start_step", [1, 4])
def test_resuming_at_a_step_gives_what_would_have_come(start_step):
    assert_equal(train(5 - start_step, start_step=start_step), reference()[start_step:])


def test_far_steps_are_reached_at_once():
    far, after = train(2, start_step=10**12)
    assert_equal(train(1, start_step=10**12 + 1), [after])
    assert not np.array_equal(far["draw"], after["draw"])


@pytest.mark.parametrize("count", [2, 3, 4])
def test_hosts_hold_the_contiguous_parts_of_each_batch(count):
    parts = [train(3, start_step=2, shard=(i, count)) for i in range(count)]
    together = [
        {key: np.concatenate([part[key] for part in step]) for key in step[0]}
        for step in zip(*parts, strict=True)
    ]
    assert_equal(together, reference()[2:])


@pytest.mark.parametrize("num_threads", [1, 4])
def test_threads_change_nothing(num_threads):
    assert_equal(train(5, num_threads=num_threads), reference())


def test_worker_processes_change_nothing():
    found = train(3, start_step=2, num_workers=2, num_threads=0)
    assert_equal(found, reference()[2:])
    part = train(2, start_step=1, shard=(1, 2), num_workers=2, num_threads=1)
    half = [{k: v[6:] for k, v in batch.items()} for batch in reference()[1:3]]
    assert_equal(part, half)


@pytest.mark.parametrize("where", [{"num_threads": 2}, {"num_workers": 1}])
def test_batches_own_their_memory(where):
    first, second = train(2, **where)
    for key in first:
        assert first[key].flags.writeable
        assert not np.shares_memory(first[key], second[key])
    kept = {key: value.copy() for key, value in second.items()}
    for value in first.values():
        value[:] = 0
    assert_equal([second], [kept])


def evaluate(batch_size, shard=(0, 1), **where):
    pipeline = Pipeline(SOURCE, (Draw(),), **where)
    with pipeline.eval_batches(batch_size=batch_size, shard=shard) as batches:
        return list(batches)


@pytest.mark.parametrize("batch_size", [1, 5, 6, 10, 16])
def test_evaluation_sees_every_example_once(batch_size):
    found = evaluate(batch_size)
    assert len(found) == -(-N // batch_size)
    assert all(batch["mask"].shape == (batch_size,) for batch in found)
    ids, mask, draws = (
        np.concatenate([batch[key] for batch in found])
        for key in ("id", "mask", "draw")
    )
    assert mask.dtype == bool
    assert ids[mask].tolist() == list(range(N))
    assert mask.tolist() == [i < N for i in range(len(mask))]
    assert not ids[~mask].any()
    assert not draws[~mask].any()


@pytest.mark.parametrize(
    "where", [{"num_threads": 0}, {"num_workers": 2, "num_threads": 0}]
)
def test_hosts_evaluate_their_parts_even_if_they_are_empty(where):
    whole = evaluate(8)  # 8 + 2: the last two hosts have nothing but padding left
    parts = [evaluate(8, shard=(i, 4), **where) for i in range(4)]
    together = [
        {key: np.concatenate([part[key] for part in step]) for key in step[0]}
        for step in zip(*parts, strict=True)
    ]
    assert_equal(together, whole)


def test_evaluations_are_alike():
    assert_equal(evaluate(4), evaluate(4))


def test_the_element_is_a_row_of_a_batch():
    pipeline = Pipeline(Digits("train"))
    batch = next(pipeline.train_batches(batch_size=4, seed=0))
    element = pipeline.element()
    assert {k: (v.shape, v.dtype) for k, v in element.items()} == {
        k: (v.shape[1:], v.dtype) for k, v in batch.items()
    }
    assert set(batch) == {"image", "label"}
    assert len(pipeline) == 1442
    assert pipeline.features is Digits.features


def test_what_cannot_be_split_or_is_empty_is_refused():
    pipeline = Pipeline(SOURCE)
    for make in (
        pipeline.eval_batches,
        functools.partial(pipeline.train_batches, seed=0),
    ):
        with pytest.raises(ValueError, match="batch size 10 cannot be split into 4"):
            make(batch_size=10, shard=(0, 4))
        with pytest.raises(ValueError, match="batch size 0"):
            make(batch_size=0)
        with pytest.raises(ValueError, match="shard 2 of 2"):
            make(batch_size=10, shard=(2, 2))
    for seed in (-1, 2**64):
        with pytest.raises(ValueError, match=f"seed .* not {seed}"):
            pipeline.train_batches(batch_size=10, seed=seed)
    with pytest.raises(ValueError, match="has no examples"):
        Pipeline(Synthetic({"label": Label(2)}, 0))
    with pytest.raises(ValueError, match="'ignore'"):
        Pipeline(SOURCE, on_error="ignore")


def test_closing_stops_the_threads():
    before = set(threading.enumerate())
    pipeline = Pipeline(
        Synthetic({"image": Image(4, 4), "label": Label(2)}, 8), num_threads=3
    )
    batches = pipeline.train_batches(batch_size=4, seed=0)
    next(batches)
    threads = set(threading.enumerate()) - before
    assert len(threads) == 3
    batches.close()
    batches.close()
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()
