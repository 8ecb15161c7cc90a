"""LeNet and the decks' Net: published counts, any image size, learning, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.import_weights import convert
from vision.models.lenet import LeNet5, LeNetCaffe, Net

IMAGE = jnp.asarray(np.random.default_rng(5).normal(size=(6, 12, 12, 1)), jnp.float32)


@pytest.mark.parametrize(
    ("model", "shape", "expected"),
    [
        (LeNet5(num_classes=10), (1, 28, 28, 1), 61_706),
        (
            LeNet5(num_classes=10, padding=("VALID", "VALID")),
            (1, 32, 32, 1),
            61_706,
        ),
        (LeNetCaffe(num_classes=10), (1, 28, 28, 1), 431_080),
    ],
)
def test_published_parameter_counts(model, shape, expected, count_parameters):
    assert count_parameters(model, shape) == expected


@pytest.mark.parametrize("shape", [(2, 8, 8, 1), (1, 64, 48, 3), (3, 32, 32, 4)])
def test_any_image_size_and_channels(shape):
    model = LeNet5(num_classes=7, padding=("SAME", "SAME"))
    image = jnp.zeros(shape)

    def output_shape(method):
        def run(rng):
            return model.init_with_output(rng, image, method=method)[0].shape

        shapes = []
        jax.eval_shape(lambda rng: shapes.append(run(rng)), jax.random.key(0))
        return shapes[0]

    assert output_shape("__call__") == (shape[0], 7)
    assert output_shape("features") == (shape[0], shape[1] // 4, shape[2] // 4, 16)
    assert output_shape("represent") == (shape[0], 84)


def test_logits_are_the_head_of_the_representation(random_variables):
    model = LeNet5(num_classes=3, widths=(2, 3), hidden_dims=(8,))
    image = jnp.asarray(np.random.default_rng(0).normal(size=(2, 16, 16, 1)))
    variables = random_variables(model, image)
    vectors = model.apply(variables, image, method="represent")
    head = variables["params"]["head"]
    expected = vectors @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(model.apply(variables, image), expected, rtol=1e-5)


def test_it_learns_a_handful_of_images(overfit):
    losses = overfit(LeNet5(num_classes=3), IMAGE, steps=40)
    assert losses[0] > 0.8 and losses[-1] < 0.05


def test_dropout_only_in_training(assert_dropout_in_training_only):
    assert_dropout_in_training_only(LeNet5(num_classes=3, dropout_rate=0.5), IMAGE)


@pytest.mark.parametrize(
    ("fields", "shape", "message"),
    [
        ({}, (1, 8, 8, 1), "8x8 leaves 4x4 for convolution 1"),
        ({"padding": ("SAME",)}, (1, 28, 28, 1), "1 paddings for 2 convolutions"),
        ({"pool": "sum"}, (1, 28, 28, 1), "pool is 'sum'"),
        ({"activation": "tahn"}, (1, 28, 28, 1), "tahn"),
    ],
)
def test_errors_name_the_value(fields, shape, message):
    with pytest.raises(ValueError, match=message):
        LeNet5(num_classes=10, **fields).init(jax.random.key(0), jnp.zeros(shape))


def net(x, weights):
    """PyTorch's example in numpy, in its order and layout: [B, C, H, W]."""

    def convolve(x, kernel, bias):
        windows = np.lib.stride_tricks.sliding_window_view(x, (5, 5), axis=(2, 3))
        return np.einsum("BCHWYX,OCYX->BOHW", windows, kernel) + bias[:, None, None]

    def pool(x):
        B, C, H, W = x.shape
        return x.reshape(B, C, H // 2, 2, W // 2, 2).max((3, 5))

    for name in ("conv1", "conv2"):
        x = convolve(x, weights[f"{name}.weight"], weights[f"{name}.bias"])
        x = np.maximum(pool(x), 0)
    x = x.reshape(-1, 320)
    x = np.maximum(x @ weights["fc1.weight"].T + weights["fc1.bias"], 0)
    return x @ weights["fc2.weight"].T + weights["fc2.bias"]


def test_net_is_the_example_layer_by_layer_in_torchs_layout():
    rng = np.random.default_rng(0)
    shapes = {
        "conv1.weight": (10, 1, 5, 5),
        "conv1.bias": (10,),
        "conv2.weight": (20, 10, 5, 5),
        "conv2.bias": (20,),
        "fc1.weight": (50, 320),
        "fc1.bias": (50,),
        "fc2.weight": (10, 50),
        "fc2.bias": (10,),
    }
    weights = {
        name: (rng.normal(size=shape) * shape[-1] ** -0.5).astype(np.float32)
        for name, shape in shapes.items()
    }
    image = rng.normal(size=(3, 28, 28, 1)).astype(np.float32)
    model = Net(num_classes=10)
    template = jax.eval_shape(model.init, jax.random.key(0), image)
    params, _ = convert(weights, template)
    logits = model.apply({"params": params}, image)
    expected = net(image.transpose(0, 3, 1, 2), weights)
    np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(expected).max())


def test_net_has_the_decks_21840_parameters(count_parameters):
    assert count_parameters(Net(num_classes=10), (1, 28, 28, 1)) == 21_840


def test_net_drops_whole_channels(random_variables):
    model = Net(num_classes=3)
    image = jnp.ones((8, 28, 28, 1))
    variables = random_variables(model, image)
    # A positive bias: before dropout no map is zero.
    conv = variables["params"]["conv_1"]
    variables = {
        "params": {
            **variables["params"],
            "conv_1": {**conv, "bias": 9.0 + 0 * conv["bias"]},
        }
    }
    maps = model.apply(
        variables,
        image,
        train=True,
        rngs={"dropout": jax.random.key(0)},
        method="features",
    )
    zero = np.asarray(maps == 0)
    assert maps.shape == (8, 4, 4, 20)
    np.testing.assert_array_equal(zero.all((1, 2)), zero.any((1, 2)))
    assert 0.3 < zero.mean() < 0.7
    kept = model.apply(variables, image, method="features")
    assert (kept > 0).all()
    np.testing.assert_allclose(maps[~zero], 2 * kept[~zero], rtol=1e-6)


def test_net_refuses_an_image_that_pooling_leaves_nothing_of():
    with pytest.raises(ValueError, match="image of 15x20 leaves nothing to pool"):
        jax.eval_shape(
            Net(num_classes=3).init, jax.random.key(0), jnp.zeros((1, 15, 20, 1))
        )
