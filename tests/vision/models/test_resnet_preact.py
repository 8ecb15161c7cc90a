"""Pre-activation ResNet: a case by hand, counts, the identity path, dropout, learning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from vision.import_weights import convert
from vision.models import resnet_preact
from vision.models.resnet_preact import PreactResNet

IMAGE = jnp.asarray(np.random.default_rng(7).normal(size=(6, 8, 8, 3)), jnp.float32)


def small(**fields):
    fields = {"block": "basic", "stem": "small", **fields}
    fields = {"stage_sizes": (1, 1), "stage_widths": (4, 8), **fields}
    return PreactResNet(num_classes=3, stem_width=4, **fields)


def reference_conv(x, kernel, stride=1):
    pad = kernel.shape[0] // 2
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), [(pad, pad)] * 2, dimension_numbers=numbers
    )


def reference_norm_relu(x, params, stats, epsilon=1e-5):
    y = (x - stats["mean"]) / np.sqrt(stats["var"] + epsilon)
    return jnp.maximum(y * params["scale"] + params["bias"], 0)


def test_a_bottleneck_network_by_hand(random_variables):
    """The units of He et al. 2016, written out: figure 4 (e), and equation 1's shortcut."""
    model = small(block="bottleneck", stage_sizes=(2, 1))
    variables = random_variables(model, IMAGE)
    params, stats = variables["params"], variables["batch_stats"]

    def run(image):
        x = reference_conv(image, params["stem_conv"]["kernel"])
        blocks = (
            ("stage_0_block_0", 1),
            ("stage_0_block_1", 1),
            ("stage_1_block_0", 2),
        )
        for name, stride in blocks:
            p, s = params[name], stats[name]
            y = reference_norm_relu(x, p["norm_0"], s["norm_0"])
            if "shortcut_conv" in p:
                x = reference_conv(y, p["shortcut_conv"]["kernel"], stride)
            y = reference_conv(y, p["conv_0"]["kernel"])
            y = reference_norm_relu(y, p["norm_1"], s["norm_1"])
            y = reference_conv(y, p["conv_1"]["kernel"], stride)
            y = reference_norm_relu(y, p["norm_2"], s["norm_2"])
            x = x + reference_conv(y, p["conv_2"]["kernel"])
        x = reference_norm_relu(x, params["norm"], stats["norm"]).mean((1, 2))
        return x @ params["head"]["kernel"] + params["head"]["bias"]

    expected, logits = jax.jit(lambda x: (run(x), model.apply(variables, x)))(IMAGE)
    error = np.abs(logits - expected).max() / np.abs(expected).max()
    assert error < 1e-5
    assert "shortcut_conv" not in params["stage_0_block_1"]


@pytest.mark.parametrize(
    ("make", "size", "expected"),
    [
        # Of one norm less than ResNet-50: 64 scales and biases.
        (resnet_preact.PreactResNet50, 224, 25_549_352),
        pytest.param(
            resnet_preact.WideResNet28_10, 32, 36_479_194, marks=pytest.mark.slow
        ),
        (resnet_preact.WideResNet16_4, 32, 2_748_890),
        pytest.param(
            resnet_preact.CifarPreactResNet164, 32, 1_703_258, marks=pytest.mark.slow
        ),
        pytest.param(
            resnet_preact.PreactResNet200, 224, 64_666_152, marks=pytest.mark.slow
        ),
        pytest.param(
            resnet_preact.CifarPreactResNet1001, 32, 10_327_706, marks=pytest.mark.slow
        ),
    ],
)
def test_published_parameter_counts(make, size, expected, count_parameters):
    classes = 1000 if size == 224 else 10
    model = make(num_classes=classes)
    assert count_parameters(model, (1, size, size, 3)) == expected


def test_nothing_stands_on_the_way_of_the_shortcut(random_variables):
    """Without its branch a unit is the identity, below zero too: no activation."""
    model = small(stage_sizes=(3,), stage_widths=(4,))
    variables = random_variables(model, IMAGE)
    for name, block in variables["params"].items():
        if "block" in name:
            block["conv_1"]["kernel"] *= 0

    @jax.jit
    def run(image):
        _, captured = model.apply(
            variables,
            image,
            capture_intermediates=lambda module, _: "block" in (module.name or ""),
            mutable="intermediates",
        )
        blocks = captured["intermediates"]
        return [blocks[f"stage_0_block_{j}"]["__call__"][0] for j in range(3)]

    stem = reference_conv(IMAGE, variables["params"]["stem_conv"]["kernel"])
    for output in run(IMAGE):
        np.testing.assert_allclose(output, stem, rtol=1e-5, atol=1e-6)
        assert (output < 0).any()


