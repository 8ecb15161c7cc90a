import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from layers.convolution import Conv
from training import flops

ONE_PIXEL = [
    {"kernel_size": (1, 1)},
    {"kernel_size": (1, 1), "use_bias": False, "padding": "VALID"},
    {"kernel_size": (1, 1), "strides": 2},
    {"kernel_size": (1, 1), "strides": (3, 2), "padding": 0},
    {"kernel_size": (1, 1), "kernel_dilation": 2},
]
OTHERS = [
    {"kernel_size": (1, 1), "strides": 2, "padding": 1},
    {"kernel_size": (1, 1), "feature_group_count": 4},
    {"kernel_size": (1, 1), "input_dilation": 2, "padding": 0},
    {"kernel_size": (3, 3), "strides": 2, "padding": ((1, 1), (1, 1))},
    {"kernel_size": (3, 3), "strides": 2, "padding": "SAME"},
    {"kernel_size": (3, 3), "feature_group_count": 8},
    {"kernel_size": (3, 3), "kernel_dilation": 2},
]


def names(layer, x):
    jaxpr = jax.make_jaxpr(lambda x: layer.init_with_output(jax.random.key(0), x))(x)
    return {eqn.primitive.name for eqn in jaxpr.eqns}


@pytest.mark.parametrize("options", ONE_PIXEL + OTHERS, ids=str)
def test_equals_linen_in_parameters_value_and_gradient(options):
    key = jax.random.key(0)
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 7, 6, 8)))
        types = {"dtype": "float64", "param_dtype": "float64"}
        ours, linen = (cls(8, **options, **types) for cls in (Conv, nn.Conv))
        variables = ours.init(key, x)
        jax.tree.map(np.testing.assert_array_equal, variables, linen.init(key, x))

        def value(layer):
            def scalar(variables, x):
                out = layer.apply(variables, x)
                return jnp.sin(out).sum(), out

            grad = jax.grad(scalar, argnums=(0, 1), has_aux=True)
            return jax.jit(grad)(variables, x)

        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11),
            value(ours),
            value(linen),
        )


@pytest.mark.parametrize("options", ONE_PIXEL, ids=str)
def test_one_pixel_is_a_product(options):
    primitives = names(Conv(8, **options), jnp.ones((2, 7, 6, 8)))
    assert "dot_general" in primitives
    assert "conv_general_dilated" not in primitives


def test_one_dimension_and_extra_batch_dimensions():
    key, x = (
        jax.random.key(0),
        jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, 9, 4)), jnp.float32),
    )
    ours, linen = (cls(5, kernel_size=(1,), strides=2) for cls in (Conv, nn.Conv))
    variables = ours.init(key, x)
    np.testing.assert_allclose(
        ours.apply(variables, x), linen.apply(variables, x), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    "output, options",
    [
        ("conv_s2_p1", {"strides": 2, "padding": 1}),
        ("conv_s2_tfsame", {"strides": 2, "padding": "SAME"}),
        ("conv_dil2", {"kernel_dilation": 2, "padding": 2}),
    ],
)
def test_parity_with_torch(parity, output, options):
    weights, arrays = parity("micro_ops")
    layer = Conv(6, kernel_size=(3, 3), use_bias=False, **options)
    kernel = weights["w"].transpose(2, 3, 1, 0)
    y = layer.apply(
        {"params": {"kernel": kernel}}, arrays["in_x"].transpose(0, 2, 3, 1)
    )
    expected = arrays[f"out_{output}"].transpose(0, 2, 3, 1)
    assert np.abs(y - expected).max() <= 1e-5 * np.abs(expected).max()


BIG = jnp.asarray(np.random.default_rng(0).normal(size=(8, 32, 32, 32)), jnp.float32)
IN_GROUPS = [
    {"features": 32, "kernel_size": (3, 3), "feature_group_count": 32},
    {"features": 32, "kernel_size": (7, 7), "feature_group_count": 32},
    {"features": 32, "kernel_size": (5, 5), "feature_group_count": 32, "strides": 2},
    {"features": 64, "kernel_size": (3, 3), "feature_group_count": 8},
    {"features": 64, "kernel_size": (3, 3), "feature_group_count": 8, "padding": 1},
]


def depends_on_platform(layer, x):
    jaxpr = jax.make_jaxpr(lambda x: layer.init_with_output(jax.random.key(0), x))(x)
    return "platform_index" in str(jaxpr)


@pytest.mark.parametrize("options", IN_GROUPS, ids=str)
def test_many_channels_in_groups_are_the_cpus_own_business(options):
    assert depends_on_platform(Conv(**options), BIG)
    assert not depends_on_platform(Conv(**options), BIG[:1, :2, :2])
    for other in (
        {"kernel_dilation": 2},
        {"precision": "highest"},
        {"feature_group_count": 1},
    ):
        assert not depends_on_platform(Conv(**{**options, **other}), BIG)


def loss_of(layer):
    return lambda variables, x: (layer.apply(variables, x) ** 2).mean()


@pytest.mark.parametrize("options", IN_GROUPS, ids=str)
def test_in_groups_it_equals_linens_and_counts_as_linens(options):
    ours, linens = Conv(**options), nn.Conv(**options)
    variables = linens.init(jax.random.key(0), BIG)
    gradients = [jax.value_and_grad(loss_of(x), (0, 1)) for x in (ours, linens)]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7),
        *(jax.jit(gradient)(variables, BIG) for gradient in gradients),
    )
    # What is multiplied with zeros, or never put in the form of a convolution, counts as
    # the convolution.
    counts = [flops.count(gradient, variables, BIG) for gradient in gradients]
    assert counts[0] == counts[1] > 0


@pytest.mark.skipif(jax.device_count() < 2, reason="needs several devices")
@pytest.mark.parametrize("options", IN_GROUPS, ids=str)
def test_shards_of_a_batch_stay_where_they_are(options):
    layer = Conv(**options)
    axis_types = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types)
    image = BIG[: jax.device_count(), :16, :16]
    split = jax.device_put(image, NamedSharding(mesh, PartitionSpec("data")))
    variables = layer.init(jax.random.key(0), image)
    gradients = jax.jit(jax.grad(loss_of(layer), (0, 1)))
    compiled = gradients.lower(variables, split).compile()
    text = compiled.as_text()
    assert "all-gather" not in text and "all-to-all" not in text
    # Gradients of parameters are summed over devices at the end, and in no loop.
    assert text.index("\nENTRY ") < text.index(" all-reduce(")
    found = compiled(variables, split)
    assert found[1].sharding.spec == PartitionSpec("data")
    for ours, theirs in zip(
        *map(jax.tree.leaves, (found, gradients(variables, image))), strict=True
    ):
        scale = np.abs(theirs).max()
        np.testing.assert_allclose(ours / scale, theirs / scale, rtol=0, atol=2e-6)
