"""LeNet: published counts, any image size, learning, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.models.lenet import LeNet5, LeNetCaffe

IMAGE = jax.random.normal(jax.random.key(5), (6, 12, 12, 1))


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


def test_dropout_only_in_training(random_variables):
    model = LeNet5(num_classes=3, dropout_rate=0.5)
    variables = random_variables(model, IMAGE)

    def run(seed, train):
        rngs = {"dropout": jax.random.key(seed)}
        return model.apply(variables, IMAGE, train=train, rngs=rngs)

    np.testing.assert_array_equal(run(0, False), run(1, False))
    assert not np.allclose(run(0, True), run(1, True))


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
