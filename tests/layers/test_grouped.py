"""Grouped convolution: by dense convolutions the same as written for any device."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from layers import grouped
from layers.convolution import Conv
from layers.grouped import convolved, grouped_conv, is_large_grouped
from training import flops

UNIT = {"strides": (1, 1), "padding": ((1, 1), (1, 1))}


def inputs(image=(2, 9, 8, 12), window=(3, 3), groups=3, features=6, dtype=np.float32):
    rng = np.random.default_rng(0)
    shapes = image, (*window, image[-1] // groups, features)
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


@pytest.mark.parametrize(
    ("window", "strides", "padding"),
    [
        ((3, 3), (1, 1), "SAME"),
        ((3, 3), (2, 2), "VALID"),
        ((5, 2), (2, 3), ((1, 2), (4, 0))),
        ((1, 1), (1, 1), "SAME"),
    ],
)
@pytest.mark.parametrize("groups", [2, 12, 32])
def test_value_and_gradient_are_those_of_the_convolution(
    groups, window, strides, padding
):
    with jax.enable_x64(True):
        image, kernel = inputs(
            (2, 9, 8, 4 * groups), window, groups, 2 * groups, np.float64
        )
        shape = jax.eval_shape(
            lambda x, k: grouped_conv(x, k, strides, padding, groups), image, kernel
        ).shape
        direction = np.random.default_rng(1).normal(size=shape)

        def ours(image, kernel):
            return grouped_conv(image, kernel, strides, padding, groups)

        def theirs(image, kernel):
            return lax.conv_general_dilated(
                image,
                kernel,
                strides,
                padding,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=groups,
            )

        def both(function):
            def loss(image, kernel):
                out = function(image, kernel)
                return (out * direction).sum(), out

            return jax.jit(jax.grad(loss, (0, 1), has_aux=True))(image, kernel)

        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-12),
            both(ours),
            both(theirs),
        )


def test_groups_join_until_a_core_is_busy_and_convolutions_are_few():
    assert grouped._joined(groups=32, channels=4) == 16  # ResNeXt-50, 128 channels
    assert grouped._joined(groups=32, channels=8) == 8
    assert grouped._joined(groups=32, channels=32) == 4  # of 1,024 channels
    assert grouped._joined(groups=2, channels=48) == 1  # AlexNet's streams
    assert grouped._joined(groups=3, channels=1) == 3
    assert grouped._joined(groups=14, channels=24) == 2
    assert grouped._joined(groups=13, channels=24) == 13


def takes_dense(layer, shape):
    image = jax.ShapeDtypeStruct(shape, np.float32)
    variables = jax.eval_shape(layer.init, jax.random.key(0), image)
    return "platform_index" in str(jax.make_jaxpr(layer.apply)(variables, image))


def test_layers_of_some_size_take_it():
    big = (2, 64, 64, 16)
    fields = {"features": 32, "kernel_size": (3, 3), "feature_group_count": 4}
    assert takes_dense(Conv(**fields), big)
    assert takes_dense(Conv(**fields, strides=2, padding=1), big)
    assert not takes_dense(Conv(**fields), (2, 8, 8, 16))
    assert not takes_dense(Conv(**fields, kernel_dilation=2), big)
    assert not takes_dense(Conv(**fields, precision="highest"), big)
    assert not takes_dense(Conv(**{**fields, "feature_group_count": 1}), big)
    assert not is_large_grouped(jnp.ones((2, 2**20, 4)), jnp.ones((3, 2, 4)), 2)


def test_a_layer_equals_linens():
    image, _ = inputs((2, 32, 32, 32))
    fields = {"features": 64, "kernel_size": (3, 3), "feature_group_count": 8}
    ours, linens = Conv(**fields, strides=2), nn.Conv(**fields, strides=2)
    variables = linens.init(jax.random.key(0), image)
    assert takes_dense(ours, image.shape)

    def both(layer):
        def loss(variables, image):
            return (layer.apply(variables, image) ** 2).mean()

        return jax.jit(jax.value_and_grad(loss, (0, 1)))(variables, image)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8),
        both(ours),
        both(linens),
    )


def test_flops_are_those_of_the_groups():
    """What is multiplied with zeros does not count as work."""
    image, kernel = inputs((2, 32, 32, 16), groups=4, features=16)

    def gradients(function):
        return flops.count(
            jax.grad(lambda *arrays: function(*arrays).sum(), (0, 1)), image, kernel
        )

    ours = gradients(lambda x, k: grouped_conv(x, k, *UNIT.values(), 4))
    assert ours == gradients(lambda x, k: convolved(x, k, **UNIT, groups=4)) > 0


@pytest.mark.skipif(jax.device_count() < 2, reason="needs several devices")
def test_shards_of_a_batch_stay_where_they_are():
    axis_types = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types)
    image, kernel = inputs((jax.device_count(), 8, 8, 12))
    image = jax.device_put(image, NamedSharding(mesh, PartitionSpec("data")))

    def gradients(function):
        return jax.jit(jax.grad(lambda k, x: (function(x, k) ** 2).sum(), (0, 1)))

    compiled = gradients(lambda x, k: grouped_conv(x, k, *UNIT.values(), 3))
    compiled = compiled.lower(kernel, image).compile()
    text = compiled.as_text()
    assert "all-gather" not in text and "all-to-all" not in text
    found, of_image = compiled(kernel, image)
    assert of_image.sharding.spec == PartitionSpec("data")
    expected = gradients(lambda x, k: convolved(x, k, **UNIT, groups=3))(
        kernel, np.asarray(image)
    )
    np.testing.assert_allclose(found, expected[0], rtol=1e-4)
    np.testing.assert_allclose(of_image, expected[1], rtol=1e-4, atol=1e-4)
