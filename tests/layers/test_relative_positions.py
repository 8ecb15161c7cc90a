"""Positions by distance: rotary, ALiBi, T5's buckets; and positions within segments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from layers.masks import segment_positions
from layers.positions import (
    LearnedPositions,
    RelativePositionBias,
    alibi_bias,
    rotary,
)


def test_rotary_products_depend_on_the_distance_only():
    rng = np.random.default_rng(0)
    query, key = rng.normal(size=(2, 1, 1, 2, 8)).astype(np.float32)
    places = jnp.arange(12)

    @jax.jit
    def products(query, key):
        turned = [
            rotary(jnp.broadcast_to(x, (1, 12, 2, 8)), places, base=50.0)
            for x in (query, key)
        ]
        return jnp.einsum("BTNH,BSNH->NTS", *turned)

    found = np.asarray(products(query, key))
    for distance in range(-11, 12):
        diagonal = np.diagonal(found, distance, axis1=1, axis2=2)
        first = np.broadcast_to(diagonal[:, :1], diagonal.shape)
        np.testing.assert_allclose(diagonal, first, rtol=1e-4, atol=1e-5)
    assert np.ptp(found[0]) > 0.1
    at_zero = np.einsum("BTNH,BSNH->NTS", query, key)
    np.testing.assert_allclose(found[:, :1, :1], at_zero, rtol=1e-5, atol=1e-5)


def test_rotary_by_hand():
    x = np.array([[[[1.0, 2.0, 3.0, 4.0]]]], np.float32)
    turned = rotary(x, jnp.array([3]), base=100.0)
    # Pairs (1, 3) and (2, 4), turned by 3 and by 3 / sqrt(100).
    expected = []
    for (a, b), angle in (((1, 3), 3.0), ((2, 4), 0.3)):
        z = (a + 1j * b) * np.exp(1j * angle)
        expected.append((z.real, z.imag))
    (first, third), (second, fourth) = expected
    by_hand = [first, second, third, fourth]
    np.testing.assert_allclose(turned[0, 0, 0], by_hand, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(turned), np.linalg.norm(x), rtol=1e-6)
    assert rotary(x.astype(jnp.bfloat16), jnp.array([3])).dtype == jnp.bfloat16
    with pytest.raises(ValueError, match="head_dim 3 is odd"):
        rotary(x[..., :3], jnp.array([3]))


def test_rotary_positions_of_each_row():
    x = np.random.default_rng(0).normal(size=(2, 3, 1, 4)).astype(np.float32)
    places = jnp.array([[0, 1, 2], [5, 0, 1]])
    both = rotary(x, places)
    for row, place, whole in zip(x, places, both, strict=True):
        np.testing.assert_allclose(rotary(row[None], place)[0], whole, rtol=1e-6)


def test_alibi_slopes_by_hand():
    places = jnp.arange(4)
    bias = np.asarray(alibi_bias(8, places, places))
    assert bias.shape == (1, 8, 4, 4)
    # The paper's 8 heads: 1/2, 1/4, ... 1/256.
    np.testing.assert_allclose(-bias[0, :, 1, 0], 0.5 ** np.arange(1, 9))
    np.testing.assert_allclose(bias[0, 0, 3], [-1.5, -1, -0.5, 0])
    # 16 heads start at 2 ** -0.5; 12 heads are the 8 above and every other one of these.
    sixteen = 2 ** (-0.5 * np.arange(1, 17))
    found = -np.asarray(alibi_bias(16, places, places))[0, :, 1, 0]
    np.testing.assert_allclose(found, sixteen, rtol=1e-6)
    twelve = -np.asarray(alibi_bias(12, places, places))[0, :, 1, 0]
    expected = np.r_[0.5 ** np.arange(1, 9), sixteen[::2][:4]]
    np.testing.assert_allclose(twelve, expected, rtol=1e-6)
    one = alibi_bias(1, jnp.array([5]), places)
    np.testing.assert_allclose(one[0, 0, 0], -np.arange(5, 1, -1) / 256)


# Of 32 buckets for keys before the query and after it: 16 each, 8 of them exact, then
# 8 + floor(8 ln(d / 8) / ln 16); with one direction 16 exact, then 16 + floor(16 ln(d / 16) / ln 8).
BIDIRECTIONAL = {
    0: 0,
    1: 1,
    7: 7,
    8: 8,
    11: 8,
    12: 9,
    50: 13,
    127: 15,
    128: 15,
    900: 15,
}
CAUSAL = {0: 0, 1: 1, 15: 15, 16: 16, 20: 17, 60: 26, 127: 31, 128: 31, 900: 31}


@pytest.mark.parametrize("bidirectional", [True, False])
def test_t5_buckets_by_hand(bidirectional):
    module = RelativePositionBias(2, bidirectional=bidirectional)
    table = np.arange(64, dtype=np.float32).reshape(32, 2)
    variables = {"params": {"embedding": table}}
    cases = BIDIRECTIONAL if bidirectional else CAUSAL
    distances = np.array(list(cases))
    buckets = np.array(list(cases.values()))
    before = module.apply(variables, jnp.array([1000]), jnp.asarray(1000 - distances))
    assert before.shape == (1, 2, 1, len(cases)) and before.dtype == jnp.float32
    np.testing.assert_array_equal(before[0, :, 0], table[buckets].T)
    after = module.apply(variables, jnp.array([1000]), jnp.asarray(1000 + distances))
    # Keys behind the query have buckets of their own, or share that of distance 0.
    mirrored = (
        np.where(distances == 0, 0, buckets + 16) if bidirectional else 0 * buckets
    )
    np.testing.assert_array_equal(after[0, :, 0], table[mirrored].T)


def test_learned_positions_elsewhere_are_not_the_last_ones():
    module = LearnedPositions(4, offset=2)
    table = np.arange(12, dtype=np.float32).reshape(6, 2)
    x = jnp.zeros((1, 3, 2))
    out = module.apply({"params": {"embedding": table}}, x, jnp.array([[-1, 3, 4]]))
    np.testing.assert_array_equal(out[0, :2], table[[1, 5]])
    assert np.isnan(out[0, 2]).all()


def test_positions_start_again_in_every_segment():
    segments = jnp.array([[1, 1, 1, 2, 2, 0, 0], [3, 1, 1, 1, 1, 1, 2]])
    expected = [[0, 1, 2, 0, 1, 0, 1], [0, 0, 1, 2, 3, 4, 0]]
    found = segment_positions(segments)
    assert found.tolist() == expected and found.dtype == jnp.int32
