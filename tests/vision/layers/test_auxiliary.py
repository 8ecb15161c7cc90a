"""The auxiliary head: the sizes it makes, and those it refuses."""

import jax
import jax.numpy as jnp
import pytest

from vision.layers.auxiliary import AuxiliaryHead
from vision.layers.conv_norm import ConvNorm


def shapes(size, **fields):
    head = AuxiliaryHead(3, unit=ConvNorm, widths=(4, 6), **fields)
    return jax.eval_shape(
        lambda rng: head.init_with_output(rng, jnp.zeros((2, size, size, 5))),
        jax.random.key(0),
    )


@pytest.mark.parametrize(
    ("size", "fields", "kernel"),
    [(17, {}, 5), (17, {"kernel_size": None}, 5), (21, {"kernel_size": None}, 6)],
)
def test_the_second_convolution_covers_the_pooled_map(size, fields, kernel):
    logits, variables = shapes(size, **fields)
    assert logits.shape == (2, 3)
    conv = variables["params"]["conv_1"]["conv"]["kernel"]
    assert conv.shape == (kernel, kernel, 4, 6)


def test_without_the_norm_it_has_a_bias():
    _, variables = shapes(17, norm_last=False)
    assert set(variables["params"]["conv_1"]) == {"kernel", "bias"}
    assert set(variables["batch_stats"]) == {"conv_0"}


@pytest.mark.parametrize(
    ("size", "fields", "needed"),
    [(16, {}, "17x17"), (4, {"kernel_size": None}, "5x5")],
)
def test_maps_too_small_are_refused(size, fields, needed):
    with pytest.raises(ValueError, match=f"map of {size}x{size}, it needs {needed}"):
        shapes(size, **fields)
