"""MobileNet v2: parity, published counts, thin shortcuts, both namings, learning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.models import mobilenet_v2
from vision.models.mobilenet_v2 import MobileNetV2

NAME = "mobilenet_v2"
# torchvision's number of a layer and our name of it.
TAPS = {1: "stage_0_block_0", 2: "stage_1_block_0", 4: "stage_2_block_0"}


def test_parity(parity, imported, assert_parity, tap_error):
    model = MobileNetV2(num_classes=10)
    variables = imported(model, NAME)
    arrays = parity(NAME)[1]

    @jax.jit
    def run(image):
        return model.apply(
            variables,
            image,
            capture_intermediates=lambda module, method: (
                module.name in TAPS.values() or method == "features"
            ),
            mutable="intermediates",
        )

    logits, captured = run(arrays["in_x_nhwc"])
    captured = captured["intermediates"]
    assert_parity(NAME, "logits", logits)
    for number, name in TAPS.items():
        ours = captured[name]["__call__"][0].transpose(0, 3, 1, 2)
        assert tap_error(NAME, f"features.{number}", ours) < 1e-5
    # Ten times the reference's own noise in float32.
    features = captured["features"][0].transpose(0, 3, 1, 2)
    assert tap_error(NAME, "features.18", features) < 3e-5
    assert_parity(NAME, "logits_y", run(arrays["in_y_nhwc"])[0])


@pytest.mark.parametrize(
    ("make", "expected", "paper"),
    [
        (mobilenet_v2.MobileNetV2_100, 3_504_872, "3.5"),
        # timm's mobilenetv2_140; the paper's table 4 says 6.9.
        (mobilenet_v2.MobileNetV2_140, 6_108_776, "6.1"),
    ],
)
def test_published_parameter_counts(make, expected, paper, count_parameters):
    count = count_parameters(make(num_classes=1000), (1, 224, 224, 3))
    assert count == expected and f"{count / 1e6:.1f}" == paper


def small(**fields):
    specs = ((1, 8, 1, 1), (2, 8, 2, 2))
    fields = {"stage_specs": specs, "stem_width": 8, "head_width": 16, **fields}
    return MobileNetV2(num_classes=3, **fields)


IMAGE = jnp.asarray(np.random.default_rng(7).normal(size=(6, 16, 16, 3)), jnp.float32)


def test_what_passes_between_blocks_is_thin_and_linear(random_variables):
    """The hidden maps have six times the channels, and only they are rectified."""
    model = MobileNetV2(num_classes=0)
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), image)["params"]
    for name, block in params.items():
        if name.startswith("stage") and "expand_conv" in block:
            *_, thin, wide = block["expand_conv"]["kernel"].shape
            assert wide == 6 * thin
    model = small()
    variables = random_variables(model, IMAGE)
    stages, features = jax.jit(
        lambda v: (
            model.apply(v, IMAGE, method="stages"),
            model.apply(v, IMAGE, method="features"),
        )
    )(variables)
    assert all((x < 0).any() for x in stages)
    assert features.min() == 0 and features.max() <= 6


def test_strides_and_rounded_widths(stage_shapes):
    out = stage_shapes(MobileNetV2(num_classes=0, width=1.4), (1, 64, 96, 1))
    strides = (2, 4, 8, 16, 16, 32, 32)
    assert [shape[1:3] for shape in out] == [(64 // s, 96 // s) for s in strides]
    assert [shape[-1] for shape in out] == [24, 32, 48, 88, 136, 224, 448]


def test_training_updates_statistics_and_evaluation_does_not(assert_statistics_move):
    assert_statistics_move(small(), IMAGE)


def test_half_precision_keeps_float32_parameters_and_statistics(assert_half_precision):
    assert_half_precision(small(dtype="bfloat16"), IMAGE, train=True, statistics=True)


def test_it_learns_a_handful_of_images(overfit):
    losses = overfit(small(dropout_rate=0.1), IMAGE, steps=40, learning_rate=1e-2)
    assert losses[0] > 0.8 and losses[-1] < 0.2


def test_errors_name_the_value():
    with pytest.raises(ValueError, match="padding is 'torch'; known: symmetric, SAME"):
        jax.eval_shape(small(padding="torch").init, jax.random.key(0), IMAGE)
