"""Inception v4: parity, published counts, maps, learning."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.layers.conv_norm import ConvNorm
from vision.layers.inception import InceptionBlock, scale_width
from vision.models.inception_v4 import REDUCTION_A, REDUCTION_B, InceptionV4

TAPS = {
    "features.0": "stem_0",
    "features.3": "stem_block_0",
    "features.5": "stem_block_2",
    "features.6": "block_a_0",
    "features.10": "reduction_a",
    "features.18": "reduction_b",
}


def test_parity(imported, assert_parity, parity):
    name = "inception_v4"
    model = InceptionV4(num_classes=10)
    variables = imported(model, name)
    arrays = parity(name)[1]

    @jax.jit
    def run(variables, image):
        logits, captured = model.apply(
            variables,
            image,
            capture_intermediates=lambda module, method: (
                method == "features" or module.name in TAPS.values()
            ),
            mutable="intermediates",
        )
        return logits, captured["intermediates"]

    logits, captured = run(variables, arrays["in_x_nhwc"])
    assert_parity(name, "logits", logits)
    assert_parity(name, "features", captured["features"][0].transpose(0, 3, 1, 2))
    for tap, module in TAPS.items():
        (ours,) = captured[module]["__call__"]
        ours = ours.transpose(0, 3, 1, 2)
        assert ours.shape == tuple(arrays[f"tapshape_{tap}"])
        theirs = arrays[f"tapflat_{tap}"]
        difference = ours.ravel()[:: arrays[f"tapstride_{tap}"]] - theirs
        assert np.abs(difference).max() < 1e-5 * np.abs(theirs).max()
    # 107 pixels: where a window does not fit, the rest of the map is left out.
    logits = jax.jit(model.apply)(variables, arrays["in_y_nhwc"])
    assert_parity(name, "logits_y", logits)


def trace(model, shape, **options):
    """Shapes of the variables, and of what `model` makes of images."""

    def run(rng):
        variables = model.init(rng, jnp.zeros(shape))
        options.setdefault("mutable", "batch_stats")
        return variables, model.apply(
            variables, jnp.zeros(shape), rngs={"dropout": rng}, **options
        )

    return jax.eval_shape(run, jax.random.key(0))


def test_published_count_and_maps_of_the_papers_figure_9():
    model = InceptionV4(num_classes=1000)
    variables, (stages, _) = trace(model, (1, 299, 299, 3), method="stages")
    # init sees the whole network, `stages` all but its head.
    count = {k: sum(x.size for x in jax.tree.leaves(v)) for k, v in variables.items()}
    assert count == {"params": 42_679_816, "batch_stats": 63_168}
    shapes = [x.shape[1:] for x in stages]
    assert shapes == [(35, 35, 384), (17, 17, 1024), (8, 8, 1536)]


def small(**fields):
    fields = {"num_blocks": (1, 1, 1), "width_factor": 1 / 32, **fields}
    return InceptionV4(num_classes=2, dropout_rate=0.0, **fields)


IMAGE = jnp.asarray(np.random.default_rng(7).normal(size=(4, 75, 75, 3)), jnp.float32)


@pytest.mark.parametrize("table", [REDUCTION_A, REDUCTION_B])
def test_a_reduction_keeps_what_it_pools(table):
    """The last branch of each is a pool of its input: the paper's figures 7 and 8."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 7, 7, 2)), jnp.float32)
    block = InceptionBlock(scale_width(table, 1 / 64), unit=ConvNorm)
    y, _ = jax.jit(block.init_with_output)(jax.random.key(1), x)
    assert y.shape[1:3] == (3, 3)
    np.testing.assert_array_equal(y[0, 1, 2, -2:], x[0, 2:5, 4:7].max((0, 1)))


@pytest.mark.slow
def test_training_updates_statistics_and_evaluation_does_not(random_variables):
    model = small()
    variables = random_variables(model, IMAGE)
    run = jax.jit(
        lambda v, train: model.apply(v, IMAGE, train=train, mutable="batch_stats"),
        static_argnums=1,
    )
    (_, trained), (_, evaluated) = run(variables, True), run(variables, False)
    for old, new, same in zip(
        jax.tree.leaves(variables["batch_stats"]),
        jax.tree.leaves(trained),
        jax.tree.leaves(evaluated),
        strict=True,
    ):
        np.testing.assert_array_equal(old, same)
        assert not np.array_equal(old, new)


@pytest.mark.slow
def test_it_learns_a_handful_of_images(overfit, random_variables):
    # One block, for more would take longer to compile than to train.
    model = small(num_blocks=(1, 0, 0))
    # Its start is drawn by numpy: compiling `init` takes longer than the training.
    variables = random_variables(model, IMAGE)
    start = types.SimpleNamespace(
        init=lambda rng, image: variables,
        apply=model.apply,
        num_classes=model.num_classes,
    )
    losses = overfit(start, IMAGE, steps=30, learning_rate=1e-2)
    assert losses[0] > 0.4 and losses[-1] < 0.1


def test_half_precision_keeps_float32_parameters_and_statistics():
    variables, (logits, updated) = trace(
        small(dtype="bfloat16"), IMAGE.shape, train=True
    )
    assert {x.dtype.name for x in jax.tree.leaves(variables)} == {"float32"}
    assert logits.dtype == jnp.bfloat16
    assert {x.dtype.name for x in jax.tree.leaves(updated)} == {"float32"}


def test_errors_name_the_value():
    with pytest.raises(ValueError, match=r"num_blocks is \(1, 2\)"):
        trace(small(num_blocks=(1, 2)), IMAGE.shape)
