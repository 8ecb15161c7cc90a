"""Causal attention in blocks: the same numbers as written out, and half of the products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from layers import attention
from layers.attention import MultiHeadAttention, dot_product_attention
from layers.attention_blocks import block_length, blocks_attention
from layers.masks import causal_mask, combine_masks, padding_mask, segment_mask
from training import flops

B, N, H = 2, 4, 3
LENGTH = 150  # two whole blocks and a part of one
VALID = np.arange(LENGTH) < np.array([[LENGTH], [70]])
SEGMENTS = np.arange(LENGTH) // 60 * np.array([[0], [1]])
# The first 66 queries of the first row have no key before them; a block and two.
BLIND = np.arange(LENGTH) >= np.array([[66], [0]])
MASKS = {
    "none": None,
    "padding": padding_mask(jnp.asarray(VALID)),
    "segments and blind": combine_masks(
        segment_mask(jnp.asarray(SEGMENTS)), padding_mask(jnp.asarray(BLIND))
    ),
}


def inputs(kv_heads=N, dtype=np.float32, length=LENGTH):
    rng = np.random.default_rng(0)
    shapes = (B, length, N, H), *2 * [(B, length, kv_heads, H)], (B, length, N, H)
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def definition(query, key, value, mask):
    """Softmax over the allowed keys; zeros where there are none."""
    key, value = (jnp.repeat(x, N // x.shape[2], axis=2) for x in (key, value))
    allowed = combine_masks(mask, causal_mask(query.shape[1]))
    logits = jnp.einsum("btnh,bsnh->bnts", query, key) / np.sqrt(H)
    weights = jax.nn.softmax(jnp.where(allowed, logits, -1e30))
    weights = jnp.where(allowed, weights, 0)
    return jnp.einsum("bnts,bsnh->btnh", weights, value)


@pytest.mark.parametrize(
    ("mask", "kv_heads"), [("none", N), ("padding", 2), ("segments and blind", N)]
)
def test_value_and_gradient_are_those_of_the_definition(mask, kv_heads):
    mask = MASKS[mask]
    with jax.enable_x64(True):
        *heads, weight = inputs(kv_heads, np.float64)

        def both(attend):
            def loss(*heads):
                output = attend(*heads)
                return (output * weight).sum(), output

            return jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(*heads)

        expected = both(lambda *heads: definition(*heads, mask))
        found = both(
            lambda *heads: dot_product_attention(
                *heads, mask=mask, causal=True, implementation="blocks"
            )
        )
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-10),
            found,
            expected,
        )
        if mask is MASKS["segments and blind"]:
            assert not np.any(found[1][0, :66]) and np.any(found[1][0, 66:])


def test_half_precision_sums_in_float32():
    *heads, _ = inputs(dtype=jnp.bfloat16)
    found = blocks_attention(*heads, None)
    assert found.dtype == jnp.bfloat16
    wide = [x.astype(jnp.float32) for x in heads]
    exact = definition(wide[0] * np.sqrt(H), *wide[1:], None)
    np.testing.assert_allclose(found.astype(jnp.float32), exact, rtol=0.02, atol=0.02)


def calls(monkeypatch, devices, length, **options):
    """Whether the default takes blocks."""
    monkeypatch.setattr(attention.jax, "device_count", lambda: devices)
    heads = [jax.ShapeDtypeStruct((B, length, N, H), np.float32)] * 3
    traced = jax.make_jaxpr(lambda *x: dot_product_attention(*x, **options))(*heads)
    return "dot_product_attention_blocks" in str(traced)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the default of a CPU")
def test_the_default_is_blocks_for_long_causal_calls_on_one_device(monkeypatch):
    assert calls(monkeypatch, 1, LENGTH, causal=True)
    assert calls(monkeypatch, 1, LENGTH, causal=True, mask=MASKS["padding"])
    assert not calls(monkeypatch, 8, LENGTH, causal=True)
    assert not calls(monkeypatch, 1, 128, causal=True)
    assert not calls(monkeypatch, 1, LENGTH)
    bias = jnp.zeros((1, N, LENGTH, LENGTH))
    assert not calls(monkeypatch, 1, LENGTH, causal=True, bias=bias)
    drops = {"dropout_rate": 0.1, "dropout_rng": jax.random.key(0)}
    assert not calls(monkeypatch, 1, LENGTH, causal=True, **drops)
    assert not calls(monkeypatch, 1, LENGTH, causal=True, return_weights=True)


def test_flops_count_as_if_nothing_was_left_out():
    heads = inputs()[:3]

    def attend(implementation):
        return lambda *heads: dot_product_attention(
            *heads, causal=True, implementation=implementation
        )

    count = flops.count(attend("einsum"), *heads)
    assert flops.count(attend("blocks"), *heads) == count > 0


def test_decoding_step_by_step_equals_all_at_once():
    x = np.random.default_rng(0).normal(size=(B, 130, 8)).astype(np.float32)
    layer = MultiHeadAttention(2, causal=True, implementation="blocks")
    variables = layer.init(jax.random.key(0), x)

    @jax.jit
    def run(x):
        whole = layer.apply(variables, x)
        first, state = layer.apply(
            variables, x[:, :129], cache_length=130, mutable=["cache"]
        )
        last, _ = layer.apply(
            variables | state,
            x[:, 129:],
            positions=jnp.arange(129, 130),
            cache_length=130,
            mutable=["cache"],
        )
        return whole, jnp.concatenate([first, last], 1)

    np.testing.assert_allclose(*run(x), rtol=1e-5, atol=1e-6)


def test_blocks_are_few_and_not_small():
    assert [block_length(x) for x in (1, 64, 256, 512, 513, 1024)] == [
        *4 * [64],
        *2 * [128],
    ]
    for length in range(1, 5000, 37):
        assert block_length(length) % 64 == 0
        assert -(-length // block_length(length)) <= 8


def test_what_blocks_cannot_do_is_said():
    query, key, value, _ = inputs()
    with pytest.raises(ValueError, match="150 queries to 149 keys"):
        blocks_attention(query, key[:, 1:], value[:, 1:], None)
    with pytest.raises(ValueError, match="one mask for all heads"):
        blocks_attention(query, key, value, jnp.ones((1, N, 1, LENGTH), bool))
    with pytest.raises(ValueError, match="4 query heads are not a multiple of 3"):
        blocks_attention(query, key[:, :, 1:], value[:, :, 1:], None)
    with pytest.raises(ValueError, match="'blocks' has no dropout"):
        dot_product_attention(
            query,
            key,
            value,
            causal=True,
            implementation="blocks",
            dropout_rate=0.5,
            dropout_rng=jax.random.key(0),
        )
