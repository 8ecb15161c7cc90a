"""Depthwise separable convolution: how few weights, and what it equals."""

import jax
import jax.numpy as jnp
import numpy as np

from layers.convolution import Conv
from vision.layers.separable import SeparableConv, SeparableConvNorm

IMAGE = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 7, 3)), jnp.float32)


def count(module):
    params = jax.eval_shape(module.init, jax.random.key(0), IMAGE)["params"]
    return sum(x.size for x in jax.tree.leaves(params))


def test_ten_3x3_filters_on_rgb_have_57_weights_ordinarily_270():
    assert count(SeparableConv(10)) == 3 * 3 * 3 + 3 * 10 == 57
    assert count(Conv(10, kernel_size=(3, 3), use_bias=False)) == 270


def test_it_is_an_ordinary_convolution_with_factored_weights():
    module = SeparableConv(5, strides=2, padding=((1, 1), (1, 1)))
    variables = module.init(jax.random.key(1), IMAGE)
    depthwise = variables["params"]["depthwise"]["kernel"]
    pointwise = variables["params"]["pointwise"]["kernel"]
    kernel = jnp.einsum("HWC,CF->HWCF", depthwise[:, :, 0], pointwise[0, 0])
    whole = Conv(5, kernel_size=(3, 3), strides=2, padding=1, use_bias=False)
    expected = whole.apply({"params": {"kernel": kernel}}, IMAGE)
    y = module.apply(variables, IMAGE)
    assert y.shape == (2, 3, 4, 5)
    np.testing.assert_allclose(y, expected, atol=1e-5)


def test_normalised_per_channel_in_training():
    module = SeparableConvNorm(4, norm_epsilon=0.0)
    variables = module.init(jax.random.key(1), IMAGE)
    y, _ = module.apply(variables, IMAGE, train=True, mutable="batch_stats")
    np.testing.assert_allclose(y.mean((0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(y.var((0, 1, 2)), 1, rtol=1e-5)
