"""Inception v4: parity, published counts, maps, learning."""

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


def test_parity(imported, assert_parity, parity, tap_error):
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
        assert tap_error(name, tap, ours.transpose(0, 3, 1, 2)) < 1e-5
    # 107 pixels: where a window does not fit, the rest of the map is left out.
    logits = jax.jit(model.apply)(variables, arrays["in_y_nhwc"])
    assert_parity(name, "logits_y", logits)


def test_published_count_and_maps_of_the_papers_figure_9(trace):
    model = InceptionV4(num_classes=1000)
    image = jnp.zeros((1, 299, 299, 3))
    variables, (stages, _) = trace(model, image, method="stages")
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
def test_training_updates_statistics_and_evaluation_does_not(assert_statistics_move):
    assert_statistics_move(small(), IMAGE)


@pytest.mark.slow
def test_it_learns_a_handful_of_images(overfit):
    # One block, for more would take longer to compile than to train.
    model = small(num_blocks=(1, 0, 0))
    losses = overfit(model, IMAGE, steps=30, learning_rate=1e-2)
    assert losses[0] > 0.4 and losses[-1] < 0.1


def test_half_precision_keeps_float32_parameters_and_statistics(assert_half_precision):
    assert_half_precision(small(dtype="bfloat16"), IMAGE, train=True, statistics=True)


def test_errors_name_the_value(trace):
    with pytest.raises(ValueError, match=r"num_blocks is \(1, 2\)"):
        trace(small(num_blocks=(1, 2)), IMAGE)
