"""Step by step with a cache equals all at once: the layer, and stacks of blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from layers.attention import MultiHeadAttention
from layers.transformer import Decoder, Encoder

B, T, S, D, P = 2, 6, 5, 8, 2
RNG = np.random.default_rng(0)
X = RNG.normal(size=(B, T, D)).astype(np.float32)
MEMORY = RNG.normal(size=(B, S, 3)).astype(np.float32)
REAL = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], bool)[:, None, None]


def drawn(module, *inputs, **options):
    """Variables shaped as `init` makes them, by numpy and nowhere zero."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(
        lambda key: module.init(key, *inputs, **options), jax.random.key(0)
    )
    return jax.tree.map(
        lambda s: (0.5 * rng.normal(size=s.shape)).astype(np.float32), shapes
    )


def stepwise(module, variables, x, *, cache_length, memory=None, **options):
    """The first P positions at once, the others one by one; and the cache."""
    positions = jnp.arange(P)
    first, state = module.apply(
        variables,
        x[:, :P],
        memory,
        positions=positions,
        cache_length=cache_length,
        mutable=["cache"],
        **options,
    )

    def step(carry, x):
        index, state = carry
        y, state = module.apply(
            {**variables, **state},
            x[:, None],
            positions=index[None],
            cache_length=cache_length,
            mutable=["cache"],
            **options,
        )
        return (index + 1, state), y[:, 0]

    rest = x[:, P:].swapaxes(0, 1)
    (_, state), rest = jax.lax.scan(step, (jnp.int32(P), state), rest)
    return jnp.concatenate([first, rest.swapaxes(0, 1)], 1), state["cache"]


@pytest.mark.parametrize("fields", [{}, {"num_kv_heads": 2, "rotary_base": 100.0}])
def test_self_attention(fields):
    module = MultiHeadAttention(4, causal=True, **fields)
    variables = drawn(module, X)

    @jax.jit
    def run(x):
        full = module.apply(variables, x)
        return full, stepwise(module, variables, x, cache_length=9)

    full, (steps, cache) = run(X)
    np.testing.assert_allclose(steps, full, rtol=1e-5, atol=1e-5)
    shape = (B, fields.get("num_kv_heads", 4), 9, D // 4)
    assert jax.tree.map(jnp.shape, cache) == {"key": shape, "value": shape}
    assert np.any(cache["key"][:, :, T - 1]) and not np.any(cache["key"][:, :, T:])


def test_a_bias_and_a_mask_are_of_all_that_the_cache_holds():
    module = MultiHeadAttention(4, causal=True)
    variables = drawn(module, X)
    mask = np.ones((B, 1, 1, 9), bool)
    mask[1, ..., 0] = False
    bias = RNG.normal(size=(1, 4, 1, 9)).astype(np.float32)

    @jax.jit
    def run(x):
        full = module.apply(variables, x, mask=mask[..., :T], bias=bias[..., :T])
        return full, stepwise(
            module, variables, x, cache_length=9, mask=mask, bias=bias
        )[0]

    full, steps = run(X)
    np.testing.assert_allclose(steps, full, rtol=1e-5, atol=1e-5)


def test_cross_attention_keeps_its_memory():
    module = MultiHeadAttention(4, cross=True)
    variables = drawn(module, X, MEMORY)

    @jax.jit
    def run(x, memory):
        full = module.apply(variables, x, memory, mask=REAL)
        return full, stepwise(
            module, variables, x, memory=memory, cache_length=9, mask=REAL
        )

    full, (steps, cache) = run(X, MEMORY)
    np.testing.assert_allclose(steps, full, rtol=1e-5, atol=1e-5)
    assert cache["key"].shape == cache["value"].shape == (B, 4, S, D // 4)
    # The memory's own projection, and nothing of the positions.
    kernel, bias = (variables["params"]["key"][leaf] for leaf in ("kernel", "bias"))
    by_hand = np.einsum("BSD,DNH->BNSH", MEMORY, kernel) + bias[None, :, None]
    np.testing.assert_allclose(cache["key"], by_hand, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="no memory, and none in the cache"):
        module.apply(variables, X)


@pytest.mark.parametrize("scan", [False, True])
def test_encoder(scan):
    module = Encoder(2, 2, 12, causal=True, scan=scan, norm="rms", rotary_base=100.0)
    variables = drawn(module, X)

    @jax.jit
    def run(x):
        full = module.apply(variables, x)
        return full, stepwise(module, variables, x, cache_length=T)

    full, (steps, cache) = run(X)
    np.testing.assert_allclose(steps, full, rtol=1e-4, atol=1e-5)
    key = (B, 2, T, D // 2)
    if scan:
        assert cache["blocks"]["attention"]["key"].shape == (2, *key)
    else:
        assert cache["block_1"]["attention"]["key"].shape == key


@pytest.mark.parametrize("scan", [False, True])
def test_decoder(scan):
    module = Decoder(2, 2, 12, scan=scan, pre_norm=False, final_norm=False)
    variables = drawn(module, X, MEMORY)

    @jax.jit
    def run(x, memory):
        full = module.apply(variables, x, memory, memory_mask=REAL)
        return full, stepwise(
            module, variables, x, memory=memory, cache_length=T, memory_mask=REAL
        )

    full, (steps, cache) = run(X, MEMORY)
    np.testing.assert_allclose(steps, full, rtol=1e-4, atol=1e-5)
    block = cache["blocks" if scan else "block_0"]
    assert set(block) == {"attention", "cross_attention"}


def test_shared_layers_have_no_cache_of_their_own():
    module = Encoder(2, 2, 12, causal=True, shared=True)
    with pytest.raises(ValueError, match="neither a scan nor a cache"):
        module.init(jax.random.key(0), X, cache_length=T)
