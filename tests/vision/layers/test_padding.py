"""Padding: what the two ways have in common and where they part."""

import jax.numpy as jnp
import numpy as np
import pytest

from layers.convolution import Conv
from vision.layers.padding import padding_named, symmetric, tensorflow_same


def windows(size, kernel, stride, padding):
    """First pixel of every window, along one side; negative in the padding."""
    # A kernel that reads its first pixel alone, over pixels that know their place.
    position = 1.0 + jnp.arange(size * size).reshape(1, size, size, 1) % size
    first = jnp.zeros((kernel, kernel, 1, 1)).at[kernel // 2, kernel // 2].set(1)
    conv = Conv(1, (kernel, kernel), strides=stride, padding=padding, use_bias=False)
    center = conv.apply({"params": {"kernel": first}}, position)[0, 0, :, 0]
    return (np.asarray(center) - 1).astype(int).tolist()


@pytest.mark.parametrize(
    ("size", "kernel", "same", "half"),
    [
        (8, 3, [1, 3, 5, 7], [0, 2, 4, 6]),
        (7, 3, [0, 2, 4, 6], [0, 2, 4, 6]),
        (8, 5, [1, 3, 5, 7], [0, 2, 4, 6]),
        (7, 5, [0, 2, 4, 6], [0, 2, 4, 6]),
    ],
)
def test_with_stride_two_windows_are_centred_elsewhere(size, kernel, same, half):
    assert windows(size, kernel, 2, tensorflow_same) == same
    assert windows(size, kernel, 2, symmetric(kernel)) == half


@pytest.mark.parametrize("size", [7, 8])
def test_with_stride_one_they_agree(size):
    for kernel in (1, 3, 5):
        expected = list(range(size))
        assert windows(size, kernel, 1, tensorflow_same) == expected
        assert windows(size, kernel, 1, symmetric(kernel)) == expected


def test_kernels_that_are_not_square_and_dilated_ones():
    assert symmetric((1, 7)) == ((0, 0), (3, 3))
    assert symmetric(3, dilation=2) == ((2, 2), (2, 2))
    x = jnp.ones((1, 9, 9, 1))
    conv = Conv(1, (3, 3), kernel_dilation=2, padding=symmetric(3, 2))
    assert conv.init_with_output({"params": jnp.zeros(2, jnp.uint32)}, x)[0].shape == (
        x.shape
    )


def test_names():
    assert padding_named("symmetric", 5) == ((2, 2), (2, 2))
    assert padding_named("SAME", 5) == "SAME"
    with pytest.raises(ValueError, match="padding is 'same'; known: symmetric, SAME"):
        padding_named("same", 5)
