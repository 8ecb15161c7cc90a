import jax.numpy as jnp
import numpy as np

from layers.masks import causal_mask, combine_masks, padding_mask, segment_mask


def test_causal_mask_is_lower_triangular():
    mask = causal_mask(4)
    assert mask.shape == (1, 1, 4, 4) and mask.dtype == bool
    np.testing.assert_array_equal(mask[0, 0], np.tril(np.ones((4, 4), bool)))


def test_padding_mask_hides_keys():
    tokens = jnp.array([[5, 6, 0], [7, 0, 0]])
    mask = padding_mask(tokens != 0)
    assert mask.shape == (2, 1, 1, 3) and mask.dtype == bool
    np.testing.assert_array_equal(mask[:, 0, 0], [[1, 1, 0], [1, 0, 0]])


def test_segment_mask_keeps_sequences_apart():
    mask = segment_mask(jnp.array([[1, 1, 2]]))
    np.testing.assert_array_equal(mask[0, 0], [[1, 1, 0], [1, 1, 0], [0, 0, 1]])
    cross = segment_mask(jnp.array([[1, 2]]), jnp.array([[2, 2, 1]]))
    assert cross.shape == (1, 1, 2, 3)
    np.testing.assert_array_equal(cross[0, 0], [[0, 0, 1], [1, 1, 0]])


def test_combination_allows_what_all_allow():
    padding = padding_mask(jnp.array([[True, True, False]]))
    both = combine_masks(None, causal_mask(3), padding)
    np.testing.assert_array_equal(both[0, 0], [[1, 0, 0], [1, 1, 0], [1, 1, 0]])
    assert combine_masks(None, None) is None
    assert combine_masks(padding) is padding
