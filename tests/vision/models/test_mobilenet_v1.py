"""MobileNet v1: parity, published counts, where its parameters lie, padding, learning."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from vision.models import mobilenet_v1
from vision.models.mobilenet_v1 import MobileNetV1

NAME = "mobilenetv1_hf_tfpad"


def test_parity(parity, imported, assert_parity, tap_error):
    model = MobileNetV1(num_classes=11, width=0.25)
    variables = imported(model, NAME)
    arrays = parity(NAME)[1]

    @jax.jit
    def run(image):
        return model.apply(
            variables,
            image,
            capture_intermediates=lambda _, method: method == "stages",
            mutable="intermediates",
        )

    logits, captured = run(arrays["in_x_nhwc"])
    stages = captured["intermediates"]["stages"][0]
    first, last = (stages[i].transpose(0, 3, 1, 2) for i in (0, -1))
    assert_parity(NAME, "logits", logits)
    assert_parity(NAME, "last_hidden", last)
    assert tap_error(NAME, "mobilenet_v1.layer.1", first) < 1e-5
    # 75 pixels: odd, as are all sizes after them.
    assert_parity(NAME, "logits_y", run(arrays["in_y_nhwc"])[0])


def test_torchs_padding_is_another_network(parity, imported):
    """On even sizes the windows lie one pixel apart: nothing of the result is left."""
    variables = imported(MobileNetV1(num_classes=11, width=0.25), NAME)
    model = MobileNetV1(num_classes=11, width=0.25, padding="symmetric")
    arrays = parity(NAME)[1]
    logits = jax.jit(model.apply)(variables, arrays["in_x_nhwc"])
    reference = arrays["out_logits"]
    assert np.abs(logits - reference).max() > 0.1 * np.abs(reference).max()


@pytest.mark.parametrize(
    ("make", "expected", "paper"),
    [
        (mobilenet_v1.MobileNetV1_100, 4_231_976, "4.2"),
        pytest.param(
            mobilenet_v1.MobileNetV1_75, 2_585_560, "2.6", marks=pytest.mark.slow
        ),
        pytest.param(
            mobilenet_v1.MobileNetV1_50, 1_331_592, "1.3", marks=pytest.mark.slow
        ),
        (mobilenet_v1.MobileNetV1_25, 470_072, "0.5"),
    ],
)
def test_published_parameter_counts(make, expected, paper, count_parameters):
    count = count_parameters(make(num_classes=1000), (1, 224, 224, 3))
    # Table 7 of the paper, in millions.
    assert count == expected and f"{count / 1e6:.1f}" == paper


@functools.cache
def shapes():
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    model = MobileNetV1(num_classes=1000)
    return jax.eval_shape(model.init, jax.random.key(0), image)


def test_statistics_are_as_many_as_published():
    assert sum(x.size for x in jax.tree.leaves(shapes()["batch_stats"])) == 21_888


def test_nearly_all_weights_are_in_1x1_convolutions():
    """The paper's table 2."""
    kinds = dict.fromkeys(("pointwise", "depthwise", "stem", "head"), 0)
    for path, leaf in flatten_dict(shapes()["params"], sep="/").items():
        if path.endswith("kernel"):
            kinds[next(kind for kind in kinds if kind in path)] += leaf.size
    total = sum(kinds.values())
    shares = {kind: round(100 * size / total, 2) for kind, size in kinds.items()}
    assert shares == {
        "pointwise": 74.59,
        "depthwise": 1.06,
        "stem": 0.02,
        "head": 24.33,
    }


def small(**fields):
    fields = {"stage_sizes": (1, 1), "stage_widths": (32, 64), **fields}
    return MobileNetV1(num_classes=3, width=0.25, norm_momentum=0.9, **fields)


IMAGE = jnp.asarray(np.random.default_rng(7).normal(size=(6, 16, 16, 3)), jnp.float32)


def test_strides(stage_shapes):
    out = stage_shapes(MobileNetV1(num_classes=0, width=0.25), (1, 64, 96, 1))
    assert [shape[1:3] for shape in out] == [
        (64 // s, 96 // s) for s in (2, 4, 8, 16, 32)
    ]
    assert [shape[-1] for shape in out] == [16, 32, 64, 128, 256]


def test_training_updates_statistics_and_evaluation_does_not(assert_statistics_move):
    assert_statistics_move(small(), IMAGE)


def test_half_precision_keeps_float32_parameters_and_statistics(assert_half_precision):
    assert_half_precision(small(dtype="bfloat16"), IMAGE, train=True, statistics=True)


@pytest.mark.slow
def test_it_learns_a_handful_of_images(overfit):
    losses = overfit(small(), IMAGE, steps=30, learning_rate=1e-2)
    assert losses[0] > 0.8 and losses[-1] < 0.2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stage_sizes": (1, 1, 1)}, "3 stage_sizes for 2 stage_widths"),
        ({"padding": "VALID"}, "padding is 'VALID'; known: symmetric, SAME"),
    ],
)
def test_errors_name_the_value(fields, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(small(**fields).init, jax.random.key(0), IMAGE)