def test_dropout_is_inside_of_a_block_and_in_training_only(random_variables):
    model = small(dropout_rate=0.5)
    variables = random_variables(model, IMAGE)
    plain = small()

    @jax.jit
    def run(rng):
        options = {"train": True, "mutable": "batch_stats"}
        trained, _ = model.apply(variables, IMAGE, rngs={"dropout": rng}, **options)
        without, _ = plain.apply(variables, IMAGE, **options)
        return (
            trained,
            without,
            model.apply(variables, IMAGE),
            plain.apply(variables, IMAGE),
        )

    trained, without, evaluated, expected = run(jax.random.key(0))
    np.testing.assert_array_equal(evaluated, expected)
    assert not np.allclose(trained, without, atol=1e-3)
    assert not np.allclose(trained, run(jax.random.key(1))[0], atol=1e-3)


def test_training_updates_statistics_and_evaluation_does_not(assert_statistics_move):
    assert_statistics_move(small(), IMAGE)


def test_timms_files_fill_it():
    model = small(block="bottleneck", stem="large", stage_sizes=(2, 1))
    template = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    shapes = {
        "stem.conv.weight": (4, 3, 7, 7),
        "norm.weight": (32,),
        "head.fc.weight": (3, 32, 1, 1),
        "head.fc.bias": (3,),
        "stages.0.blocks.0.downsample.conv.weight": (16, 4, 1, 1),
        "stages.1.blocks.0.downsample.conv.weight": (32, 16, 1, 1),
    }
    blocks = {
        "0.blocks.0": (4, 4, 16),
        "0.blocks.1": (16, 4, 16),
        "1.blocks.0": (16, 8, 32),
    }
    for name, (before, width, after) in blocks.items():
        shapes |= {
            f"stages.{name}.norm1.weight": (before,),
            f"stages.{name}.conv1.weight": (width, before, 1, 1),
            f"stages.{name}.norm2.weight": (width,),
            f"stages.{name}.conv2.weight": (width, width, 3, 3),
            f"stages.{name}.norm3.weight": (width,),
            f"stages.{name}.conv3.weight": (after, width, 1, 1),
        }
    for name, shape in tuple(shapes.items()):
        if "norm" in name:
            for leaf in ("bias", "running_mean", "running_var"):
                shapes[name.replace("weight", leaf)] = shape
            shapes[name.replace("weight", "num_batches_tracked")] = ()
    rng = np.random.default_rng(0)
    weights = {k: rng.normal(size=v).astype(np.float32) for k, v in shapes.items()}
    params, collections = convert(weights, template)
    np.testing.assert_array_equal(
        params["head"]["kernel"], weights["head.fc.weight"][:, :, 0, 0].T
    )
    np.testing.assert_array_equal(
        params["stage_0_block_1"]["conv_1"]["kernel"],
        weights["stages.0.blocks.1.conv2.weight"].transpose(2, 3, 1, 0),
    )
    np.testing.assert_array_equal(
        collections["batch_stats"]["stage_1_block_0"]["norm_2"]["var"],
        weights["stages.1.blocks.0.norm3.running_var"],
    )


def test_it_learns_a_handful_of_images(overfit):
    model = small(stage_sizes=(1,), stage_widths=(8,))
    losses = overfit(model, IMAGE, steps=40, learning_rate=2e-2)
    assert losses[0] > 0.8 and losses[-1] < 0.3


def test_half_precision_keeps_float32_parameters_and_statistics(assert_half_precision):
    assert_half_precision(small(dtype="bfloat16"), IMAGE, train=True, statistics=True)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stage_sizes": (1, 1, 1)}, "3 stage_sizes for 2 stage_widths"),
        ({"block": "dense"}, "block is 'dense'; known: basic, bottleneck"),
    ],
)
def test_errors_name_the_value(fields, message):
    with pytest.raises(ValueError, match=message):
        small(**fields).init(jax.random.key(0), IMAGE)
