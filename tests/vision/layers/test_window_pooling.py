"""Adaptive averages and ceil mode: parity with torch's bins, sizes, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.layers.window_pooling import (
    adaptive_avg_pool,
    ceil_padding,
    cell_weights,
    max_pool_ceil,
)


def draw(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("side", [2, 5, 6, 7, 13])
def test_each_cell_is_the_mean_of_its_rectangle(side):
    x = draw(2, side, side + 3, 3)
    pooled = adaptive_avg_pool(jnp.asarray(x), (6, 4))
    assert pooled.shape == (2, 6, 4, 3)
    for i in range(6):
        for j in range(4):
            top, bottom = int(np.floor(i * side / 6)), int(np.ceil((i + 1) * side / 6))
            width = side + 3
            left, right = (
                int(np.floor(j * width / 4)),
                int(np.ceil((j + 1) * width / 4)),
            )
            expected = x[:, top:bottom, left:right].mean((1, 2))
            np.testing.assert_allclose(pooled[:, i, j], expected, atol=1e-6)


def test_parity_with_torch_on_a_map_smaller_than_the_grid(parity):
    # The arrays alone: the fixture's weights are many.
    arrays = np.load(parity.folder / "alexnet_96" / "io.npz")
    features = arrays["tap_features"].transpose(0, 2, 3, 1)
    pooled = adaptive_avg_pool(jnp.asarray(features), 6).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(pooled, arrays["tap_avgpool"], rtol=1e-6)


def test_the_size_it_has_already_changes_no_bit():
    x = jnp.asarray(draw(1, 6, 6, 2))
    assert adaptive_avg_pool(x, 6) is x


def test_cells_cover_every_pixel_and_overlap_only_where_they_must():
    np.testing.assert_array_equal(cell_weights(4, 2) > 0, [[1, 1, 0, 0], [0, 0, 1, 1]])
    np.testing.assert_array_equal(cell_weights(3, 2) > 0, [[1, 1, 0], [0, 1, 1]])
    np.testing.assert_allclose(cell_weights(14, 4).sum(1), 1)


@pytest.mark.parametrize(
    ("size", "window", "stride", "padding", "expected"),
    [
        # GoogLeNet's halvings of 224 pixels, of which floor would give 55, 27, 13, 6.
        (112, 3, 2, 0, 56),
        (56, 3, 2, 0, 28),
        (28, 3, 2, 0, 14),
        (14, 2, 2, 0, 7),
        # ZFNet's.
        (110, 3, 2, 0, 55),
        (26, 3, 2, 0, 13),
        # An exact fit needs no more.
        (13, 3, 2, 0, 6),
        (7, 3, 1, 1, 7),
        # The third window would begin in the padding beyond the edge: it is left out.
        (3, 2, 2, 1, 2),
        (2, 3, 2, 0, 1),
    ],
)
def test_sizes_round_up(size, window, stride, padding, expected):
    x = jnp.arange(size, dtype=jnp.float32)[None, :, None, None] * jnp.ones(
        (1, 1, size, 1)
    )
    pooled = max_pool_ceil(x, window, stride, padding)
    assert pooled.shape == (1, expected, expected, 1)
    # The last window's largest is the largest row it reaches, not padding.
    last = min(size - 1, (expected - 1) * stride + window - 1 - padding)
    assert pooled[0, -1, 0, 0] == last


def test_padding_never_wins_and_the_edge_gets_gradient():
    x = -jnp.ones((1, 4, 4, 1))
    np.testing.assert_array_equal(max_pool_ceil(x, 3, 2), -1)
    assert ceil_padding((4, 5), 3, 2) == ((0, 1), (0, 0))
    x = x.at[0, 3, 3, 0].set(5.0)
    grad = jax.grad(lambda x: max_pool_ceil(x, 3, 2)[0, 1, 1, 0])(x)
    assert grad[0, 3, 3, 0] == 1 and grad.sum() == 1


@pytest.mark.parametrize("shape", [(1, 4), (4, 1), (0, 4)])
def test_a_map_that_no_window_fits_is_named(shape):
    with pytest.raises(ValueError, match=f"map of {shape[0]}x{shape[1]} is too small"):
        max_pool_ceil(jnp.zeros((1, *shape, 1)), 3, 2)
