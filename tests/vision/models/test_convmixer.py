"""ConvMixer: parity, published counts, one resolution, who mixes what, learning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.models import convmixer
from vision.models.convmixer import ConvMixer

NAME = "convmixer_tiny"


def test_parity(parity, imported, assert_parity, tap_error):
    model = ConvMixer(num_classes=10, embed_dim=48, num_layers=3)
    variables = imported(model, NAME)
    arrays = parity(NAME)[1]
    taps = {
        "stem_norm": "stem",
        "block_0": "blocks.0",
        "block_2": "blocks.2",
    }

    @jax.jit
    def run(image):
        return model.apply(
            variables,
            image,
            capture_intermediates=lambda module, method: (
                module.name in taps or method == "features"
            ),
            mutable="intermediates",
        )

    logits, captured = run(arrays["in_x_nhwc"])
    captured = captured["intermediates"]
    assert_parity(NAME, "logits", logits)
    assert_parity(NAME, "features", captured["features"][0].transpose(0, 3, 1, 2))
    for ours, theirs in taps.items():
        map_ = captured[ours]["__call__"][0].transpose(0, 3, 1, 2)
        assert tap_error(NAME, theirs, map_) < 1e-5
    # 64 pixels are nine patches of seven, and one pixel left over.
    assert_parity(NAME, "logits_y", run(arrays["in_y_nhwc"])[0])


@pytest.mark.parametrize(
    ("make", "expected", "paper"),
    [
        (convmixer.ConvMixer1536_20, 51_625_960, 51.6),
        (convmixer.ConvMixer1024_20, 24_383_464, 24.4),
        (convmixer.ConvMixer768_32, 21_110_248, 21.1),
    ],
)
def test_published_parameter_counts(make, expected, paper, count_parameters):
    count = count_parameters(make(num_classes=1000), (1, 224, 224, 3))
    # Tables 1 and 2 of the paper, in millions.
    assert count == expected and round(count / 1e6, 1) == paper


def small(**fields):
    fields = {"embed_dim": 8, "num_layers": 2, "kernel_size": 3, **fields}
    return ConvMixer(num_classes=3, patch_size=4, **fields)


IMAGE = jnp.asarray(np.random.default_rng(7).normal(size=(6, 16, 16, 3)), jnp.float32)


def test_every_layer_has_the_size_of_the_first():
    model, image = ConvMixer(num_classes=0, embed_dim=4), jnp.zeros((1, 70, 35, 3))
    shapes = []

    def look(module, method):
        return "block" in (module.name or "") or module.name == "stem_norm"

    def trace(rng):
        variables = model.init(rng, image)
        _, captured = model.apply(
            variables, image, capture_intermediates=look, mutable="intermediates"
        )
        shapes.extend(x.shape for x in jax.tree.leaves(captured))

    jax.eval_shape(trace, jax.random.key(0))
    assert shapes == [(1, 10, 5, 4)] * 21


def test_each_block_sees_as_many_patches_further_as_its_kernel(random_variables):
    model = small(kernel_size=5, num_layers=2)
    image = jnp.asarray(
        np.random.default_rng(0).normal(size=(1, 60, 60, 3)), jnp.float32
    )
    variables = random_variables(model, image)
    gradient = jax.jit(
        jax.grad(lambda x: model.apply(variables, x, method="features")[0, 7, 7].sum())
    )(image)
    seen = np.abs(gradient).max((0, 3)).reshape(15, 4, 15, 4).max((1, 3)) > 0
    expected = np.zeros((15, 15), bool)
    # Two blocks of kernel 5: 2 * (5 - 1) + 1 patches.
    expected[3:12, 3:12] = True
    np.testing.assert_array_equal(seen, expected)


def test_places_and_channels_are_mixed_by_different_layers(random_variables):
    """The depthwise half: a channel of its output depends on that channel alone."""
    block = convmixer.ConvMixerBlock(3, "gelu", norm, None, jnp.float32)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 5, 5, 4)), jnp.float32)
    variables = random_variables(block, x)

    def half(x):
        _, captured = block.apply(
            variables,
            x,
            capture_intermediates=lambda module, _: module.name == "depthwise_norm",
            mutable="intermediates",
        )
        return captured["intermediates"]["depthwise_norm"]["__call__"][0]

    def affected(function):
        """Which inputs one channel of one pixel of the output depends on."""
        gradient = jax.grad(lambda x: function(x)[0, 2, 2, 1])(x)[0]
        return np.abs(np.asarray(gradient)) > 0

    channels = affected(half).any((0, 1))
    np.testing.assert_array_equal(channels, [False, True, False, False])
    assert affected(lambda x: block.apply(variables, x)).any((0, 1)).all()


def norm(name):
    return convmixer.BatchNorm(use_running_average=True, name=name)


def test_training_updates_statistics_and_evaluation_does_not(assert_statistics_move):
    assert_statistics_move(small(), IMAGE)


def test_half_precision_keeps_float32_parameters_and_statistics(assert_half_precision):
    assert_half_precision(small(dtype="bfloat16"), IMAGE, train=True, statistics=True)


@pytest.mark.slow
def test_it_learns_a_handful_of_images(overfit):
    losses = overfit(small(), IMAGE, steps=40, learning_rate=1e-2)
    assert losses[0] > 0.8 and losses[-1] < 0.2


def test_errors_name_the_value():
    with pytest.raises(ValueError, match="kernel_size is 8; .* choose 9"):
        small(kernel_size=8).init(jax.random.key(0), IMAGE)
