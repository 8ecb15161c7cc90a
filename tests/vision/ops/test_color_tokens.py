"""Colour tokens: by hand, in range, and back."""

import jax
import numpy as np
import pytest

from vision.ops.color_tokens import ColorTokens


def test_tokens_by_hand():
    image = np.zeros((1, 2, 6, 3), np.float32)
    image[0, :, 2:4] = [1.0, 0.0, 0.0]  # the highest level, not one beyond
    image[0, 0, 4:] = [0.0, 0.3, 1.0]  # half of the last patch
    tokenizer = ColorTokens(patch_size=2, levels=4)
    assert tokenizer.vocab_size == 64
    tokens = jax.jit(tokenizer)(image)
    assert tokens.dtype == np.int32
    np.testing.assert_array_equal(tokens, [[0, 3 * 16, 0 * 16 + 0 * 4 + 2]])


@pytest.mark.parametrize(("levels", "channels"), [(2, 3), (8, 3), (8, 1), (5, 4)])
def test_every_token_is_that_of_its_own_colour(levels, channels):
    tokenizer = ColorTokens(patch_size=(1, 1), levels=levels, channels=channels)
    tokens = np.arange(tokenizer.vocab_size)
    colors = np.asarray(tokenizer.colors(tokens))
    assert colors.shape == (len(tokens), channels)
    assert colors.min() > 0 and colors.max() < 1
    np.testing.assert_array_equal(tokenizer(colors[None, None])[0], tokens)


def test_a_colour_is_off_by_half_a_level_at_most():
    tokenizer = ColorTokens(patch_size=4)
    rng = np.random.default_rng(0)
    image = rng.uniform(0, 1, (3, 1, 1, 3)).repeat(8, 1).repeat(4, 2).astype(np.float32)
    found = tokenizer.colors(tokenizer(image))
    assert found.shape == (3, 2, 3)
    assert np.abs(found - image[:, :1, 0]).max() <= 1 / 16 + 1e-6


def test_values_outside_the_range_stay_in_the_vocabulary():
    image = np.random.default_rng(0).normal(size=(2, 8, 8, 3), scale=9)
    tokens = np.asarray(ColorTokens(patch_size=2)(image.astype(np.float32)))
    assert tokens.min() >= 0 and tokens.max() < 512


def test_errors_name_the_value():
    with pytest.raises(ValueError, match="levels is 1"):
        ColorTokens(levels=1)
    with pytest.raises(ValueError, match="1 channels, the tokenizer 3"):
        ColorTokens(patch_size=2)(np.zeros((1, 4, 4, 1), np.float32))
    with pytest.raises(ValueError, match="4x6 cannot be cut into patches of 4x4"):
        ColorTokens(patch_size=4)(np.zeros((1, 4, 6, 3), np.float32))
