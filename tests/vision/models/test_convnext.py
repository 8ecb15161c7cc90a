"""ConvNeXt: parity, published counts, the decks' tricks one by one, learning."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.import_weights import convert
from vision.models import convnext
from vision.models.convnext import ConvNeXt
from vision.weights.convnext import FACEBOOK, TIMM

NAME = "convnext_mini_timm"
MINI = {"stage_sizes": (1, 1, 2, 1), "stage_widths": (16, 24, 32, 48)}


def test_parity(parity, imported, assert_parity, tap_error):
    model = ConvNeXt(num_classes=10, **MINI)
    variables = imported(model, NAME)
    arrays = parity(NAME)[1]

    @jax.jit
    def run(image):
        return model.apply(
            variables,
            image,
            capture_intermediates=lambda module, method: (
                method == "stages" or module.name == "stem_norm"
            ),
            mutable="intermediates",
        )

    logits, captured = run(arrays["in_x_nhwc"])
    captured = captured["intermediates"]
    stages = captured["stages"][0]
    assert_parity(NAME, "logits", logits)
    assert_parity(NAME, "features", stages[-1].transpose(0, 3, 1, 2))
    ours = {f"stages.{i}": stages[i] for i in (0, 1, 3)}
    ours["stem"] = captured["stem_norm"]["__call__"][0]
    for name, map_ in ours.items():
        assert tap_error(NAME, name, map_.transpose(0, 3, 1, 2)) < 1e-5
    # 75 pixels: three are left over by the stem, one by a downsampling.
    assert_parity(NAME, "logits_y", run(arrays["in_y_nhwc"])[0])


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (convnext.ConvNeXtT, 28_589_128),
        pytest.param(convnext.ConvNeXtS, 50_223_688, marks=pytest.mark.slow),
        pytest.param(convnext.ConvNeXtB, 88_591_464, marks=pytest.mark.slow),
        pytest.param(convnext.ConvNeXtL, 197_767_336, marks=pytest.mark.slow),
        pytest.param(convnext.ConvNeXtXL, 350_196_968, marks=pytest.mark.slow),
    ],
)
def test_published_parameter_counts(make, expected, count_parameters):
    assert count_parameters(make(num_classes=1000), (1, 224, 224, 3)) == expected


def small(**fields):
    fields = {"stage_sizes": (1, 1), "stage_widths": (8, 12), **fields}
    return ConvNeXt(num_classes=3, **fields)


IMAGE = jnp.asarray(np.random.default_rng(7).normal(size=(6, 16, 16, 3)), jnp.float32)


def test_one_norm_and_one_activation_in_a_block(random_variables):
    params = random_variables(small(), IMAGE)["params"]
    assert set(params["stage_0_block_0"]) == {"depthwise_conv", "norm", "mlp", "scale"}
    block = convnext.ConvNeXtBlock(7, 1e-6, 0.0, 1e-6, None, jnp.float32)
    x = jnp.ones((1, 8, 8, 4))
    variables = block.init(jax.random.key(0), x)
    names = str(jax.make_jaxpr(block.apply)(variables, x))
    assert names.count(" erf ") == 1 and names.count(" rsqrt ") == 1


def test_layer_scale_makes_blocks_start_as_nearly_the_identity():
    model = small(stage_sizes=(2,), stage_widths=(8,))
    run = jax.jit(lambda rng: model.init_with_output(rng, IMAGE, method="stages"))
    (out,), variables = run(jax.random.key(0))
    # What the blocks are given.
    stem = small(stage_sizes=(0,), stage_widths=(8,))
    (before,) = jax.jit(lambda v: stem.apply(v, IMAGE, method="stages"))(variables)
    difference = np.abs(out - before).max()
    assert 0 < difference < 1e-4
    np.testing.assert_array_equal(
        variables["params"]["stage_0_block_0"]["scale"], np.float32(1e-6)
    )


def test_layer_scale_can_be_left_out():
    model = small(layer_scale=None)
    params = jax.eval_shape(model.init, jax.random.key(0), IMAGE)["params"]
    assert "scale" not in params["stage_0_block_0"]


def test_a_block_sees_seven_by_seven(random_variables):
    block = convnext.ConvNeXtBlock(7, 1.0, 0.0, 1e-6, None, jnp.float32)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 15, 15, 4)), jnp.float32)
    variables = random_variables(block, x)
    gradient = jax.jit(jax.grad(lambda x: block.apply(variables, x)[0, 7, 7].sum()))(x)
    seen = np.abs(gradient).max((0, 3)) > 0
    expected = np.zeros((15, 15), bool)
    expected[4:11, 4:11] = True
    np.testing.assert_array_equal(seen, expected)


def test_it_has_no_statistics_and_downsampling_its_own_layers(random_variables):
    variables = random_variables(small(), IMAGE)
    assert set(variables) == {"params"}
    assert variables["params"]["downsample_1_conv"]["kernel"].shape == (2, 2, 8, 12)


def test_strides_and_pixels_left_over(stage_shapes):
    model = ConvNeXt(num_classes=0, stage_sizes=(1, 1, 1, 1), stage_widths=(2,) * 4)
    out = [
        [shape[1:3] for shape in stage_shapes(model, (1, size, size, 1))]
        for size in (64, 75)
    ]
    assert out[0] == [(16, 16), (8, 8), (4, 4), (2, 2)]
    assert out[1] == [(18, 18), (9, 9), (4, 4), (2, 2)]


def test_stochastic_depth_grows_to_the_last_block():
    rates = []

    def look(next_function, arguments, options, context):
        if context.method_name == "__call__" and context.module.name == "drop_path":
            rates.append(context.module.rate)
        return next_function(*arguments, **options)

    model = small(stage_sizes=(2, 3), drop_path_rate=0.4)
    with nn.intercept_methods(look):
        jax.eval_shape(model.init, jax.random.key(0), IMAGE)
    np.testing.assert_allclose(rates, [0, 0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize("naming", [TIMM, FACEBOOK], ids=lambda n: n.name)
def test_files_of_both_publishers_fill_the_model(naming, numbered_weights):
    template = jax.eval_shape(small().init, jax.random.key(0), IMAGE)
    weights = numbered_weights(naming, template)
    params, _ = convert(weights, template)
    name = {TIMM.name: "stages.1.downsample.1.weight"}.get(
        naming.name, "downsample_layers.1.1.weight"
    )
    kernel = params["downsample_1_conv"]["kernel"]
    assert (kernel == weights[name].ravel()[0]).all()


def test_half_precision_keeps_float32_parameters(assert_half_precision):
    assert_half_precision(
        small(dtype="bfloat16", drop_path_rate=0.1), IMAGE, train=True
    )


def test_it_learns_a_handful_of_images(overfit):
    losses = overfit(small(drop_path_rate=0.1), IMAGE, steps=40, learning_rate=1e-2)
    assert losses[0] > 0.8 and losses[-1] < 0.2


def test_errors_name_the_value():
    with pytest.raises(ValueError, match="3 stage_sizes for 2 stage_widths"):
        small(stage_sizes=(1, 1, 1)).init(jax.random.key(0), IMAGE)
