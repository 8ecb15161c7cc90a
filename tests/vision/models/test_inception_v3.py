"""Inception v3: parity with its auxiliary head, published counts, factors, learning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.layers.conv_norm import ConvNorm
from vision.layers.inception import C, InceptionBlock
from vision.models.inception_v3 import InceptionV2, InceptionV3


def test_parity(imported, assert_parity, parity):
    name = "inception_v3_aux"
    model = InceptionV3(num_classes=10)
    variables = imported(model, name)

    @jax.jit
    def run(variables, image):
        logits, captured = model.apply(
            variables,
            image,
            capture_intermediates=lambda _, method: method == "stages",
            mutable="intermediates",
        )
        middle = captured["intermediates"]["stages"][0][1]

        def auxiliary(module, x):
            return module.auxiliary_head(x, train=False)

        return logits, model.apply(variables, middle, method=auxiliary)

    logits, auxiliary = run(variables, parity(name)[1]["in_x_nhwc"])
    assert_parity(name, "logits", logits)
    assert_parity(name, "aux", auxiliary)


@pytest.mark.parametrize(
    ("make", "fields", "params", "stats"),
    [
        (InceptionV3, {}, 27_161_264, 36_224),
        (InceptionV3, {"auxiliary": False}, 23_834_568, 34_432),
        # Two 3x3 of 64 channels for each of three 5x5 from 48 to 64, with one norm more;
        # a bias for the norm of the auxiliary head's 768 channels.
        (
            InceptionV2,
            {},
            27_161_264 + 3 * (9 * 48 * 64 + 9 * 64 * 64 + 2 * 64 - 25 * 48 * 64) - 768,
            36_224 + 3 * 2 * 64 - 2 * 768,
        ),
    ],
)
def test_published_parameter_counts(make, fields, params, stats):
    image = jax.ShapeDtypeStruct((1, 299, 299, 3), jnp.float32)
    model = make(num_classes=1000, **fields)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    count = {k: sum(x.size for x in jax.tree.leaves(v)) for k, v in variables.items()}
    assert count == {"params": params, "batch_stats": stats}


@pytest.mark.parametrize(
    ("factors", "size", "weights"),
    [
        ((C(1, 3), C(1, 3)), 5, 18),
        ((C(1, (1, 7)), C(1, (7, 1))), 7, 14),
        ((C(1, (1, 3)), C(1, (3, 1))), 3, 6),
    ],
)
def test_factors_see_as_much_with_fewer_weights(factors, size, weights):
    """The support of the gradient of one output pixel is the whole window's."""
    image = jnp.asarray(
        np.random.default_rng(0).normal(size=(1, 15, 15, 1)), jnp.float32
    )
    for steps, expected in ((factors, weights), ((C(1, size),), size * size)):
        unit = jax.tree_util.Partial(ConvNorm, activation="identity")
        block = InceptionBlock((steps,), unit=unit)
        variables = jax.jit(block.init)(jax.random.key(1), image)
        kernels = [x for x in jax.tree.leaves(variables["params"]) if x.ndim == 4]
        assert sum(x.size for x in kernels) == expected
        pixel = jax.grad(lambda x, b=block, v=variables: b.apply(v, x)[0, 7, 7, 0])
        seen = np.argwhere(np.asarray(jax.jit(pixel)(image))[0, :, :, 0])
        assert len(seen) == size * size
        assert (seen.max(0) - seen.min(0) + 1 == size).all()


SMALL = {
    "pool_widths": (16,),
    "factorized_widths": (32,),
    "num_wide_blocks": 1,
    "width_factor": 1 / 16,
    "dropout_rate": 0.0,
}


def small(**fields):
    return InceptionV3(num_classes=3, **{"auxiliary": False, **SMALL, **fields})


IMAGE = jnp.asarray(np.random.default_rng(7).normal(size=(4, 75, 75, 3)), jnp.float32)


def test_average_pools_count_the_padding(random_variables):
    """As the published weights were trained: a constant map does not stay constant."""
    block = InceptionBlock((("average_pool",),), unit=ConvNorm, count_include_pad=True)
    x = jnp.ones((1, 4, 4, 1))
    np.testing.assert_allclose(
        block.apply({}, x)[0, 0, :, 0], [4 / 9, *[6 / 9] * 2, 4 / 9]
    )
    plain = InceptionBlock((("average_pool",),), unit=ConvNorm)
    np.testing.assert_allclose(plain.apply({}, x), 1)


@pytest.mark.slow
def test_auxiliary_logits_in_training_only(trace):
    model, image = small(auxiliary=True), jnp.zeros((2, 299, 299, 3))
    variables, (outputs, _) = trace(model, image, train=True)
    assert [x.shape for x in outputs] == [(2, 3), (2, 3)]
    assert "auxiliary_head" in variables["params"]
    logits = jax.eval_shape(model.apply, variables, image)
    assert logits.shape == (2, 3)
    alone, (logits, _) = trace(small(), image, train=True)
    assert logits.shape == (2, 3) and "auxiliary_head" not in alone["params"]


@pytest.mark.slow
def test_maps_at_strides_8_16_and_32(trace):
    image = jnp.zeros((1, 299, 299, 3))
    options = {"train": True, "method": "stages"}
    stages, _ = trace(InceptionV3(num_classes=0), image, **options)[1]
    assert [x.shape[1:] for x in stages] == [
        (35, 35, 288),
        (17, 17, 768),
        (8, 8, 2048),
    ]


@pytest.mark.slow
def test_training_updates_statistics_and_evaluation_does_not(assert_statistics_move):
    assert_statistics_move(small(), IMAGE)


@pytest.mark.slow
def test_it_learns_a_handful_of_images(overfit):
    # Reductions with one block in front: more would take longer to compile than to train.
    model = small(factorized_widths=(), num_wide_blocks=0)
    losses = overfit(model, IMAGE, steps=30, learning_rate=1e-2)
    assert losses[0] > 0.8 and losses[-1] < 0.1


def test_half_precision_keeps_float32_parameters_and_statistics(assert_half_precision):
    model = small(auxiliary=True, dtype="bfloat16")
    image = jnp.zeros((2, 299, 299, 3))
    assert_half_precision(model, image, train=True, statistics=True)


def test_small_images_want_no_auxiliary_head(trace):
    message = "auxiliary head got a map of 3x3, it needs 17x17; .* auxiliary=False"
    with pytest.raises(ValueError, match=message):
        trace(small(auxiliary=True), IMAGE, train=True)
