"""Normalisation against its definition, Linen and torch."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from layers.convolution import Conv
from layers.normalization import (
    BatchNorm,
    GroupNorm,
    LayerNorm,
    RMSNorm,
    batch_norm,
)

KEY = jax.random.key(0)


def definition(x, scale, bias, mask, epsilon):
    """What BatchNorm means, to be differentiated by JAX."""
    weight = jnp.ones(x.shape[0]) if mask is None else mask
    weight = weight.reshape(-1, 1, 1, 1) * jnp.ones(x.shape[:3])[..., None]
    count = weight.sum()
    mean = (x * weight).sum((0, 1, 2)) / count
    variance = (jnp.square(x - mean) * weight).sum((0, 1, 2)) / count
    y = (x - mean) / jnp.sqrt(variance + epsilon) * scale + bias
    return y, mean, variance, count


def outputs_and_gradients(norm, x, scale, bias, mask):
    """(outputs, gradients) of a scalar that feels every output of `norm`."""

    def scalar(x, scale, bias):
        y, mean, variance, _ = norm(x, scale, bias, mask, 1e-3)
        total = (jnp.sin(y) * jnp.arange(y.size).reshape(y.shape)).sum()
        return total + (mean**3).sum() + jnp.exp(variance).sum(), (y, mean, variance)

    grad = jax.grad(scalar, argnums=(0, 1, 2), has_aux=True)
    gradients, outputs = jax.jit(grad)(x, scale, bias)
    return outputs, gradients


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("devices", [1, 8])
def test_batch_norm_has_value_and_gradient_of_the_definition(masked, devices):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x = rng.normal(1.0, 2.0, size=(16, 3, 4, 5))
        scale, bias = rng.normal(size=5), rng.normal(size=5)
        mask = np.arange(16) % 5 != 1 if masked else None
        expected = outputs_and_gradients(definition, x, scale, bias, mask)
        mesh = jax.make_mesh(
            (devices,),
            ("data",),
            axis_types=(AxisType.Auto,),
            devices=jax.devices()[:devices],
        )
        rows = NamedSharding(mesh, PartitionSpec("data"))
        x = jax.device_put(x, rows)
        mask = jax.device_put(mask, rows) if masked else None
        ours = outputs_and_gradients(batch_norm, x, scale, bias, mask)
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
            assert a.dtype == jnp.float64
            assert np.abs(a - b).max() <= 1e-10 * max(1, np.abs(b).max())


@functools.partial(jax.jit, static_argnums=0)
def train_step(layer, variables, x, mask=None):
    """(y, updated statistics) in training."""
    y, updated = layer.apply(
        variables, x, use_running_average=False, mask=mask, mutable=["batch_stats"]
    )
    return y, updated["batch_stats"]


def test_padded_rows_change_nothing_for_the_others():
    x = jax.random.normal(KEY, (6, 4, 4, 3))
    layer = BatchNorm()
    variables = jax.jit(layer.init, static_argnums=2)(KEY, x, False)
    alone, stats = train_step(layer, variables, x[:4])
    padded, padded_stats = train_step(
        layer, variables, x.at[4:].set(1e3), mask=jnp.arange(6) < 4
    )
    np.testing.assert_allclose(padded[:4], alone, rtol=1e-5, atol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        padded_stats,
        stats,
    )


def test_batch_of_padding_leaves_the_statistics_and_finite_gradients():
    x = jax.random.normal(KEY, (4, 2, 2, 3))
    layer, mask = BatchNorm(), jnp.zeros(4, bool)
    variables = jax.jit(layer.init, static_argnums=2)(KEY, x, False)
    variables["batch_stats"]["mean"] += 0.3

    def scalar(x):
        y, stats = train_step(layer, variables, x, mask=mask)
        return (y**2).sum(), (y, stats)

    gradient, (y, stats) = jax.jit(jax.grad(scalar, has_aux=True))(x)
    assert np.isfinite(y).all() and np.isfinite(gradient).all()
    jax.tree.map(np.testing.assert_array_equal, stats, variables["batch_stats"])


def test_mask_of_another_shape_is_refused():
    x = jnp.ones((4, 2, 2, 3))
    with pytest.raises(ValueError, match=r"mask of shape \(3,\).*\(4, 2, 2, 3\)"):
        batch_norm(x, jnp.ones(3), jnp.zeros(3), jnp.ones(3, bool))


def test_masks_as_linen_wants_them_mean_the_same():
    x = jax.random.normal(KEY, (4, 5, 3))
    mask = jax.random.bernoulli(KEY, 0.5, (4, 5))
    layer, linen = BatchNorm(), nn.BatchNorm(momentum=0.9)
    variables = jax.jit(layer.init, static_argnums=2)(KEY, x, False)
    expected = train_step(linen, variables, x, mask=mask[..., None])
    for given in (mask, mask[..., None]):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
            train_step(layer, variables, x, mask=given),
            expected,
        )


@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("options", [{}, {"use_scale": False}, {"use_bias": False}])
def test_batch_norm_is_a_drop_in_for_linens(options, average):
    x = jax.random.normal(KEY, (8, 4, 4, 3)) * 2 + 1
    layer = BatchNorm(use_running_average=average, **options)
    linen = nn.BatchNorm(use_running_average=average, momentum=0.9, **options)
    variables = layer.init(KEY, x)
    jax.tree.map(np.testing.assert_array_equal, variables, linen.init(KEY, x))
    ours, expected = (
        norm.apply(variables, x, mutable=["batch_stats"]) for norm in (layer, linen)
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
        ours,
        expected,
    )


def test_half_precision_keeps_statistics_and_parameters_in_float32():
    x = 100 + jax.random.normal(KEY, (64, 4, 4, 2))
    layer = BatchNorm(dtype="bfloat16")
    variables = jax.jit(layer.init, static_argnums=2)(KEY, x, False)
    y, stats = train_step(layer, variables, x.astype(jnp.bfloat16))
    assert y.dtype == jnp.bfloat16
    for leaf in jax.tree.leaves((variables, stats)):
        assert leaf.dtype == jnp.float32
    # A sum of 1024 numbers near 100 would be off by several percent in bfloat16.
    expected = 0.1 * np.asarray(x.astype(jnp.bfloat16), np.float64).mean((0, 1, 2))
    np.testing.assert_allclose(stats["mean"], expected, rtol=1e-5)
    gradient = jax.grad(lambda x: train_step(layer, variables, x)[0][0].sum())(
        x.astype(jnp.bfloat16)
    )
    assert gradient.dtype == jnp.bfloat16


def test_train_step_parity_with_torch(parity):
    weights, arrays = parity("bn_train_step")
    x = arrays["in_x_nhwc"]
    conv = Conv(8, kernel_size=(3, 3), padding=1, use_bias=False)
    x = conv.apply({"params": {"kernel": weights["0.weight"].transpose(2, 3, 1, 0)}}, x)
    variables = {
        "params": {"scale": weights["1.weight"], "bias": weights["1.bias"]},
        "batch_stats": {
            "mean": weights["1.running_mean"],
            "var": weights["1.running_var"],
        },
    }
    layer = BatchNorm(unbiased_running_variance=True)
    y, stats = train_step(layer, variables, x)
    for ours, expected in (
        (nn.relu(y), arrays["out_y"].transpose(0, 2, 3, 1)),
        (stats["mean"], arrays["out_rm"]),
        (stats["var"], arrays["out_rv"]),
    ):
        assert np.abs(ours - expected).max() <= 1e-5 * np.abs(expected).max()
    _, biased = train_step(BatchNorm(), variables, x)
    assert (np.abs(biased["var"] - arrays["out_rv"]) > 1e-5).any()


def plain_layer_norm(x, axes, epsilon=1e-6, center=True):
    mean = x.mean(axes, keepdims=True) if center else 0
    variance = ((x - mean) ** 2).mean(axes, keepdims=True)
    return (x - mean) / jnp.sqrt(variance + epsilon)


def plain_group_norm(x, groups):
    split = x.reshape(*x.shape[:-1], groups, -1)
    return plain_layer_norm(split, (1, 2, 4)).reshape(x.shape)


@pytest.mark.parametrize(
    "layer, linen, plain",
    [
        (LayerNorm(), nn.LayerNorm(), functools.partial(plain_layer_norm, axes=-1)),
        (
            RMSNorm(),
            nn.RMSNorm(),
            functools.partial(plain_layer_norm, axes=-1, center=False),
        ),
        (GroupNorm(2), nn.GroupNorm(2), functools.partial(plain_group_norm, groups=2)),
    ],
    ids=["layer", "rms", "group"],
)
def test_other_norms_have_value_and_gradient_of_the_formula(layer, linen, plain):
    variables = layer.init(KEY, jnp.ones((2, 3, 5, 6)))
    jax.tree.map(
        np.testing.assert_array_equal,
        variables,
        linen.init(KEY, jnp.ones((2, 3, 5, 6))),
    )
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x = rng.normal(1, 2, size=(2, 3, 5, 6))
        params = {name: rng.normal(size=6) for name in variables["params"]}

        def ours(x, params):
            return layer.apply({"params": params}, x)

        def formula(x, params):
            return plain(x) * params["scale"] + params.get("bias", 0)

        def both(f):
            def scalar(x, params):
                y = f(x, params)
                return (jnp.sin(y) * jnp.arange(y.size).reshape(y.shape)).sum(), y

            return jax.jit(jax.grad(scalar, argnums=(0, 1), has_aux=True))(x, params)

        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10),
            both(ours),
            both(formula),
        )


@pytest.mark.parametrize("epsilon", ["1e-5", "1e-6", "1e-12"])
def test_layer_norm_parity_with_torch(parity, epsilon):
    _, arrays = parity("micro_ops")
    layer = LayerNorm(epsilon=float(epsilon), use_scale=False, use_bias=False)
    y = layer.apply({}, jnp.asarray(arrays["in_t"]) * 1e-2)
    expected = arrays[f"out_ln_{epsilon}"]
    assert np.abs(y - expected).max() <= 1e-5 * np.abs(expected).max()


def test_group_norm_parity_with_torch(parity):
    _, arrays = parity("micro_ops")
    layer = GroupNorm(2, epsilon=1e-5, use_scale=False, use_bias=False)
    y = layer.apply({}, jnp.asarray(arrays["in_x"].transpose(0, 2, 3, 1)))
    expected = arrays["out_groupnorm_2"].transpose(0, 2, 3, 1)
    assert np.abs(y - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("layer", [LayerNorm, RMSNorm, GroupNorm])
def test_other_norms_compute_in_float32_and_return_the_dtype(layer):
    x = (300 + jax.random.normal(KEY, (2, 64, 64))).astype(jnp.bfloat16)
    y, variables = layer(dtype="bfloat16").init_with_output(KEY, x)
    assert y.dtype == jnp.bfloat16
    wide = layer().apply(variables, x.astype(jnp.float32))
    np.testing.assert_allclose(y.astype(jnp.float32), wide, rtol=0.01, atol=0.01)
    for leaf in jax.tree.leaves(variables):
        assert leaf.dtype == jnp.float32


def test_group_norm_refuses_channels_that_do_not_divide():
    with pytest.raises(ValueError, match="6 channels.*num_groups=4"):
        GroupNorm(4).init(KEY, jnp.ones((1, 2, 6)))
