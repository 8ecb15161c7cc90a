"""BiT: a case by hand, counts, standardised kernels, independent examples, files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from vision.import_weights import convert, load_file
from vision.layers.standardized_convolution import StdConv, standardize
from vision.models import bit
from vision.models.bit import BiT

IMAGE = jnp.asarray(np.random.default_rng(7).normal(size=(4, 16, 16, 3)), jnp.float32)


def small(**fields):
    fields = {"num_classes": 3, "stage_sizes": (2, 1), "stage_widths": (4, 8), **fields}
    return BiT(stem_width=4, num_groups=2, **fields)


def reference_conv(x, kernel, stride=1):
    """A convolution with the kernel's mean and variance removed, numbers by numpy."""
    flat = np.asarray(kernel, np.float64).reshape(-1, kernel.shape[-1])
    flat = (flat - flat.mean(0)) / flat.std(0)
    pad = kernel.shape[0] // 2
    return lax.conv_general_dilated(
        x,
        jnp.asarray(flat.reshape(kernel.shape), jnp.float32),
        (stride, stride),
        [(pad, pad)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def reference_norm_relu(x, params):
    halves = jnp.split(x, 2, axis=-1)
    axes = {"axis": (1, 2, 3), "keepdims": True}
    halves = [(h - h.mean(**axes)) / jnp.sqrt(h.var(**axes) + 1e-5) for h in halves]
    y = jnp.concatenate(halves, -1)
    return jnp.maximum(y * params["scale"] + params["bias"], 0)


def test_a_network_by_hand(random_variables):
    model = small()
    variables = random_variables(model, IMAGE)
    params = variables["params"]

    def run(image):
        x = reference_conv(image, params["stem_conv"]["kernel"], 2)
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        # The largest of nine, zeros around the image included.
        slices = [
            x[:, i : i + 7 : 2, j : j + 7 : 2] for i in range(3) for j in range(3)
        ]
        x = jnp.stack(slices).max(0)
        blocks = (
            ("stage_0_block_0", 1),
            ("stage_0_block_1", 1),
            ("stage_1_block_0", 2),
        )
        for name, stride in blocks:
            p = params[name]
            y = reference_norm_relu(x, p["norm_0"])
            if "shortcut_conv" in p:
                x = reference_conv(y, p["shortcut_conv"]["kernel"], stride)
            y = reference_conv(y, p["conv_0"]["kernel"])
            y = reference_norm_relu(y, p["norm_1"])
            y = reference_conv(y, p["conv_1"]["kernel"], stride)
            y = reference_norm_relu(y, p["norm_2"])
            x = x + reference_conv(y, p["conv_2"]["kernel"])
        x = reference_norm_relu(x, params["norm"]).mean((1, 2))
        return x @ params["head"]["kernel"] + params["head"]["bias"]

    expected, logits = jax.jit(lambda x: (run(x), model.apply(variables, x)))(IMAGE)
    error = np.abs(logits - expected).max() / np.abs(expected).max()
    assert error < 1e-5


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (bit.BiT_R50x1, 25_549_352),
        pytest.param(bit.BiT_R50x3, 217_319_080, marks=pytest.mark.slow),
        pytest.param(bit.BiT_R101x1, 44_541_480, marks=pytest.mark.slow),
        pytest.param(bit.BiT_R101x3, 387_934_888, marks=pytest.mark.slow),
        # Published as 236.34 million.
        pytest.param(bit.BiT_R152x2, 236_335_208, marks=pytest.mark.slow),
        pytest.param(bit.BiT_R152x4, 936_533_224, marks=pytest.mark.slow),
    ],
)
def test_published_parameter_counts(make, expected, count_parameters):
    assert count_parameters(make(num_classes=1000), (1, 224, 224, 3)) == expected


def test_an_output_depends_on_its_own_image_only(random_variables):
    model = small()
    variables = random_variables(model, IMAGE)
    run = jax.jit(
        lambda x, train: model.apply(variables, x, train=train), static_argnums=1
    )
    together = run(IMAGE, True)
    assert list(variables) == ["params"]
    np.testing.assert_array_equal(together, run(IMAGE, False))
    others = IMAGE.at[1:].set(0)
    np.testing.assert_allclose(run(others, True)[0], together[0], rtol=1e-5, atol=1e-5)


