"""Capsules: routing and squash by hand, the paper's size, what routing is for, learning."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from training import config as configs
from vision.models import capsnet
from vision.models.capsnet import CapsNet


def numpy_squash(x):
    square = (x**2).sum(-1, keepdims=True)
    return x * np.sqrt(square) / (1 + square)


def test_squash_by_hand():
    vectors = jnp.array([[3.0, 4.0], [0.0, 0.5], [0.0, 0.0]])
    expected = [[25 / 26 * 0.6, 25 / 26 * 0.8], [0, 0.2], [0, 0]]
    np.testing.assert_allclose(capsnet.squash(vectors), expected, rtol=1e-6)


def test_squash_and_length_are_finite_at_zero_and_so_are_their_gradients():
    zero = jnp.zeros((2, 3))
    for function in (capsnet.squash, capsnet.length):
        total = lambda x, function=function: function(x).sum()
        value, gradient = jax.value_and_grad(total)(zero)
        assert value == 0
        np.testing.assert_array_equal(gradient, 0)
    # Close to zero the derivative of s^2 / (1 + s^2) tends to zero as well.
    near = jax.grad(lambda x: capsnet.squash(x).sum())(zero + 1e-4)
    assert np.isfinite(near).all() and np.abs(near).max() < 1e-3


def test_routing_by_hand():
    """Two lower capsules that agree on the first upper one, and not on the second.

    Step 1: shares 1/2. Upper 0 sums to (1, 0), upper 1 to 0, so v = ((1/2, 0), (0, 0)).
    Agreements are 1/2 for upper 0 and 0 for upper 1: shares e^(1/2) / (e^(1/2) + 1).
    """
    votes = jnp.array([[[[1.0, 0], [0, 1]], [[1, 0], [0, -1]]]])
    once = capsnet.route(votes, 1)
    np.testing.assert_allclose(once, [[[0.5, 0], [0, 0]]], atol=1e-7)
    share = np.exp(0.5) / (np.exp(0.5) + 1)
    total = 2 * share
    twice = [[[total**2 / (1 + total**2), 0], [0, 0]]]
    np.testing.assert_allclose(capsnet.route(votes, 2), twice, atol=1e-6)
    # Step 3: the logits keep the first agreement and gain the second.
    logit = 0.5 + total**2 / (1 + total**2)
    total = 2 * np.exp(logit) / (np.exp(logit) + 1)
    third = [[[total**2 / (1 + total**2), 0], [0, 0]]]
    np.testing.assert_allclose(capsnet.route(votes, 3), third, atol=1e-6)


def test_routing_is_what_the_papers_procedure_says():
    votes = np.random.default_rng(0).normal(size=(2, 5, 3, 4))
    logits = np.zeros((2, 5, 3))
    for _ in range(4):
        share = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        upper = numpy_squash((share[..., None] * votes).sum(1))
        logits = logits + (votes * upper[:, None]).sum(-1)
    ours = capsnet.route(jnp.asarray(votes, jnp.float32), 4)
    np.testing.assert_allclose(ours, upper, rtol=1e-4, atol=1e-6)
    assert (capsnet.length(ours) < 1).all()


def test_votes_that_agree_outweigh_an_outlier():
    """Nine equal votes and one against: routing turns the outlier away."""
    votes = np.tile([2.0, 0.0], (1, 10, 1, 1))
    votes[0, -1] = (-2.0, 3.0)
    votes = np.concatenate([votes, 0.1 * np.ones_like(votes)], axis=2)
    directions = []
    for steps in (1, 3):
        upper = np.asarray(capsnet.route(jnp.asarray(votes, jnp.float32), steps))[0, 0]
        directions.append(upper[1] / upper[0])
    assert 0 < directions[1] < directions[0] / 3


def test_half_precision_routes_in_float32():
    votes = jnp.ones((1, 4, 3, 2), jnp.bfloat16)
    jaxpr = str(jax.make_jaxpr(lambda x: capsnet.route(x, 3))(votes))
    assert "f32[1,4,3]" in jaxpr and "bf16[1,4,3] = exp" not in jaxpr
    assert capsnet.route(votes, 3).dtype == jnp.bfloat16


def test_the_papers_size(count_parameters):
    """8.2 million with its decoder and 6.8 without, for 28x28 digits."""
    shape = (1, 28, 28, 1)
    expected = 81 * 256 + 256 + 81 * 256 * 256 + 256 + 1152 * 8 * 10 * 16
    bare = CapsNet(num_classes=10, decoder_dims=())
    assert count_parameters(bare, shape) == expected == 6_804_224
    expected += 161 * 512 + 513 * 1024 + 1025 * 784
    assert count_parameters(CapsNet(num_classes=10), shape) == expected == 8_215_568


def test_the_contestants_on_digits_are_of_one_size(count_parameters):
    """The decoder, which no guess depends on, does not count."""
    counts = []
    for name in ("capsnet_digits", "cnn_digits"):
        path = pathlib.Path(configs.__file__).parents[1] / "configs" / f"{name}.py"
        node = dict(configs.load(str(path))["task"]["model"])
        if name == "capsnet_digits":
            node["decoder_dims"] = ()
        counts.append(count_parameters(configs.build(node), (1, 8, 8, 1)))
    assert abs(counts[0] / counts[1] - 1) < 0.01


def tiny(**fields):
    return CapsNet(
        **{
            "num_classes": 3,
            "stem_width": 8,
            "primary_types": 2,
            "primary_dim": 4,
            "class_dim": 6,
            "kernel_size": 3,
            "decoder_dims": (12,),
            **fields,
        }
    )


IMAGE = jnp.asarray(np.random.default_rng(7).uniform(size=(6, 8, 8, 1)), jnp.float32)


def test_outputs(random_variables):
    model = tiny()
    variables = random_variables(model, IMAGE)
    target = jax.nn.one_hot(jnp.arange(6) % 3, 3)

    @jax.jit
    def run(variables):
        apply = lambda *arguments, **options: model.apply(
            variables, *arguments, **options
        )
        return (
            apply(IMAGE),
            apply(IMAGE, target, train=True),
            apply(IMAGE, method="capsules"),
            apply(IMAGE, method="features"),
            apply(IMAGE, method="represent"),
        )

    lengths, outputs, capsules, features, vector = run(variables)
    np.testing.assert_array_equal(lengths, outputs.lengths)
    assert outputs.reconstruction.shape == IMAGE.shape
    assert outputs.reconstruction.min() >= 0 and outputs.reconstruction.max() <= 1
    np.testing.assert_allclose(lengths, np.linalg.norm(capsules, axis=-1), rtol=1e-5)
    assert features.shape == (6, 2 * 2 * 2, 4) and capsules.shape == (6, 3, 6)
    np.testing.assert_array_equal(vector, features.reshape(6, -1))
    kernel = variables["params"]["class_capsules"]["kernel"]
    votes = np.einsum("BPI,PIKD->BPKD", features, kernel)
    expected = capsnet.route(jnp.asarray(votes), 3)
    np.testing.assert_allclose(capsules, expected, rtol=1e-4, atol=1e-5)


def test_the_decoder_sees_the_targets_capsule_alone(random_variables):
    model = tiny()
    variables = random_variables(model, IMAGE)

    def drawn(capsules, target):
        image = model.apply(
            variables, capsules, target, IMAGE.shape[1:], method="decode"
        )
        return image.sum()

    capsules = jnp.asarray(np.random.default_rng(0).normal(size=(6, 3, 6)), jnp.float32)
    target = jax.nn.one_hot(jnp.arange(6) % 3, 3)
    support = np.abs(jax.jit(jax.grad(drawn))(capsules, target)).sum(-1) > 0
    np.testing.assert_array_equal(support, np.asarray(target, bool))


def test_without_classes_or_decoder():
    assert set(tiny(num_classes=0).init(jax.random.key(0), IMAGE)["params"]) == {
        "stem_conv",
        "primary_conv",
    }
    bare = tiny(decoder_dims=())
    target = jnp.ones((6, 3))
    outputs, variables = jax.eval_shape(
        bare.init_with_output, jax.random.key(0), IMAGE, target
    )
    assert outputs.reconstruction is None and outputs.lengths.shape == (6, 3)
    assert set(variables["params"]) == {"stem_conv", "primary_conv", "class_capsules"}


def test_the_decoder_is_made_without_a_target_too():
    shapes = [
        jax.eval_shape(tiny().init, jax.random.key(0), IMAGE, *target)
        for target in ((), (jnp.ones((6, 3)),))
    ]
    paths = [jax.tree_util.tree_structure(tree) for tree in shapes]
    assert paths[0] == paths[1] and "reconstruction" in shapes[0]["params"]


def test_half_precision_keeps_float32_parameters():
    model = tiny(dtype="bfloat16")
    lengths, variables = jax.eval_shape(
        model.init_with_output, jax.random.key(0), IMAGE
    )
    assert {str(x.dtype) for x in jax.tree.leaves(variables)} == {"float32"}
    assert lengths.dtype == jnp.float32


def test_it_learns_a_handful_of_images():
    model, target = tiny(), jax.nn.one_hot(jnp.arange(6) % 3, 3)
    optimizer = optax.adam(1e-2)

    def loss(params):
        lengths = model.apply({"params": params}, IMAGE)
        short = jnp.square(jax.nn.relu(0.9 - lengths))
        long = jnp.square(jax.nn.relu(lengths - 0.1))
        return (target * short + 0.5 * (1 - target) * long).sum(-1).mean()

    @jax.jit
    def train(rng):
        params = model.init(rng, IMAGE)["params"]

        def body(carry, _):
            params, state = carry
            value, gradient = jax.value_and_grad(loss)(params)
            updates, state = optimizer.update(gradient, state)
            return (optax.apply_updates(params, updates), state), value

        return jax.lax.scan(body, (params, optimizer.init(params)), None, length=80)[1]

    losses = train(jax.random.key(0))
    assert losses[0] > 0.5 and losses[-1] < 0.02


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"routing_steps": 0}, "routing_steps is 0; it must be >= 1"),
        ({"kernel_size": 5}, "image of 8x8 is too small .* needs 9x9"),
    ],
)
def test_errors_name_the_value(fields, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(tiny(**fields).init, jax.random.key(0), IMAGE)
