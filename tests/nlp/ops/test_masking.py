"""Masking: exact counts, every choice equally likely, whole words, what is put in."""

import functools

import jax
import numpy as np
import pytest

from nlp.ops import masking

DRAWS = np.random.default_rng(0).random((2, 4000, 40), np.float32)


@functools.partial(jax.jit, static_argnums=0)
def many(function, *arguments):
    """One row's function over many draws."""
    draws = DRAWS[0, :, : len(arguments[0])]
    return jax.vmap(lambda draw: function(draw, *arguments))(draws)


def test_shares_are_rounded_and_at_least_one():
    counts = np.array([0, 1, 6, 7, 100, 128])
    found = [int(masking.share_of(n, 0.15)) for n in counts]
    assert found == [0, 1, 1, 1, 15, 19]


def test_tokens_are_chosen_equally_often_and_exactly_so_many():
    eligible = np.array([0, 1, 1, 0, 1, 1, 1, 1, 1, 1], bool)
    chosen = np.asarray(many(masking.random_tokens, eligible, 3))
    np.testing.assert_array_equal(chosen.sum(1), 3)
    share = chosen.mean(0)
    assert (share[~eligible] == 0).all()
    # Five standard deviations of a share of 3 in 8 over 4000 draws.
    np.testing.assert_allclose(share[eligible], 3 / 8, atol=0.039)
    assert len(np.unique(chosen, axis=0)) == 56  # every choice of 3 of 8


def words_of(starts, eligible):
    words, current = [], None
    for i, (s, e) in enumerate(zip(starts, eligible, strict=True)):
        if e and (s or current is None):
            current = [i]
            words.append(current)
        elif e:
            current.append(i)
        else:
            current = None
    return words


@pytest.mark.parametrize("count", [1, 2, 4, 5, 8])
def test_words_are_chosen_as_a_whole(count):
    starts = np.array([0, 1, 0, 0, 1, 1, 0, 1, 0, 1, 1, 0, 1, 1], bool)
    eligible = np.array([0, 1, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1], bool)
    words = words_of(starts, eligible)
    assert [len(w) for w in words] == [3, 1, 2, 1, 2, 1, 1]
    chosen = np.asarray(many(masking.random_words, eligible, starts, count))
    assert not chosen[:, ~eligible].any()
    for word in words:
        assert (chosen[:, word] == chosen[:, word[:1]]).all()
        if len(word) <= count:
            assert chosen[:, word[0]].any()
    # Words of one token fill what the longer ones leave, until there are none.
    singles = [word[0] for word in words if len(word) == 1]
    short = chosen.sum(1) < count
    assert (chosen.sum(1) <= count).all() and short.mean() < 0.1
    assert chosen[short][:, singles].all()


def test_words_that_do_not_fit_are_left_out():
    starts = np.array([1, 0, 0, 1, 0, 0], bool)
    chosen = np.asarray(many(masking.random_words, np.ones(6, bool), starts, 4))
    np.testing.assert_array_equal(chosen.sum(1), 3)
    assert 0.44 < chosen[:, 0].mean() < 0.56
    none = np.asarray(many(masking.random_words, np.ones(6, bool), starts, 2))
    assert not none.any()


def test_words_of_one_token_are_chosen_like_tokens():
    eligible = np.ones(10, bool)
    found = np.asarray(many(masking.random_words, eligible, eligible, 3))
    np.testing.assert_array_equal(
        found, many(masking.random_tokens, eligible, 3), "the same scores decide"
    )


@pytest.mark.parametrize("choose", ["tokens", "words"])
def test_padding_does_not_change_what_is_drawn(choose):
    def draw(length):
        eligible = np.arange(length) < 20
        starts = np.arange(length) % 3 == 0
        if choose == "tokens":
            return many(masking.random_tokens, eligible, 5)[:, :20]
        return many(masking.random_words, eligible, starts, 5)[:, :20]

    np.testing.assert_array_equal(draw(20), draw(33))


def corrupted(tokens, selected, **changes):
    arguments = dict(mask_id=4, special_ids=(0, 1, 2, 3, 4), vocab_size=20) | changes
    corrupt = lambda *draws: masking.corrupt(*draws, tokens, selected, **arguments)
    return np.asarray(jax.jit(jax.vmap(corrupt))(*DRAWS[:, :, : len(tokens)]))


def test_eighty_ten_ten():
    """In the place of a selected token: the mask in 80 %, itself in 10 %, and in 10 % any
    of the 15 ordinary tokens, itself among them."""
    tokens, selected = np.full(20, 7, np.int32), np.arange(20) % 2 == 0
    found = corrupted(tokens, selected)
    assert (found[:, ~selected] == 7).all()
    share = np.bincount(found[:, selected].ravel(), minlength=20) / 40000
    assert (share[[0, 1, 2, 3]] == 0).all()
    assert abs(share[4] - 0.8) < 0.01
    assert abs(share[7] - (0.1 + 0.1 / 15)) < 0.008
    others = share[[t for t in range(5, 20) if t != 7]]
    np.testing.assert_allclose(others, 0.1 / 15, atol=0.0021)  # five deviations


def test_specials_anywhere_are_stepped_over():
    tokens = np.full(30, 9, np.int32)
    found = corrupted(
        tokens,
        np.ones(30, bool),
        mask_id=9,
        special_ids=(0, 5, 9, 6, 77),
        vocab_size=10,
        mask_share=0.0,
        random_share=1.0,
    )
    share = np.bincount(found.ravel(), minlength=10) / found.size
    np.testing.assert_array_equal(np.flatnonzero(share), [1, 2, 3, 4, 7, 8])
    np.testing.assert_allclose(share[share > 0], 1 / 6, atol=0.006)


def test_masks_alone():
    tokens = np.arange(5, 15).astype(np.int32)
    found = corrupted(tokens, np.arange(10) < 4, mask_share=1.0, random_share=0.0)
    assert (found[:, :4] == 4).all() and (found[:, 4:] == tokens[4:]).all()
