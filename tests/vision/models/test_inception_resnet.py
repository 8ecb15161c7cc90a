"""Inception-ResNet: parity, counts, residuals, learning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.layers.conv_norm import ConvNorm
from vision.models import inception_resnet
from vision.models.inception_resnet import (
    InceptionResNet,
    InceptionResNetV1,
    InceptionResNetV2,
    ResidualBlock,
)

TAPS = {
    "conv2d_1a": "stem_0",
    "mixed_5b": "mixed",
    "repeat": "block_a_9",
    "mixed_6a": "reduction_a",
    "mixed_7a": "reduction_b",
    "block8": "last_block",
    "conv2d_7b": "last_conv",
}


def test_parity(imported, assert_parity, parity, tap_error):
    name = "inception_resnet_v2"
    model = InceptionResNetV2(num_classes=10)
    variables = imported(model, name)
    arrays = parity(name)[1]

    @jax.jit
    def run(variables, image):
        logits, captured = model.apply(
            variables,
            image,
            capture_intermediates=lambda module, _: module.name in TAPS.values(),
            mutable="intermediates",
        )
        return logits, captured["intermediates"]

    logits, captured = run(variables, arrays["in_x_nhwc"])
    assert_parity(name, "logits", logits)
    for tap, module in TAPS.items():
        (ours,) = captured[module]["__call__"]
        ours = ours.transpose(0, 3, 1, 2)
        assert tap_error(name, tap, ours) < 1e-5
    # The last module is what `features` returns.
    assert_parity(name, "features", ours)
    # 107 pixels: where a window does not fit, the rest of the map is left out.
    logits = jax.jit(model.apply)(variables, arrays["in_y_nhwc"])
    assert_parity(name, "logits_y", logits)


def v1_by_hand():
    """Weights of version 1, read off the paper's figures 10 to 15."""

    def conv(before, after, window=1):
        return window * before * after + 2 * after  # and a norm

    stem = conv(3, 32, 9) + conv(32, 32, 9) + conv(32, 64, 9)
    stem += conv(64, 80) + conv(80, 192, 9) + conv(192, 256, 9)
    a = 3 * conv(256, 32) + 3 * conv(32, 32, 9) + 96 * 256 + 256
    reduction_a = conv(256, 384, 9) + conv(256, 192)
    reduction_a += conv(192, 192, 9) + conv(192, 256, 9)
    b = 2 * conv(896, 128) + 2 * conv(128, 128, 7) + 256 * 896 + 896
    reduction_b = 3 * conv(896, 256) + conv(256, 384, 9) + 3 * conv(256, 256, 9)
    c = 2 * conv(1792, 192) + 2 * conv(192, 192, 3) + 384 * 1792 + 1792
    head = 1792 * 1000 + 1000
    return stem + 5 * a + reduction_a + 10 * b + reduction_b + 5 * c + head


@pytest.mark.parametrize(
    ("make", "expected", "channels"),
    [
        (InceptionResNetV2, 55_843_464, (320, 1088, 1536)),
        (InceptionResNetV1, 22_756_328, (256, 896, 1792)),
    ],
)
def test_counts_and_maps(make, expected, channels, trace):
    image = jnp.zeros((1, 299, 299, 3))
    variables, (stages, _) = trace(make(num_classes=1000), image, method="stages")
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) == expected
    assert [x.shape[-1] for x in stages] == list(channels)
    assert [x.shape[1] for x in stages] == [35, 17, 8]
    if make is InceptionResNetV1:
        assert v1_by_hand() == expected
    else:
        stats = jax.tree.leaves(variables["batch_stats"])
        assert sum(x.size for x in stats) == 60_544


@pytest.mark.parametrize("scale", [0.0, 0.1])
def test_a_block_adds_its_scaled_residual(scale):
    """At scale 0 a block is the identity, as large as its branches may be."""
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(1, 5, 5, 16)), jnp.float32)
    branches = inception_resnet.V1.blocks[2]
    block = ResidualBlock(branches, unit=ConvNorm, scale=scale)
    variables = block.init(jax.random.key(1), x)
    y, captured = block.apply(variables, x, capture_intermediates=True)
    residual = captured["intermediates"]["residual"]["__call__"][0]
    assert np.abs(residual).max() > 0.1
    np.testing.assert_allclose(y, np.maximum(x + scale * residual, 0), atol=1e-6)
    assert (np.abs(y - x).max() == 0) == (scale == 0)


def small(version="v2", **fields):
    fields = {"num_blocks": (1, 1, 1), "width_factor": 1 / 32, **fields}
    return InceptionResNet(num_classes=2, version=version, dropout_rate=0.0, **fields)


IMAGE = jnp.asarray(np.random.default_rng(7).normal(size=(4, 75, 75, 3)), jnp.float32)


@pytest.mark.slow
def test_training_updates_statistics_and_evaluation_does_not(assert_statistics_move):
    assert_statistics_move(small(), IMAGE)


@pytest.mark.slow
def test_it_learns_a_handful_of_images(overfit):
    # One block, for more would take longer to compile than to train.
    model = small("v1", num_blocks=(1, 0, 0))
    losses = overfit(model, IMAGE, steps=30, learning_rate=1e-2)
    assert losses[0] > 0.4 and losses[-1] < 0.1


def test_half_precision_keeps_float32_parameters_and_statistics(assert_half_precision):
    assert_half_precision(small(dtype="bfloat16"), IMAGE, train=True, statistics=True)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"version": "v3"}, "version is 'v3'; known: v1, v2"),
        ({"scales": (0.1,)}, r"scales is \(0.1,\)"),
        ({"num_blocks": (1, 2)}, r"num_blocks is \(1, 2\)"),
    ],
)
def test_errors_name_the_value(fields, message, trace):
    with pytest.raises(ValueError, match=message):
        trace(small(**fields), IMAGE)
