"""Holes in texts: lengths by formula, round trips, statistics, worked examples."""

import functools

import jax
import numpy as np
import pytest

from nlp.ops import span_corruption
from nlp.ops.span_corruption import corrupted_lengths, fill_spans, span_counts

SPANS = dict(density=0.15, mean_span=3.0, first_sentinel=99)
ENDS = dict(pad_id=0, bos_id=1, eos_id=2)


def keys(count):
    return jax.random.split(jax.random.key(0), count)


@functools.cache
def compiled(name, **options):
    function = functools.partial(getattr(span_corruption, name), **options)
    return jax.jit(jax.vmap(function))


def run(name, tokens, count=None, **options):
    """A row's function on each row, or on one row with many keys."""
    tokens = np.asarray(tokens, np.int32)
    if tokens.ndim == 1:
        tokens = np.broadcast_to(tokens, (count, len(tokens)))
    return jax.device_get(compiled(name, **options)(keys(len(tokens)), tokens))


def text(length, total=None):
    row = np.zeros(total or length, np.int32)
    row[:length] = 5 + np.random.default_rng(length).integers(0, 60, length)
    return row


def test_counts_and_lengths_of_the_paper():
    """T5: a batch of inputs of 512 tokens and targets of 114 comes from texts of 568."""
    assert span_counts(568, 0.15, 3.0) == (85, 28)
    assert corrupted_lengths(568, 0.15, 3.0) == (512, 115, 28)  # bos before the target
    assert [span_counts(n, 0.15, 3.0) for n in (0, 1, 2, 3, 10)] == [
        (0, 0),
        (0, 0),
        (1, 1),
        (1, 1),
        (2, 1),
    ]
    assert span_counts(4, 0.9, 1.0) == (3, 1)  # one token stays, so one span


@pytest.mark.parametrize("density, mean_span", [(0.15, 3.0), (0.5, 1.0)])
def test_filling_the_spans_back_gives_the_original(density, mean_span):
    """Catalogue row 110, for texts of every length in rows of 40."""
    rows = np.stack([text(n, 40) for n in range(41)])
    options = dict(density=density, mean_span=mean_span, first_sentinel=99)
    source, target = run("corrupt_spans", rows, **options, **ENDS)
    longest = corrupted_lengths(40, density, mean_span)
    assert (source.shape[1], target.shape[1]) == longest[:2]
    for n, row, s, t in zip(range(41), rows, source, target, strict=True):
        lost, spans = span_counts(n, density, mean_span)
        real_source, real_target = s[s != 0], t[t != 0]
        # All padding lies behind, and lengths are those of the formula.
        np.testing.assert_array_equal(s[: len(real_source)], real_source)
        assert len(real_source) == (n - lost + spans + 1 if n else 0)
        assert len(real_target) == (lost + spans + 2 if n else 0)
        if not n:
            continue
        assert real_source[-1] == real_target[-1] == 2 and real_target[0] == 1
        sentinels = np.arange(99, 99 - spans, -1)
        np.testing.assert_array_equal(real_source[real_source > 70], sentinels)
        np.testing.assert_array_equal(real_target[real_target > 70], sentinels)
        assert real_source[0] < 70  # the text begins with a token that stays
        assert (np.diff(np.flatnonzero(real_source > 70)) > 1).all()
        filled = fill_spans(
            s, t, first_sentinel=99, spans=longest[2], specials=(0, 1, 2)
        )
        np.testing.assert_array_equal(filled, row[:n])


def test_filling_from_a_target_that_lacks_a_span():
    found = fill_spans(
        [5, 99, 6, 98, 7, 2],
        [1, 98, 50, 51, 2],
        first_sentinel=99,
        spans=2,
        specials=(0, 1, 2),
    )
    assert found == [5, 6, 50, 51, 7]


def test_spans_by_hand():
    """Of three tokens one is lost, never the first, and T5 always loses the end."""
    source, target = run("corrupt_spans", [10, 11, 12], 8, **SPANS, **ENDS)
    np.testing.assert_array_equal(source, [[10, 11, 99, 2]] * 8)
    np.testing.assert_array_equal(target, [[1, 99, 12, 2]] * 8)


def test_every_way_to_cut_is_equally_likely():
    draws = np.random.default_rng(0).random((4000, 9), np.float32)
    cut = jax.jit(jax.vmap(lambda draw: span_corruption.random_segments(draw, 6, 3, 4)))
    sizes = np.asarray(cut(draws))
    np.testing.assert_array_equal(sizes.sum(1), 6)
    assert (sizes[:, :3] > 0).all() and (sizes[:, 3] == 0).all()
    ways, counts = np.unique(sizes, axis=0, return_counts=True)
    assert len(ways) == 10  # 2 of 5 borders
    np.testing.assert_allclose(counts / 4000, 0.1, atol=0.024)  # five deviations


