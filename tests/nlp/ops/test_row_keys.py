"""Keys of rows: the row's content decides, and nothing else."""

import jax
import numpy as np

from nlp.ops.row_keys import content_keys, uniform_table


@jax.jit
def key_data(tokens):
    return jax.random.key_data(content_keys(tokens, 0))


def data(tokens):
    return np.asarray(key_data(np.asarray(tokens, np.int32)))


def test_neither_place_nor_padding_matters():
    tokens = np.random.default_rng(0).integers(1, 50, (6, 9))
    keys = data(tokens)
    np.testing.assert_array_equal(data(tokens[::-1])[::-1], keys)
    np.testing.assert_array_equal(data(tokens[2:4]), keys[2:4])
    padded = np.pad(tokens, ((0, 0), (0, 5)))
    np.testing.assert_array_equal(data(padded), keys)
    assert (data(np.pad(tokens, ((0, 0), (1, 0)))) != keys).any(1).all()


def test_every_token_and_every_place_matters():
    row = np.arange(1, 9)
    others = [row]
    for i in range(8):
        changed = row.copy()
        changed[i] += 1
        others.append(changed)
    others += [row[::-1], np.roll(row, 1), np.where(row == 8, 0, row)]
    assert len(np.unique(data(others), axis=0)) == len(others)


def test_similar_rows_draw_unlike_numbers():
    rows = np.stack(np.meshgrid(np.arange(1, 41), np.arange(1, 41)), -1).reshape(-1, 2)
    draw = jax.jit(lambda x: jax.vmap(jax.random.uniform)(content_keys(x, 0)))
    draws = np.asarray(draw(rows.astype(np.int32)))
    assert len(np.unique(data(rows), axis=0)) == 1600
    # Uniform: mean and variance within five standard deviations; neighbours unrelated.
    assert abs(draws.mean() - 0.5) < 0.036 and abs(draws.var() - 1 / 12) < 0.01
    assert abs(np.corrcoef(draws[1:], draws[:-1])[0, 1]) < 0.125


def test_numbers_of_a_place_do_not_depend_on_the_other_places():
    draw = jax.jit(uniform_table, static_argnums=(1, 2))
    short, long = (np.asarray(draw(jax.random.key(1), n, 3)) for n in (400, 470))
    np.testing.assert_array_equal(long[:400], short)
    assert len(np.unique(long)) > 1400 and 0 <= long.min() and long.max() < 1
    # Columns are unrelated: within five standard deviations.
    correlation = np.corrcoef(short.T)[np.triu_indices(3, 1)]
    assert np.abs(correlation).max() < 0.25
