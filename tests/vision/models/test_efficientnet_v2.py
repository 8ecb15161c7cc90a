"""EfficientNetV2: parity, published counts, fused blocks first, learning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.import_weights import convert
from vision.models import efficientnet_v2
from vision.models.efficientnet_v2 import EfficientNetV2, EfficientNetV2S
from vision.weights.efficientnet_v2 import TIMM, TORCHVISION_ML, TORCHVISION_S

NAME = "efficientnetv2_s"


def test_parity(parity, imported, assert_parity, tap_error):
    model = EfficientNetV2S(num_classes=10, padding="symmetric")
    variables = imported(model, NAME)
    arrays = parity(NAME)[1]

    @jax.jit
    def run(image):
        return model.apply(
            variables,
            image,
            capture_intermediates=lambda _, method: method in ("stages", "features"),
            mutable="intermediates",
        )

    logits, captured = run(arrays["in_x_nhwc"])
    captured = captured["intermediates"]
    assert_parity(NAME, "logits", logits)
    stages = captured["stages"][0]
    for number in (1, 2, 4):
        ours = stages[number - 1].transpose(0, 3, 1, 2)
        assert tap_error(NAME, f"features.{number}", ours) < 1e-5
    # Ten times the reference's own noise in float32.
    features = captured["features"][0].transpose(0, 3, 1, 2)
    assert tap_error(NAME, "features.7", features) < 1e-4


@pytest.mark.slow
def test_parity_of_odd_sizes(parity, imported, assert_parity):
    model = EfficientNetV2S(num_classes=10, padding="symmetric")
    variables = imported(model, NAME)
    image = parity(NAME)[1]["in_y_nhwc"]
    assert_parity(NAME, "logits_y", jax.jit(model.apply)(variables, image))


@pytest.mark.parametrize(
    ("make", "expected", "paper"),
    [
        (efficientnet_v2.EfficientNetV2S, 21_458_488, 22),
        pytest.param(
            efficientnet_v2.EfficientNetV2M, 54_139_356, 54, marks=pytest.mark.slow
        ),
        pytest.param(
            efficientnet_v2.EfficientNetV2L, 118_515_272, 120, marks=pytest.mark.slow
        ),
    ],
)
def test_published_parameter_counts(make, expected, paper, count_parameters):
    count = count_parameters(make(num_classes=1000), (1, 224, 224, 3))
    assert count == expected
    # Table 7 of the paper, in millions, generously rounded there.
    assert abs(count / 1e6 - paper) < 1.5


SPECS = (("fused", 1, 8, 1, 1), ("fused", 2, 8, 1, 2), ("mbconv", 2, 8, 1, 2))


def small(**fields):
    fields = {"stage_specs": SPECS, "head_width": 16, **fields}
    return EfficientNetV2(num_classes=3, norm_momentum=0.9, **fields)


IMAGE = jnp.asarray(np.random.default_rng(7).normal(size=(6, 16, 16, 3)), jnp.float32)


def test_early_blocks_are_fused_and_late_ones_excite():
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    model = EfficientNetV2S(num_classes=0)
    params = jax.eval_shape(model.init, jax.random.key(0), image)["params"]
    for name, block in params.items():
        if "block" in name:
            stage = int(name.split("_")[1])
            assert ("fused_conv" in block) == (stage < 3)
            assert ("squeeze_excite" in block) == (stage >= 3)
            assert ("project_conv" in block) == (stage > 0)


def test_strides(stage_shapes):
    out = stage_shapes(EfficientNetV2S(num_classes=0), (1, 64, 96, 1))
    strides, widths = (2, 4, 8, 16, 16, 32), (24, 48, 64, 128, 160, 256)
    assert [shape[1:] for shape in out] == [
        (64 // s, 96 // s, c) for s, c in zip(strides, widths, strict=True)
    ]


SIX = (*SPECS, *(("mbconv", 2, 8, 1, 1) for _ in range(3)))
SEVEN = (*SIX, ("mbconv", 2, 8, 1, 1))
# The last convolution's number tells how many stages a table is for.
CASES = [
    (SIX, TORCHVISION_S, "features.7.0.weight"),
    (SEVEN, TORCHVISION_ML, "features.8.0.weight"),
    (SEVEN, TIMM, "conv_head.weight"),
]


@pytest.mark.parametrize(("specs", "naming", "last"), CASES, ids=("s", "ml", "timm"))
def test_files_of_all_sizes_fill_their_model(specs, naming, last, numbered_weights):
    specs = (specs[0], specs[1], ("fused", 2, 8, 1, 1), *specs[3:])
    template = jax.eval_shape(small(stage_specs=specs).init, jax.random.key(0), IMAGE)
    weights = numbered_weights(naming, template)
    params, _ = convert(weights, template)
    assert (params["head_conv"]["kernel"] == weights[last].ravel()[0]).all()


def test_training_updates_statistics_and_evaluation_does_not(assert_statistics_move):
    assert_statistics_move(small(), IMAGE)


def test_half_precision_keeps_float32_parameters_and_statistics(assert_half_precision):
    assert_half_precision(small(dtype="bfloat16"), IMAGE, train=True, statistics=True)


@pytest.mark.slow
def test_it_learns_a_handful_of_images(overfit):
    losses = overfit(small(), IMAGE, steps=40, learning_rate=1e-2)
    assert losses[0] > 0.8 and losses[-1] < 0.2


def test_errors_name_the_value():
    model = small(stage_specs=(("dense", 1, 8, 1, 1),))
    with pytest.raises(ValueError, match="block is 'dense'; known: fused, mbconv"):
        jax.eval_shape(model.init, jax.random.key(0), IMAGE)
