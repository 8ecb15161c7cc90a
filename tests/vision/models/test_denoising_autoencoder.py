"""Stacked autoencoder: layers below the trained one stay out of it, by hand, by gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.models.denoising_autoencoder import StackedAutoencoder

RNG = np.random.default_rng(0)
IMAGE = RNG.random((5, 2, 3, 1)).astype(np.float32)
WIDTHS = (4, 7, 3)
DIMS = (6, *WIDTHS)


def make(**fields):
    return StackedAutoencoder(widths=WIDTHS, **fields)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def dense(params, name, x):
    return x @ np.asarray(params[name]["kernel"]) + np.asarray(params[name]["bias"])


@pytest.fixture
def params(random_variables):
    """Of the whole autoencoder, nowhere zero."""
    return random_variables(make(), IMAGE)["params"]


def names(model):
    shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGE)["params"]
    return {k: v["kernel"].shape for k, v in shapes.items()}


def test_parameter_paths():
    encoders = {f"encoder_{i}": (DIMS[i], DIMS[i + 1]) for i in range(3)}
    decoders = {f"decoder_{i}": (DIMS[i + 1], DIMS[i]) for i in range(3)}
    assert names(make()) == encoders | decoders
    assert names(make(num_classes=10)) == {**encoders, "head": (3, 10)}
    for layer in range(3):
        expected = {
            k: v for k, v in (encoders | decoders).items() if int(k[-1]) <= layer
        }
        assert names(make(trained_layer=layer)) == expected


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_one_layer_by_hand(layer, params):
    model = make(trained_layer=layer)
    D = model.input_dim(IMAGE.shape)
    assert D == DIMS[layer]
    keep = (RNG.random((5, D)) < 0.5).astype(np.float32)
    add = RNG.normal(size=(5, D)).astype(np.float32)
    out = jax.jit(model.apply)({"params": params}, IMAGE, keep, add)
    x = IMAGE.reshape(5, -1)
    for i in range(layer):
        x = sigmoid(dense(params, f"encoder_{i}", x))
    corrupted = x * keep + add
    code = sigmoid(dense(params, f"encoder_{layer}", corrupted))
    logits = dense(params, f"decoder_{layer}", code)
    np.testing.assert_allclose(out.target, x, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(out.logits, logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(out.value, sigmoid(logits), rtol=1e-4, atol=1e-5)
    for shown, value in ((out.image, sigmoid(logits)), (out.corrupted, corrupted)):
        for i in reversed(range(layer)):
            value = sigmoid(dense(params, f"decoder_{i}", value))
        np.testing.assert_allclose(shown, value.reshape(IMAGE.shape), rtol=1e-4)


def test_end_to_end_by_hand(params):
    out = jax.jit(make().apply)({"params": params}, IMAGE)
    x = IMAGE.reshape(5, -1)
    for name in ("encoder_0", "encoder_1", "encoder_2", "decoder_2", "decoder_1"):
        x = sigmoid(dense(params, name, x))
    np.testing.assert_allclose(
        out.logits, dense(params, "decoder_0", x), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(out.corrupted, IMAGE, rtol=1e-6)
    np.testing.assert_allclose(out.image, out.value.reshape(IMAGE.shape))


@pytest.mark.parametrize("layer", [None, 0, 1, 2])
def test_layers_below_the_trained_one_get_exactly_no_gradient(layer, params):
    model = make(trained_layer=layer)
    own = {k: params[k] for k in names(model)}

    @jax.jit
    @jax.grad
    def gradient(params):
        out = model.apply({"params": params}, IMAGE)
        # All that a loss or a picture could be made of.
        terms = (out.logits, out.value, out.target, out.image, out.corrupted)
        return sum((x**2).sum() for x in terms)

    for name, grads in gradient(own).items():
        below = layer is not None and int(name[-1]) < layer
        for leaf in jax.tree.leaves(grads):
            assert (np.abs(leaf).max() == 0) == below, name


def test_outer_activations(params):
    model = make(activation="relu", output="identity")
    out = jax.jit(model.apply)({"params": params}, IMAGE)
    np.testing.assert_array_equal(out.value, out.logits)
    assert model.reconstruction_activation == "identity"
    greedy = make(activation="relu", output="identity", trained_layer=1)
    out = jax.jit(greedy.apply)({"params": params}, IMAGE)
    np.testing.assert_array_equal(out.value, np.maximum(out.logits, 0))
    assert greedy.reconstruction_activation == "relu"
    first = make(activation="relu", output="identity", trained_layer=0)
    assert first.reconstruction_activation == "identity"


def test_the_classifier_stands_on_the_last_code(params):
    model = make(num_classes=10)
    head = {"kernel": RNG.normal(size=(3, 10)), "bias": RNG.normal(size=10)}
    head = jax.tree.map(np.float32, head)
    own = {**{k: v for k, v in params.items() if "encoder" in k}, "head": head}
    variables = {"params": own}
    logits = jax.jit(model.apply)(variables, IMAGE)
    code = model.apply(variables, IMAGE, method="represent")
    same = make().apply({"params": params}, IMAGE, method="represent")
    np.testing.assert_array_equal(code, same)
    np.testing.assert_allclose(
        logits, code @ head["kernel"] + head["bias"], rtol=1e-4, atol=1e-5
    )


def test_initial_kernels_are_uniform_within_their_bound():
    model = StackedAutoencoder(widths=(400,), init_scale=2.0)
    image = jnp.zeros((1, 10, 10, 1))
    params = jax.jit(model.init)(jax.random.key(0), image)["params"]
    kernel = np.asarray(params["encoder_0"]["kernel"])
    assert 0.19 < kernel.max() <= 0.2 and -0.2 <= kernel.min() < -0.19
    assert kernel.std() == pytest.approx(0.2 / np.sqrt(3), rel=0.02)
    assert not params["encoder_0"]["bias"].any()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"trained_layer": 3}, "trained_layer is 3; 3 layers"),
        ({"trained_layer": -1}, "trained_layer is -1"),
        ({"trained_layer": 1, "num_classes": 10}, "set trained_layer=None"),
    ],
)
def test_wrong_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        make(**fields)
