"""VGG: parity, published counts, small filters, names of every depth, learning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from layers.convolution import Conv
from vision.import_weights import convert
from vision.models import vgg
from vision.models.vgg import VGG
from vision.weights.vgg import NAMINGS

SMALL = {"stage_widths": (8, 16, 24, 32, 32), "hidden_dims": (64, 64)}


@pytest.mark.parametrize("name", ["vgg11_tiny", "vgg11_tiny_bn"])
def test_parity(name, parity, imported, assert_parity, tap_error):
    model = vgg.VGG11(num_classes=10, batch_norm=name.endswith("bn"), **SMALL)
    variables = imported(model, name)
    arrays = parity(name)[1]

    @jax.jit
    def run(image):
        logits, captured = model.apply(
            variables,
            image,
            capture_intermediates=lambda module, method: (
                method == "features" or module.name == "stage_0_conv_0"
            ),
            mutable="intermediates",
        )
        found = captured["intermediates"]
        return logits, found["stage_0_conv_0"]["__call__"][0], found["features"][0]

    logits, first, features = run(arrays["in_x_nhwc"])
    assert_parity(name, "logits", logits)
    for tap, ours in (("features", features), ("features.0", first)):
        assert tap_error(name, tap, ours.transpose(0, 3, 1, 2)) < 1e-5
    # 64 pixels: a map of 2x2 is spread over the grid of 7x7.
    assert_parity(name, "logits_y", run(arrays["in_y_nhwc"])[0])


@pytest.mark.parametrize(
    ("depth", "plain", "normalized", "statistics"),
    [
        (11, 132_863_336, 132_868_840, 5_504),
        pytest.param(13, 133_047_848, 133_053_736, 5_888, marks=pytest.mark.slow),
        (16, 138_357_544, 138_365_992, 8_448),
        pytest.param(19, 143_667_240, 143_678_248, 11_008, marks=pytest.mark.slow),
    ],
)
def test_published_parameter_counts(
    depth, plain, normalized, statistics, count_parameters
):
    make, make_normalized = (
        getattr(vgg, f"VGG{depth}{suffix}") for suffix in ("", "BatchNorm")
    )
    shape = (1, 224, 224, 3)
    assert count_parameters(make(num_classes=1000), shape) == plain
    model = make_normalized(num_classes=1000)
    assert count_parameters(model, shape) == normalized
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape))
    sizes = [x.size for x in jax.tree.leaves(variables["batch_stats"])]
    assert sum(sizes) == statistics
    # The name counts the layers with weights.
    kernels = [x for x in jax.tree.leaves(variables["params"]) if x.ndim > 1]
    assert len(kernels) == depth


def test_three_small_windows_weigh_27_to_the_49_of_one_large():
    """The decks' "power of small filters", on the trees of a stage and of one layer."""
    C = 12
    model = VGG(num_classes=0, stage_sizes=(3,), stage_widths=(C,), hidden_dims=())
    image = jnp.zeros((1, 8, 8, C))
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)["params"]
    stack = sum(layer["kernel"].size for layer in shapes.values())
    one = jax.eval_shape(Conv(C, (7, 7)).init, jax.random.key(0), image)["params"]
    assert len(shapes) == 3 and stack == 27 * C**2
    assert one["kernel"].size == 49 * C**2