def test_spans_do_not_depend_on_padding():
    options = dict(density=0.5, mean_span=1.0, first_sentinel=99, **ENDS)
    short, long = (
        run("corrupt_spans", np.stack([text(n, total) for n in range(41)]), **options)
        for total in (40, 47)
    )
    for a, b in zip(short, long, strict=True):
        np.testing.assert_array_equal(b[:, : a.shape[1]], a)
        assert not b[:, a.shape[1] :].any()


HOLES = dict(mask_id=4, pad_id=0, eos_id=2)


@pytest.mark.parametrize("density, mean_span", [(0.3, 3.0), (0.5, 1.0)])
def test_infilling_keeps_the_other_tokens_in_order(density, mean_span):
    tokens = np.arange(10, 50)
    lost = int(np.ceil(density * 40))
    source = run("infill", tokens, 2000, density=density, mean_span=mean_span, **HOLES)
    assert source.shape == (2000, 41)
    kept = np.where(source >= 10, source, 0)
    np.testing.assert_array_equal((kept > 0).sum(1), 40 - lost)
    for row, source_row in zip(kept[:50], source[:50], strict=True):
        assert (np.diff(row[row > 0]) > 0).all()
        end = np.flatnonzero(source_row == 2)
        assert len(end) == 1 and not source_row[end[0] + 1 :].any()
        assert (source_row[: end[0]] >= 4).all()
    # Every token is as likely to be lost, but for the edges' small advantage.
    share = np.array([(source == t).any(1).mean() for t in tokens])
    assert abs(share.mean() - (1 - lost / 40)) < 1e-6
    assert np.ptp(share[8:-8]) < 0.12


def test_span_lengths_are_poisson():
    """Read off the tokens missing at each mask that stands alone between two tokens."""
    tokens = np.arange(10, 410)
    source = run("infill", tokens, 64, density=0.3, mean_span=3.0, **HOLES)
    sizes = []
    for row in source:
        for i in np.flatnonzero(row == 4):
            if 0 < i and row[i - 1] >= 10 and row[i + 1] >= 10:
                sizes.append(row[i + 1] - row[i - 1] - 1)
    sizes = np.array(sizes)
    assert len(sizes) > 1000
    expected = np.diff(span_corruption.poisson_cdf(3.0), prepend=0)
    share = np.bincount(sizes, minlength=9)[:9] / len(sizes)
    np.testing.assert_allclose(share, expected[:9], atol=0.05)
    assert abs(sizes.mean() - 3) < 0.25 and (sizes == 0).any()


def test_the_poisson_distribution():
    cdf = span_corruption.poisson_cdf(3.0)
    np.testing.assert_allclose(cdf[:4], [0.0498, 0.1991, 0.4232, 0.6472], atol=1e-4)
    np.testing.assert_allclose(cdf[-1], 1, atol=1e-6)


def test_infilling_does_not_depend_on_padding():
    options = dict(density=0.3, mean_span=3.0, **HOLES)
    rows = np.stack([text(n % 41, 40) for n in range(2000)])
    short = run("infill", rows, **options)
    long = run("infill", np.pad(rows, ((0, 0), (0, 11))), **options)
    np.testing.assert_array_equal(long[:, :41], short)
    assert not long[:, 41:].any()
    assert not short[::41].any()  # nothing comes of nothing


def test_sentences_change_places_and_stay_whole():
    tokens = np.array([10, 11, 7, 20, 7, 30, 31, 32, 7, 40, 0, 0])
    sentences = {(10, 11, 7), (20, 7), (30, 31, 32, 7), (40,)}
    found = run("permute_sentences", tokens, 400, sentence_ends=(7,), pad_id=0)
    assert not found[:, 10:].any()
    orders = {tuple(row) for row in found}
    assert len(orders) == 24
    first = {row[: 1 + [*row].index(7)] for row in orders}
    assert first == {*(sentences - {(40,)}), *((40, *s) for s in sentences - {(40,)})}
    np.testing.assert_array_equal(
        np.sort(found, 1), np.sort(tokens)[None].repeat(400, 0)
    )


def test_a_fragment_and_the_rest_make_the_text():
    rows = np.stack([text(n, 12) for n in range(13)])
    source, target = run("cut_fragment", rows, density=0.5, mask_id=4, **ENDS)
    assert source.shape == (13, 13) and target.shape == (13, 9)
    assert not source[0].any() and not target[0].any()
    for n in range(1, 13):
        size = max(round(n / 2), 1)
        hole = np.flatnonzero(source[n] == 4)
        assert len(hole) == size and np.ptp(hole) == size - 1
        filled = source[n].copy()
        filled[hole] = target[n][1 : size + 1]
        np.testing.assert_array_equal(filled[:n], rows[n][:n])
        assert source[n][n] == 2 and target[n][0] == 1 and target[n][size + 1] == 2
        assert not source[n][n + 1 :].any() and not target[n][size + 2 :].any()
    starts = run("cut_fragment", text(12), 600, density=0.5, mask_id=4, **ENDS)[0] == 4
    share = np.bincount(starts.argmax(1), minlength=7) / 600
    np.testing.assert_allclose(share, 1 / 7, atol=0.072)