def test_kernels_are_standardised_whatever_their_scale_and_mean():
    kernel = 3 + 5 * jnp.asarray(
        np.random.default_rng(0).normal(size=(3, 3, 4, 6)), jnp.float32
    )
    standard = standardize(kernel)
    np.testing.assert_allclose(standard.mean((0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(standard.std((0, 1, 2)), 1, rtol=1e-5)
    # The two publishers' epsilons, on a kernel small enough to tell.
    tiny = np.asarray(1e-4 * kernel[..., :1], np.float64).ravel()
    centered, deviation = tiny - tiny.mean(), tiny.std()
    for epsilons, divisor in (
        ((1e-8, 0.0), np.sqrt(deviation**2 + 1e-8)),
        ((0.0, 1e-5), deviation + 1e-5),
    ):
        ours = standardize(jnp.asarray(1e-4 * kernel[..., :1]), *epsilons)
        np.testing.assert_allclose(
            ours.ravel(), centered / divisor, rtol=1e-4, atol=1e-5
        )

    conv = StdConv(6, kernel_size=(3, 3), use_bias=False)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(1, 5, 5, 4)), jnp.float32)
    one, other = (
        conv.apply({"params": {"kernel": k}}, x) for k in (kernel, 2 * kernel - 1)
    )
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
    stored = conv.init(jax.random.key(0), x)["params"]["kernel"]
    assert stored.std() < 0.5  # as drawn, not as used


def google_file():
    """Names and shapes as in big_transfer's files, for `small()`."""
    conv = "standardized_conv2d/kernel"
    shapes = {
        f"resnet/root_block/{conv}": (7, 7, 3, 4),
        "resnet/group_norm/gamma": (32,),
        "resnet/group_norm/beta": (32,),
        "resnet/head/conv2d/kernel": (1, 1, 32, 3),
        "resnet/head/conv2d/bias": (3,),
        f"resnet/block1/unit01/a/proj/{conv}": (1, 1, 4, 16),
        f"resnet/block2/unit01/a/proj/{conv}": (1, 1, 16, 32),
    }
    units = {
        "block1/unit01": (4, 4, 16),
        "block1/unit02": (16, 4, 16),
        "block2/unit01": (16, 8, 32),
    }
    for name, (before, width, after) in units.items():
        parts = {
            "a": (1, 1, before, width),
            "b": (3, 3, width, width),
            "c": (1, 1, width, after),
        }
        for part, shape in parts.items():
            shapes[f"resnet/{name}/{part}/{conv}"] = shape
            for leaf in ("gamma", "beta"):
                shapes[f"resnet/{name}/{part}/group_norm/{leaf}"] = shape[2:3]
    rng = np.random.default_rng(0)
    return {k: rng.normal(size=v).astype(np.float32) for k, v in shapes.items()}


def test_googles_files_fill_it(tmp_path):
    weights = google_file()
    np.savez(tmp_path / "bit.npz", **weights)
    template = jax.eval_shape(small().init, jax.random.key(0), IMAGE)
    params, collections = convert(load_file(tmp_path / "bit.npz"), template)
    assert not collections
    np.testing.assert_array_equal(
        params["head"]["kernel"], weights["resnet/head/conv2d/kernel"][0, 0]
    )
    second = params["stage_0_block_1"]
    unit = "resnet/block1/unit02"
    np.testing.assert_array_equal(
        second["conv_1"]["kernel"], weights[f"{unit}/b/standardized_conv2d/kernel"]
    )
    np.testing.assert_array_equal(
        second["norm_2"]["scale"], weights[f"{unit}/c/group_norm/gamma"]
    )
    np.testing.assert_array_equal(
        params["stage_1_block_0"]["shortcut_conv"]["kernel"],
        weights["resnet/block2/unit01/a/proj/standardized_conv2d/kernel"],
    )
    wrong = small(stage_sizes=(3, 1))
    template = jax.eval_shape(wrong.init, jax.random.key(0), IMAGE)
    with pytest.raises(ValueError, match="missing: resnet/block1/unit03/a/group_norm"):
        convert(weights, template)


@pytest.mark.slow
def test_it_learns_a_handful_of_images(overfit):
    model = small(stage_sizes=(1,), stage_widths=(8,))
    losses = overfit(model, IMAGE, steps=40, learning_rate=1e-2)
    assert losses[0] > 1 and losses[-1] < 0.3


def test_half_precision_keeps_float32_parameters(
    random_variables, assert_half_precision
):
    model = small(dtype="bfloat16")
    assert_half_precision(model, IMAGE)
    variables = random_variables(model, IMAGE)
    half, full = jax.jit(lambda v: [m.apply(v, IMAGE) for m in (model, small())])(
        variables
    )
    assert half.dtype == jnp.bfloat16 and full.dtype == jnp.float32
    atol = 0.1 * np.abs(full).max()
    np.testing.assert_allclose(half.astype(np.float32), full, atol=atol)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stage_sizes": (1, 1, 1)}, "3 stage_sizes for 2 stage_widths"),
        ({"stage_sizes": ()}, "0 stage_sizes"),
        ({"padding": "SAME"}, "padding is 'SAME'.*set preactivation=False"),
        ({"padding": "full", "preactivation": False}, "padding is 'full'; known"),
        ({"num_groups": 3}, "4 channels do not divide into num_groups=3"),
    ],
)
def test_errors_name_the_value(fields, message):
    fields = {"stage_sizes": (2, 1), "stage_widths": (4, 8), "num_groups": 2, **fields}
    model = BiT(num_classes=3, stem_width=4, **fields)
    with pytest.raises(ValueError, match=message):
        model.init(jax.random.key(0), IMAGE)
