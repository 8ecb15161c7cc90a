"""Sliding windows and BigBird's pattern: how many positions each one sees."""

import numpy as np
import pytest

from layers.masks import bigbird_mask, causal_mask, combine_masks, sliding_window_mask


def test_a_window_by_hand():
    middle = sliding_window_mask(5, 3)
    assert middle.shape == (1, 1, 5, 5) and middle.dtype == bool
    expected = [
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [0, 1, 1, 1, 0],
        [0, 0, 1, 1, 1],
        [0, 0, 0, 1, 1],
    ]
    np.testing.assert_array_equal(middle[0, 0], np.array(expected, bool))
    behind = sliding_window_mask(5, 3, causal=True)[0, 0]
    np.testing.assert_array_equal(behind.sum(1), [1, 2, 3, 3, 3])
    assert not np.triu(behind, 1).any() and np.diagonal(behind).all()
    for causal, window in ((True, 4), (False, 7)):
        mask = sliding_window_mask(4, window, causal=causal)
        expected = causal_mask(4) if causal else np.ones((1, 1, 4, 4), bool)
        np.testing.assert_array_equal(mask, expected)
    both = combine_masks(sliding_window_mask(5, 5), causal_mask(5))
    np.testing.assert_array_equal(both[0, 0], behind)
    for window, causal in ((2, False), (0, True)):
        with pytest.raises(ValueError, match=f"a window of {window} positions"):
            sliding_window_mask(5, window, causal=causal)


def test_bigbird_row_sums_of_the_decks_example():
    # r = 2, w = 3, g = 2: rows in the middle see 2 + 3 + 2 blocks.
    mask = np.asarray(bigbird_mask(16, num_random=2, window=3, num_global=2))[0, 0]
    sums = mask.sum(1)
    np.testing.assert_array_equal(sums[:2], [16, 16])
    # Row 2's window holds a global block, the last row's lacks one.
    np.testing.assert_array_equal(sums[[2, 15]], [6, 6])
    np.testing.assert_array_equal(sums[3:15], 7)
    assert mask[:, :2].all() and np.diagonal(mask).all()
    assert np.diagonal(mask, 1).all() and np.diagonal(mask, -1).all()


def test_bigbird_draws_by_seed_and_as_many_as_there_are():
    masks = [bigbird_mask(24, num_random=3, seed=seed) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(masks[0], masks[1])
    assert np.any(masks[0] != masks[2])
    assert np.all(bigbird_mask(6, num_random=9))
    without = np.asarray(bigbird_mask(9, num_random=0, num_global=0))
    np.testing.assert_array_equal(without, sliding_window_mask(9, 3))


def test_bigbird_in_blocks():
    fine = np.asarray(bigbird_mask(8, num_random=1, num_global=1, seed=3))
    blocks = bigbird_mask(32, num_random=1, num_global=1, block_size=4, seed=3)
    np.testing.assert_array_equal(blocks, fine.repeat(4, 2).repeat(4, 3))
    with pytest.raises(ValueError, match="a length of 30 is no multiple of block_size"):
        bigbird_mask(30, num_random=1, block_size=4)
    with pytest.raises(ValueError, match="a window of 4 blocks has no middle"):
        bigbird_mask(32, num_random=1, window=4)
