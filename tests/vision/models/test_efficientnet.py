"""EfficientNet: parity, published counts, compound scaling, stochastic depth, learning."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.import_weights import convert
from vision.models import efficientnet
from vision.models.efficientnet import EfficientNet
from vision.weights.efficientnet import TIMM, TORCHVISION

NAME = "efficientnet_tiny_tf"


def test_parity(parity, imported, assert_parity, tap_error):
    model = EfficientNet(num_classes=10, width=0.25, depth=0.5)
    variables = imported(model, NAME)
    arrays = parity(NAME)[1]

    @jax.jit
    def run(image):
        return model.apply(
            variables,
            image,
            capture_intermediates=lambda module, method: (
                method in ("stages", "features") or module.name == "stem_conv"
            ),
            mutable="intermediates",
        )

    logits, captured = run(arrays["in_x_nhwc"])
    captured = captured["intermediates"]
    assert_parity(NAME, "logits", logits)
    assert_parity(NAME, "features", captured["features"][0].transpose(0, 3, 1, 2))
    stages = captured["stages"][0]
    ours = {f"blocks.{i}": stages[i] for i in (0, 1, 6)}
    ours["conv_stem"] = captured["stem_conv"]["__call__"][0]
    for name, map_ in ours.items():
        assert tap_error(NAME, name, map_.transpose(0, 3, 1, 2)) < 1e-5
    # 75 pixels: odd, as are the sizes after them.
    assert_parity(NAME, "logits_y", run(arrays["in_y_nhwc"])[0])


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (efficientnet.EfficientNetB0, 5_288_548),
        (efficientnet.EfficientNetB1, 7_794_184),
        pytest.param(efficientnet.EfficientNetB2, 9_109_994, marks=pytest.mark.slow),
        pytest.param(efficientnet.EfficientNetB3, 12_233_232, marks=pytest.mark.slow),
        pytest.param(efficientnet.EfficientNetB4, 19_341_616, marks=pytest.mark.slow),
        pytest.param(efficientnet.EfficientNetB5, 30_389_784, marks=pytest.mark.slow),
        pytest.param(efficientnet.EfficientNetB6, 43_040_704, marks=pytest.mark.slow),
        pytest.param(efficientnet.EfficientNetB7, 66_347_960, marks=pytest.mark.slow),
    ],
)
def test_published_parameter_counts(make, expected, count_parameters):
    assert count_parameters(make(num_classes=1000), (1, 224, 224, 3)) == expected


def test_all_dimensions_grow_together():
    """The paper's alpha 1.2 (depth), beta 1.1 (width): sizes of B7 from those of B0."""
    sizes = [
        efficientnet.EfficientNetB0(num_classes=0).stage_sizes,
        efficientnet.EfficientNetB1(num_classes=0).stage_sizes,
        efficientnet.EfficientNetB7(num_classes=0).stage_sizes,
    ]
    assert sizes == [
        (1, 2, 2, 3, 3, 4, 1),
        (2, 3, 3, 4, 4, 5, 2),
        (4, 7, 7, 10, 10, 13, 4),
    ]


SPECS = ((1, 3, 8, 1, 1), (2, 5, 8, 2, 2))


def small(**fields):
    fields = {"stage_specs": SPECS, "stem_width": 8, "head_width": 16, **fields}
    return EfficientNet(num_classes=3, norm_momentum=0.9, **fields)


IMAGE = jnp.asarray(np.random.default_rng(7).normal(size=(6, 16, 16, 3)), jnp.float32)


def test_the_gates_are_a_fourth_of_the_blocks_input(random_variables):
    params = random_variables(small(), IMAGE)["params"]
    for block in ("stage_0_block_0", "stage_1_block_0", "stage_1_block_1"):
        *_, hidden, reduced = params[block]["squeeze_excite"]["reduce"]["kernel"].shape
        assert hidden == (8 if block == "stage_0_block_0" else 16) and reduced == 2


def test_strides(stage_shapes):
    model = EfficientNet(num_classes=0, width=0.25, depth=0.5)
    out = [shape[1:3] for shape in stage_shapes(model, (1, 64, 96, 1))]
    assert out == [(64 // s, 96 // s) for s in (2, 4, 8, 16, 16, 32, 32)]


def test_stochastic_depth_grows_with_depth(random_variables):
    """The first block is never left out, the last with nearly the whole rate."""
    model = small(drop_path_rate=0.9, stage_specs=((1, 3, 8, 4, 1),))
    rates = []

    def look(next_function, arguments, options, context):
        if context.method_name == "__call__" and context.module.name == "drop_path":
            rates.append(context.module.rate)
        return next_function(*arguments, **options)

    with nn.intercept_methods(look):
        jax.eval_shape(model.init, jax.random.key(0), IMAGE)
    np.testing.assert_allclose(rates, [0, 0.225, 0.45, 0.675])


@pytest.mark.parametrize("naming", [TIMM, TORCHVISION], ids=lambda n: n.name)
def test_files_of_both_publishers_fill_the_model(naming, numbered_weights):
    model = EfficientNet(num_classes=10, width=0.25, depth=0.5)
    template = jax.eval_shape(model.init, jax.random.key(0), IMAGE)
    weights = numbered_weights(naming, template)
    # The first stage's layers are counted from another start than the others'.
    first = {
        TIMM.name: ("blocks.0.0.conv_pw.weight", "blocks.1.0.conv_pwl.weight"),
        TORCHVISION.name: (
            "features.1.0.block.2.0.weight",
            "features.2.0.block.3.0.weight",
        ),
    }[naming.name]
    params, _ = convert(weights, template)
    for name, block in zip(first, ("stage_0_block_0", "stage_1_block_0"), strict=True):
        kernel = params[block]["project_conv"]["kernel"]
        assert (kernel == weights[name].ravel()[0]).all()


def test_training_updates_statistics_and_evaluation_does_not(assert_statistics_move):
    assert_statistics_move(small(), IMAGE)


def test_half_precision_keeps_float32_parameters_and_statistics(assert_half_precision):
    assert_half_precision(small(dtype="bfloat16"), IMAGE, train=True, statistics=True)


@pytest.mark.slow
def test_it_learns_a_handful_of_images(overfit):
    losses = overfit(small(), IMAGE, steps=40, learning_rate=1e-2)
    assert losses[0] > 0.8 and losses[-1] < 0.2


def test_errors_name_the_value():
    with pytest.raises(ValueError, match="padding is 'same'; known: symmetric, SAME"):
        jax.eval_shape(small(padding="same").init, jax.random.key(0), IMAGE)
