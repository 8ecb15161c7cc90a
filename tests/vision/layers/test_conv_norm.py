"""Convolution, norm, activation: order, shapes, statistics."""

import jax
import jax.numpy as jnp
import numpy as np

from vision.layers.conv_norm import ConvNorm

IMAGE = jnp.asarray(np.random.default_rng(0).normal(size=(3, 9, 8, 2)), jnp.float32)


def test_relu_is_last_and_the_norm_has_the_only_bias():
    plain = ConvNorm(4, kernel_size=3, activation="identity", norm_epsilon=0.0)
    variables = plain.init(jax.random.key(1), IMAGE)
    assert set(variables["params"]) == {"conv", "norm"}
    assert set(variables["params"]["conv"]) == {"kernel"}
    run = {"train": True, "mutable": "batch_stats"}
    y, _ = plain.apply(variables, IMAGE, **run)
    np.testing.assert_allclose(y.mean((0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(y.var((0, 1, 2)), 1, rtol=1e-5)
    rectified = ConvNorm(4, kernel_size=3, norm_epsilon=0.0)
    np.testing.assert_array_equal(
        rectified.apply(variables, IMAGE, **run)[0], jnp.maximum(y, 0)
    )


def test_momentum_weighs_the_old_statistics():
    module = ConvNorm(1, norm_momentum=0.75)
    variables = module.init(jax.random.key(1), IMAGE)
    _, updated = module.apply(variables, IMAGE, train=True, mutable="batch_stats")
    kernel = variables["params"]["conv"]["kernel"][0, 0, :, 0]
    expected = 0.25 * (IMAGE @ kernel).mean()
    np.testing.assert_allclose(
        updated["batch_stats"]["norm"]["mean"], [expected], atol=1e-6
    )


def test_oblong_kernels_strides_and_padding():
    shapes = {
        ((1, 7), 1, "SAME"): (3, 9, 8, 5),
        (3, 2, "VALID"): (3, 4, 3, 5),
        (3, 2, 1): (3, 5, 4, 5),
    }
    for (kernel, stride, padding), expected in shapes.items():
        module = ConvNorm(5, kernel, stride, padding)
        y, variables = jax.eval_shape(
            lambda rng, m=module: m.init_with_output(rng, IMAGE), jax.random.key(0)
        )
        assert y.shape == expected
        size = 2 * 5 * (kernel[0] * kernel[1] if isinstance(kernel, tuple) else 9)
        assert variables["params"]["conv"]["kernel"].size == size
