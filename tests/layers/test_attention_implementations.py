"""Attention on one more query and key gives the same outputs and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from layers.attention import MultiHeadAttention, dot_product_attention
from layers.attention_implementations import even_pairs, on_even_lengths


def _arrays(T, S):
    keys = jax.random.split(jax.random.key(0), 5)
    query = jax.random.normal(keys[0], (2, T, 2, 4))
    key, value = (jax.random.normal(k, (2, S, 2, 4)) for k in keys[1:3])
    mask = jax.random.bernoulli(keys[3], 0.7, (2, 1, T, S)).at[..., 0].set(True)
    return (query, key, value), mask, jax.random.normal(keys[4], (1, 2, T, S))


def _with_gradients(attend, arrays, **options):
    def loss(*arrays):
        return jnp.square(attend(*arrays, **options)).sum()

    return jax.value_and_grad(loss, (0, 1, 2))(*arrays)


@pytest.mark.parametrize(("T", "S"), [(5, 5), (5, 4), (4, 5), (4, 6)])
@pytest.mark.parametrize("masked", ["none", "full", "padding"])
@pytest.mark.parametrize("biased", [False, True])
def test_one_more_place_changes_nothing(T, S, masked, biased):
    arrays, mask, bias = _arrays(T, S)
    mask = {"none": None, "full": mask, "padding": mask[:, :, :1]}[masked]
    lengths = []

    def attend(query, key, value, **options):
        lengths.extend((query.shape[1], key.shape[1]))
        return jax.nn.dot_product_attention(query, key, value, **options)

    options = {"mask": mask, "bias": bias if biased else None}
    expected = _with_gradients(jax.nn.dot_product_attention, arrays, **options)
    even = functools.partial(on_even_lengths, attend, num_keys=None)
    found = _with_gradients(even, arrays, **options)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected
    )
    assert not any(length % 2 for length in lengths)


@pytest.mark.parametrize("implementation", ["einsum", "xla"])
def test_padding_behind_num_keys_is_not_seen(implementation):
    (query, key, value), _, _ = _arrays(4, 5)
    found = dot_product_attention(
        query, key, value, num_keys=3, implementation=implementation
    )
    expected = dot_product_attention(query, key[:, :3], value[:, :3])
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_new_query_is_never_blind():
    mask = jnp.ones((1, 1, 3, 3), bool).at[..., 2, 1:].set(False)
    mask, _ = even_pairs(mask, None)
    assert mask.shape == (1, 1, 4, 4)
    assert mask.any(-1).all() and not mask[..., 3].any()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_the_layer_pads_its_input_for_cudnn(monkeypatch, causal, masked):
    """cuDNN is not here: what would go to it is computed by XLA."""
    from layers import attention, attention_implementations

    x = jax.random.normal(jax.random.key(1), (2, 5, 8))
    mask = jnp.arange(5)[None, None, None] < 4 if masked else None
    layer = functools.partial(MultiHeadAttention, 2, causal=causal, rotary_base=1e4)
    variables = layer().init(jax.random.key(0), x)
    expected = layer().apply(variables, x, mask=mask)
    lengths = []

    def note(*arrays, implementation, **options):
        lengths.append(arrays[0].shape[1])
        return real(*arrays, implementation="xla", **options)

    real = attention.jax.nn.dot_product_attention
    monkeypatch.setattr(attention.jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(attention_implementations.jax.nn, "dot_product_attention", note)
    found = layer(implementation="cudnn").apply(variables, x, mask=mask)
    assert lengths == [6]
    np.testing.assert_allclose(found, expected, atol=1e-5)
