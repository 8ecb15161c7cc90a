"""Patches: order, inverse, equality with a convolution."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.layers.patches import PatchEmbedding, patchify, unpatchify

IMAGE = np.random.default_rng(0).normal(size=(2, 12, 8, 3)).astype(np.float32)


def test_a_patch_is_row_column_channel():
    patches = patchify(IMAGE, 4)
    assert patches.shape == (2, 3, 2, 48)
    np.testing.assert_array_equal(patches[1, 2, 1], IMAGE[1, 8:12, 4:8].reshape(-1))


@pytest.mark.parametrize("patch_size", [1, 2, 4, (3, 2), (12, 8)])
def test_unpatchify_undoes_patchify(patch_size):
    patches = patchify(IMAGE, patch_size)
    np.testing.assert_array_equal(unpatchify(patches, patch_size), IMAGE)


@pytest.mark.parametrize("patch_size", [4, (3, 2)])
def test_it_is_the_convolution_whose_stride_is_its_window(patch_size):
    layer = PatchEmbedding(patch_size, 5)
    window = (patch_size,) * 2 if isinstance(patch_size, int) else patch_size
    convolution = nn.Conv(5, window, strides=window, padding="VALID")
    variables = convolution.init(jax.random.key(0), IMAGE)
    bias = jnp.arange(5.0)
    variables = {"params": {**variables["params"], "bias": bias}}
    shapes = jax.eval_shape(layer.init, jax.random.key(0), IMAGE)
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, variables)

    def total(apply, image):
        return (apply(variables, image) ** 2).sum()

    np.testing.assert_allclose(
        layer.apply(variables, IMAGE),
        convolution.apply(variables, IMAGE),
        rtol=1e-4,
        atol=1e-5,
    )
    np.testing.assert_allclose(
        jax.grad(total, 1)(layer.apply, IMAGE),
        jax.grad(total, 1)(convolution.apply, IMAGE),
        rtol=1e-3,
        atol=1e-4,
    )


def test_initial_values_have_the_spread_of_a_convolution():
    kernel = PatchEmbedding(8, 64).init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    spread = float(kernel["params"]["kernel"].std())
    assert abs(spread * np.sqrt(8 * 8 * 3) - 1) < 0.05


def test_patches_that_do_not_tile_are_refused():
    with pytest.raises(ValueError, match="12x8 cannot be cut into patches of 5x5"):
        patchify(IMAGE, 5)