@pytest.mark.parametrize("naming", NAMINGS, ids=lambda naming: naming.name)
def test_files_of_every_depth_are_told_apart_by_their_names(naming):
    form = naming.name.partition("vgg")[2]
    depth, _, norm = form.partition("_")
    make = getattr(vgg, f"VGG{depth}{'BatchNorm' if norm else ''}")
    model = make(num_classes=3, stage_widths=(2,) * 5, map_size=7, hidden_dims=(4, 4))
    image = jnp.zeros((1, 32, 32, 3))
    template = jax.eval_shape(model.init, jax.random.key(0), image)
    rng, file = np.random.default_rng(0), {}
    for path, leaf in flatten_dict(template, sep="/").items():
        name, layout = naming.find(path)
        file[name] = rng.normal(size=layout.theirs(leaf.shape)).astype(np.float32)
    params, collections = convert(file, template)
    for leaf in ("kernel", "bias"):
        assert params["stage_4_conv_1"][leaf].shape[-1] == 2
    assert ("batch_stats" in collections) == bool(norm)
    last = {
        "11": "features.18",
        "11_bn": "features.25",
        "13": "features.22",
        "13_bn": "features.31",
        "16": "features.28",
        "16_bn": "features.40",
        "19": "features.34",
        "19_bn": "features.49",
    }[form]
    numbers = {int(n.split(".")[1]) for n in file if n.startswith("features")}
    assert max(numbers) == int(last.split(".")[1]) + bool(norm)
    of_last_stage = max(k for k in params if k.startswith("stage_4_conv"))
    np.testing.assert_array_equal(
        params[of_last_stage]["bias"], file[f"{last}.bias"], err_msg=last
    )


def small(**fields):
    fields = {
        "stage_sizes": (1, 2),
        "stage_widths": (4, 6),
        "map_size": 2,
        "hidden_dims": (16,),
        "dropout_rate": 0.0,
        **fields,
    }
    return VGG(num_classes=3, **fields)


IMAGE = jnp.asarray(np.random.default_rng(7).normal(size=(6, 8, 8, 3)), jnp.float32)


def test_every_stage_halves_the_map(stage_shapes):
    model = vgg.VGG11(num_classes=0, stage_widths=(2, 3, 4, 5, 6), hidden_dims=())
    shapes = stage_shapes(model, (1, 64, 96, 3))
    assert [shape[1:] for shape in shapes] == [
        (64 >> i, 96 >> i, i + 1) for i in range(1, 6)
    ]


def test_logits_are_the_head_of_the_representation(random_variables):
    model = small()
    variables = random_variables(model, IMAGE)
    vectors = model.apply(variables, IMAGE, method="represent")
    head = variables["params"]["head"]
    expected = vectors @ head["kernel"] + head["bias"]
    assert vectors.shape == (6, 16)
    np.testing.assert_allclose(model.apply(variables, IMAGE), expected, atol=1e-5)


def test_training_updates_statistics_and_evaluation_does_not(
    random_variables, assert_statistics_move
):
    model = small(batch_norm=True)
    statistics = random_variables(model, IMAGE)["batch_stats"]
    assert len(jax.tree.leaves(statistics)) == 6
    assert_statistics_move(model, IMAGE)


def test_dropout_only_in_training(assert_dropout_in_training_only):
    assert_dropout_in_training_only(small(dropout_rate=0.5), IMAGE)


@pytest.mark.parametrize(
    "batch_norm", [pytest.param(False, marks=pytest.mark.slow), True]
)
def test_it_learns_a_handful_of_images(batch_norm, overfit):
    model = small(batch_norm=batch_norm, hidden_dims=())
    losses = overfit(model, IMAGE, steps=40, learning_rate=2e-2)
    assert losses[0] > 0.8 and losses[-1] < 0.1


def test_half_precision_keeps_float32_parameters_and_statistics(assert_half_precision):
    assert_half_precision(
        small(batch_norm=True, dtype="bfloat16"), IMAGE, train=True, statistics=True
    )


def test_the_cifar_form_leaves_one_position_to_the_head(count_parameters):
    model = vgg.CifarVGG16(num_classes=10)
    convolutions = (
        14_710_464 + 3 * 4_224
    )  # kernels; bias, scale and shift of each channel
    expected = convolutions + 512 * 10 + 10
    assert count_parameters(model, (1, 32, 32, 3)) == expected == 14_728_266


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stage_sizes": (1, 1, 1)}, "3 stage_sizes for 2 stage_widths"),
        (
            {"stage_sizes": (1,) * 4, "stage_widths": (2,) * 4},
            "image of 8x8 cannot be halved 4 times; give at least 16x16",
        ),
    ],
)
def test_errors_name_the_value(fields, message):
    with pytest.raises(ValueError, match=message):
        small(**fields).init(jax.random.key(0), IMAGE)
