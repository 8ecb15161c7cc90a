"""Depthwise convolution: as sums of shifted images the same as written for any device."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from layers.convolution import Conv
from layers.depthwise import depthwise_conv, is_large_depthwise
from training import flops


def inputs(image=(2, 9, 8, 3), window=(3, 3), dtype=np.float32):
    rng = np.random.default_rng(0)
    shapes = image, (*window, 1, image[-1])
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def convolved(image, kernel, strides, padding):
    return lax.conv_general_dilated(
        image,
        kernel,
        strides,
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=image.shape[-1],
    )


@pytest.mark.parametrize(
    ("window", "strides", "padding"),
    [
        ((3, 3), (1, 1), "SAME"),
        ((3, 3), (2, 2), "SAME"),
        ((3, 3), (2, 2), "VALID"),
        ((5, 5), (2, 2), ((1, 2), (2, 2))),
        ((2, 7), (1, 3), ((0, 3), (4, 0))),
        ((1, 3), (3, 1), ((2, 1), (5, 4))),  # more border than window
        ((7, 7), (1, 1), "SAME"),
        ((13, 9), (2, 1), "SAME"),  # large: a sum of two
        ((1, 90), (1, 1), "SAME"),  # too large, and of one row
    ],
)
def test_value_and_gradient_are_those_of_the_convolution(window, strides, padding):
    with jax.enable_x64(True):
        image, kernel = inputs(window=window, dtype=np.float64)
        shape = jax.eval_shape(
            lambda *x: convolved(*x, strides, padding), image, kernel
        )
        weight = np.random.default_rng(1).normal(size=shape.shape)

        def both(function):
            def loss(*arrays):
                found = function(*arrays, strides, padding)
                return (found * weight).sum(), found

            return jax.jit(jax.grad(loss, (0, 1), has_aux=True))(image, kernel)

        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-12),
            both(depthwise_conv),
            both(convolved),
        )


def test_half_precision_sums_in_float32():
    image, kernel = inputs((1, 12, 12, 4), (9, 9))
    image, kernel = 1 + image.astype(jnp.bfloat16) / 8, kernel.astype(jnp.bfloat16)
    found = depthwise_conv(image, kernel, (1, 1), "SAME")
    wide = [x.astype(jnp.float32) for x in (image, kernel)]
    exact = convolved(*wide, (1, 1), "SAME")
    assert found.dtype == jnp.bfloat16
    # One rounding at the end.
    np.testing.assert_allclose(found.astype(jnp.float32), exact, rtol=2**-8, atol=1e-5)


def takes_shifts(layer, shape):
    image = jax.ShapeDtypeStruct(shape, np.float32)
    variables = jax.eval_shape(layer.init, jax.random.key(0), image)
    return "platform_index" in str(jax.make_jaxpr(layer.apply)(variables, image))


def test_layers_of_some_size_take_it():
    big = (2, 64, 64, 16)
    fields = {"features": 16, "kernel_size": (3, 3), "feature_group_count": 16}
    assert takes_shifts(Conv(**fields), big)
    assert takes_shifts(Conv(**fields, strides=2, padding=1), big)
    assert not takes_shifts(Conv(**fields), (2, 8, 8, 16))
    assert not takes_shifts(Conv(**fields, kernel_dilation=2), big)
    assert not takes_shifts(Conv(**fields, precision="highest"), big)
    image, kernel = inputs(big)
    assert is_large_depthwise(image, kernel, 16)
    assert not is_large_depthwise(image, kernel, 4)
    assert not is_large_depthwise(image, jnp.ones((3, 3, 1, 32)), 16)
    assert not is_large_depthwise(jnp.ones((2, 2**20, 2)), jnp.ones((3, 1, 2)), 2)


def test_a_layer_equals_linens():
    image, _ = inputs((2, 48, 48, 32))
    fields = {"features": 32, "kernel_size": (5, 5), "feature_group_count": 32}
    ours, linens = Conv(**fields, strides=2), nn.Conv(**fields, strides=2)
    variables = linens.init(jax.random.key(0), image)
    assert takes_shifts(ours, image.shape)

    def both(layer):
        def loss(variables, image):
            return (layer.apply(variables, image) ** 2).mean()

        return jax.jit(jax.value_and_grad(loss, (0, 1)))(variables, image)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8),
        both(ours),
        both(linens),
    )


def test_flops_are_those_of_the_convolution():
    image, kernel = inputs((2, 64, 64, 16))

    def gradients(function):
        def loss(*arrays):
            return function(*arrays, (1, 1), "SAME").sum()

        return flops.count(jax.grad(loss, (0, 1)), image, kernel)

    assert gradients(depthwise_conv) == gradients(convolved) > 0


@pytest.mark.skipif(jax.device_count() < 2, reason="needs several devices")
@pytest.mark.parametrize("window", [(3, 3), (7, 7)])
def test_shards_of_a_batch_stay_where_they_are(window):
    axis_types = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types)
    image, kernel = inputs((jax.device_count(), 8, 8, 3), window)
    image = jax.device_put(image, NamedSharding(mesh, PartitionSpec("data")))

    def loss(kernel, image):
        return (depthwise_conv(image, kernel, (1, 1), "SAME") ** 2).sum()

    compiled = jax.jit(jax.grad(loss, (0, 1))).lower(kernel, image).compile()
    text = compiled.as_text()
    assert "all-gather" not in text and "all-to-all" not in text
    # The gradient of the kernel is summed over devices once, after the loop over rows.
    assert text.count(" all-reduce(") == 1
    assert text.index(" all-reduce(") > text.index("\nENTRY ")
    found, of_image = compiled(kernel, image)
    assert of_image.sharding.spec == PartitionSpec("data")
    expected = jax.grad(
        lambda k, x: (convolved(x, k, (1, 1), "SAME") ** 2).sum(), (0, 1)
    )(kernel, np.asarray(image))
    for ours, theirs in zip((found, of_image), expected, strict=True):
        scale = np.abs(theirs).max()
        np.testing.assert_allclose(ours / scale, theirs / scale, rtol=0, atol=1e-6)
