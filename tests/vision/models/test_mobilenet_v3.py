"""MobileNet v3: parity, published counts, the searched tables, gates, learning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.models import mobilenet_v3
from vision.models.mobilenet_v3 import MobileNetV3, MobileNetV3Small

NAME = "mobilenet_v3_small"


def test_parity(parity, imported, assert_parity, tap_error):
    model = MobileNetV3Small(num_classes=10)
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
    first = captured["stages"][0][0].transpose(0, 3, 1, 2)
    assert tap_error(NAME, "features.1", first) < 1e-5
    # Ten times the reference's own noise in float32.
    features = captured["features"][0].transpose(0, 3, 1, 2)
    assert tap_error(NAME, "features.12", features) < 4e-5
    assert_parity(NAME, "logits_y", run(arrays["in_y_nhwc"])[0])


@pytest.mark.parametrize(
    ("make", "expected", "paper"),
    [
        (mobilenet_v3.MobileNetV3Large, 5_483_032, 5.4),
        (mobilenet_v3.MobileNetV3Small, 2_542_856, 2.5),
    ],
)
def test_published_parameter_counts(make, expected, paper, count_parameters):
    count = count_parameters(make(num_classes=1000), (1, 224, 224, 3))
    assert count == expected
    # Table 3 of the paper, in millions.
    assert abs(count / 1e6 - paper) < 0.1


def shapes(make):
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    return jax.eval_shape(make(num_classes=0).init, jax.random.key(0), image)["params"]


def test_squeeze_and_excitation_where_the_paper_has_it():
    """Table 2: in every block of the small network but two; a fourth of the hidden map."""
    params = shapes(MobileNetV3Small)
    blocks = {name: block for name, block in params.items() if "block" in name}
    without = {name for name, b in blocks.items() if "squeeze_excite" not in b}
    assert len(blocks) == 11 and without == {"stage_1_block_0", "stage_1_block_1"}
    for name in set(blocks) - without:
        *_, hidden, reduced = blocks[name]["squeeze_excite"]["reduce"]["kernel"].shape
        assert reduced % 8 == 0 and hidden / 4 * 0.9 <= reduced < hidden / 4 + 8


def test_the_first_block_does_not_expand():
    params = shapes(MobileNetV3Small)
    assert "expand_conv" not in params["stage_0_block_0"]
    assert "expand_conv" in params["stage_1_block_0"]


STAGES = (
    (2, "relu", True, 3, 8, (8,)),
    (2, "hard_swish", False, 5, 8, (16,)),
)


def small(**fields):
    fields = {"stage_specs": STAGES, "stem_width": 8, "norm_momentum": 0.9, **fields}
    return MobileNetV3(num_classes=3, representation_dim=16, **fields)


IMAGE = jnp.asarray(np.random.default_rng(7).normal(size=(6, 16, 16, 3)), jnp.float32)


def test_the_wide_layer_sees_one_pixel(random_variables):
    """It comes after the average, so that its width costs no map."""
    model = small()
    variables = random_variables(model, IMAGE)
    features, vector = jax.jit(
        lambda v: (
            model.apply(v, IMAGE, method="features"),
            model.apply(v, IMAGE, method="represent"),
        )
    )(variables)
    dense = variables["params"]["representation"]
    x = np.asarray(features).mean((1, 2)) @ dense["kernel"] + dense["bias"]
    # Hard swish: x times a ramp from 0 at -3 to 1 at 3.
    expected = x * np.clip((x + 3) / 6, 0, 1)
    np.testing.assert_allclose(vector, expected, atol=1e-5)


def test_strides(stage_shapes):
    for make, strides, widths in (
        (MobileNetV3, (2, 4, 8, 16, 16, 32), (16, 24, 40, 80, 112, 160)),
        (MobileNetV3Small, (4, 8, 16, 16, 32), (16, 24, 40, 48, 96)),
    ):
        found = stage_shapes(make(num_classes=0), (1, 64, 96, 1))
        assert [shape[1:] for shape in found] == [
            (64 // s, 96 // s, c) for s, c in zip(strides, widths, strict=True)
        ]


def test_training_updates_statistics_and_evaluation_does_not(assert_statistics_move):
    assert_statistics_move(small(), IMAGE)


def test_half_precision_keeps_float32_parameters_and_statistics(assert_half_precision):
    assert_half_precision(small(dtype="bfloat16"), IMAGE, train=True, statistics=True)


@pytest.mark.slow
def test_it_learns_a_handful_of_images(overfit):
    losses = overfit(small(), IMAGE, steps=40, learning_rate=1e-2)
    assert losses[0] > 0.8 and losses[-1] < 0.2


def test_errors_name_the_value():
    with pytest.raises(ValueError, match="padding is 'torch'; known: symmetric, SAME"):
        jax.eval_shape(small(padding="torch").init, jax.random.key(0), IMAGE)
