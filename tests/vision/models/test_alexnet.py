"""AlexNet: parity, published counts, two streams, the paper's sizes, learning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.import_weights import convert
from vision.models.alexnet import AlexNet, AlexNetOneStream, AlexNetTwoStreams

TINY = {"widths": (8, 8, 8, 8, 8), "hidden_dims": (16, 16)}
IMAGE = jnp.asarray(np.random.default_rng(7).normal(size=(4, 63, 64, 3)), jnp.float32)


def test_parity(parity, tap_error):
    model = AlexNetOneStream(num_classes=10)
    # 57 million weights: made once, and not by way of a file, as the other parity tests are.
    weights, arrays = parity("alexnet_96")
    image = arrays["in_x_nhwc"]
    template = jax.eval_shape(model.init, jax.random.key(0), image)
    params, _ = convert(weights, template)

    @jax.jit
    def run(params, image):
        return model.apply(
            {"params": params},
            image,
            capture_intermediates=lambda _, method: method == "features",
            mutable="intermediates",
        )

    logits, captured = run(params, image)
    features = captured["intermediates"]["features"][0].transpose(0, 3, 1, 2)
    expected = arrays["out_logits"]
    assert np.abs(logits - expected).max() < 1e-5 * np.abs(expected).max()
    assert tap_error("alexnet_96", "features", features) < 1e-5


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (AlexNetOneStream(num_classes=1000), 61_100_840),
        (AlexNetTwoStreams(num_classes=1000), 60_965_224),
        (AlexNet(num_classes=1000, groups=(1, 1, 1, 1, 1)), 62_378_344),
    ],
    ids=["one stream", "two streams", "two streams joined"],
)
def test_published_parameter_counts(model, expected, count_parameters):
    assert count_parameters(model, (1, 224, 224, 3)) == expected


def test_maps_have_the_papers_sizes(stage_shapes):
    shapes = stage_shapes(AlexNet(num_classes=0), (1, 224, 224, 3))
    # 55x55 and 27x27 and 13x13 before the pooling of the first, second and fifth.
    assert [shape[1:] for shape in shapes] == [
        (27, 27, 96),
        (13, 13, 256),
        (13, 13, 384),
        (13, 13, 384),
        (6, 6, 256),
    ]


def test_the_streams_meet_in_the_third_convolution_first(random_variables):
    model = AlexNet(num_classes=3, **TINY)
    variables = random_variables(model, IMAGE)

    @jax.jit
    def influence(params):
        """How far the second stream's first filters move the first stream's maps."""

        def first_half(bias, stage):
            params_ = {**params, "conv_0": {**params["conv_0"], "bias": bias}}
            maps = model.apply({"params": params_}, IMAGE, method="stages")[stage]
            return jnp.sum(maps[..., :4])

        bias = params["conv_0"]["bias"]
        return [jax.grad(first_half)(bias, stage) for stage in (1, 2)]

    second, third = influence(variables["params"])
    np.testing.assert_array_equal(second[4:], 0)
    assert np.abs(second[:4]).min() > 0 and np.abs(third[4:]).max() > 0


def test_response_norms_stand_in_the_original_only(random_variables):
    variables = random_variables(AlexNet(num_classes=3, **TINY), IMAGE)

    def first(**fields):
        model = AlexNet(num_classes=3, **TINY, **fields)
        return model.apply(variables, IMAGE, method="stages")[0]

    # The norm divides by (2 + something small) to the 3/4.
    ratio = first(normalize=False) / first()
    ratio = ratio[np.isfinite(ratio)]
    assert ratio.min() > 2**0.75 and ratio.max() < 2.5**0.75


@pytest.mark.parametrize("shape", [(63, 63), (100, 70)])
def test_any_image_size_fits_the_same_parameters(shape, random_variables):
    model = AlexNetOneStream(num_classes=3, **TINY)
    variables = random_variables(model, IMAGE)
    logits = jax.eval_shape(model.apply, variables, jnp.zeros((2, *shape, 3)))
    assert logits.shape == (2, 3)


@pytest.mark.slow
def test_biases_start_as_in_the_paper():
    def start(model):
        variables = model.init(jax.random.key(0), IMAGE[:1])
        return {k: float(v["bias"][0]) for k, v in variables["params"].items()}

    ones = {f"conv_{i}": float(i not in (0, 2)) for i in range(5)}
    ones |= {"dense_0": 1.0, "dense_1": 1.0, "head": 0.0}
    assert start(AlexNet(num_classes=3, **TINY)) == ones
    assert set(start(AlexNetOneStream(num_classes=3, **TINY)).values()) == {0.0}


@pytest.mark.slow
def test_it_learns_a_handful_of_images(overfit):
    model = AlexNetOneStream(num_classes=3, dropout_rate=0.0, **TINY)
    losses = overfit(model, IMAGE, steps=40, learning_rate=3e-3)
    assert losses[0] > 0.8 and losses[-1] < 0.1


def test_dropout_only_in_training(assert_dropout_in_training_only):
    assert_dropout_in_training_only(AlexNet(num_classes=3, **TINY), IMAGE)


def test_half_precision_keeps_float32_parameters(assert_half_precision):
    assert_half_precision(AlexNet(num_classes=3, dtype="bfloat16", **TINY), IMAGE)


@pytest.mark.parametrize(
    ("fields", "side", "message"),
    [
        ({"widths": (8, 8)}, 64, "2 widths for 5 convolutions"),
        ({"groups": (1, 2)}, 64, "2 groups for 5 convolutions"),
        ({}, 62, "image of 62x62 leaves nothing for the last pooling"),
    ],
)
def test_errors_name_the_value(fields, side, message):
    with pytest.raises(ValueError, match=message):
        model = AlexNet(num_classes=3, **{**TINY, **fields})
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, side, side, 3)))
