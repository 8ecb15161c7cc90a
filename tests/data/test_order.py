import itertools
from collections import Counter

import numpy as np
import pytest

from data.order import Order, position_rng


@pytest.mark.parametrize("length", [1, 2, 3, 10, 1000])
def test_every_epoch_has_every_example_once(length):
    order = Order(length, seed=3)
    for epoch in range(3):
        assert sorted(order(epoch * length, length)) == list(range(length))


def test_epochs_and_seeds_differ_and_repeat_exactly():
    first, second = Order(50, seed=0)(0, 50), Order(50, seed=0)(50, 50)
    assert first != second
    assert first != Order(50, seed=1)(0, 50)
    assert first == Order(50, seed=0)(0, 50)
    assert Order(50, seed=0)(40, 20) == first[40:] + second[:10]


def test_all_permutations_are_equally_likely():
    counts = Counter(tuple(Order(3, seed)(0, 3)) for seed in range(1200))
    assert set(counts) == set(itertools.permutations(range(3)))
    assert max(counts.values()) < 1.4 * min(counts.values())


def test_without_seed_the_order_is_the_sources():
    assert Order(3)(2, 5) == [2, 0, 1, 2, 0]
    assert Order(3, repeat=False)(1, 4) == [1, 2, None, None]


def test_draws_depend_on_seed_and_position_alone():
    def draws(seed, position):
        rng = position_rng(seed, position)
        return (*rng.integers(0, 9, 3).tolist(), rng.random(), rng.normal())

    places = [(0, 0), (0, 1), (1, 0), (0, 2**40), (2**63, 0)]
    found = [draws(*place) for place in places]
    assert len(set(found)) == len(places)
    position_rng(5, 5).integers(0, 2, dtype=np.uint8)  # leaves half-used words behind
    assert [draws(*place) for place in reversed(places)] == found[::-1]
    assert len({position_rng(0, p).random() for p in range(1000)}) == 1000
