import jax
import jax.numpy as jnp
import numpy as np
import pytest

from layers.positions import (
    LearnedPositions,
    ResizePositions,
    resize_positions,
    sincos_1d,
    sincos_2d,
)


def test_sincos_1d_is_the_papers_formula():
    table = sincos_1d(50, 6)
    assert table.shape == (50, 6) and table.dtype == np.float32
    for position in (0, 1, 49):
        for i in range(3):
            angle = position / 10000 ** (2 * i / 6)
            assert table[position, 2 * i] == pytest.approx(np.sin(angle), abs=1e-6)
            assert table[position, 2 * i + 1] == pytest.approx(np.cos(angle), abs=1e-6)


def test_sincos_2d_puts_the_column_first_as_mae_does():
    height, width, dim = 2, 3, 8
    table = sincos_2d(height, width, dim).reshape(height, width, dim)
    frequency = 1 / 10000 ** (np.arange(2) / 2)
    for row in range(height):
        for column in range(width):
            expected = [
                *np.sin(column * frequency),
                *np.cos(column * frequency),
                *np.sin(row * frequency),
                *np.cos(row * frequency),
            ]
            np.testing.assert_allclose(table[row, column], expected, atol=1e-6)
    row_first = sincos_2d(height, width, dim, column_first=False)
    np.testing.assert_array_equal(
        row_first.reshape(table.shape), np.roll(table, 4, axis=-1)
    )


def test_sincos_2d_can_reach_the_last_wavelength():
    table = sincos_2d(1, 5, 16, reach_last=True)
    np.testing.assert_allclose(table[4, 3], np.sin(4 / 10000), rtol=1e-5)
    np.testing.assert_allclose(
        sincos_2d(1, 5, 16)[4, 3], np.sin(4 / 10000**0.75), rtol=1e-5
    )


@pytest.mark.parametrize(
    "table, dim", [(lambda d: sincos_1d(3, d), 5), (lambda d: sincos_2d(3, 3, d), 6)]
)
def test_dimensions_that_do_not_divide_are_refused(table, dim):
    with pytest.raises(ValueError, match=f"embed_dim {dim} is"):
        table(dim)


def test_learned_positions_are_added_and_limited():
    layer = LearnedPositions(5)
    x = jnp.zeros((2, 3, 4), jnp.bfloat16)
    y, variables = layer.init_with_output(jax.random.key(0), x)
    table = variables["params"]["embedding"]
    assert table.shape == (5, 4) and table.dtype == jnp.float32
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y[0], y[1])
    np.testing.assert_allclose(y[0].astype(jnp.float32), table[:3], rtol=1e-2)
    with pytest.raises(ValueError, match="6 is longer than max_length=5"):
        layer.apply(variables, jnp.zeros((2, 6, 4)))


def test_resizing_keeps_prefix_and_a_constant_table():
    table = jnp.concatenate([jnp.arange(8.0).reshape(2, 4), jnp.ones((6, 4))])
    resized = resize_positions(table, (2, 3), (4, 5), num_prefix=2)
    assert resized.shape == (22, 4)
    np.testing.assert_array_equal(resized[:2], table[:2])
    np.testing.assert_allclose(resized[2:], 1, rtol=1e-6)
    batched = resize_positions(table[None], (2, 3), (4, 5), num_prefix=2)
    np.testing.assert_allclose(batched[0], resized, rtol=1e-6)
    np.testing.assert_array_equal(
        resize_positions(table, (2, 3), (2, 3), num_prefix=2), table
    )


def test_resizing_a_table_of_another_grid_is_refused():
    with pytest.raises(ValueError, match="10 positions is not 1 and a grid of 2x3"):
        resize_positions(jnp.ones((10, 4)), (2, 3), (4, 4), num_prefix=1)


@pytest.mark.parametrize(
    "output, grid, method",
    [
        ("bicubic_to_13_aa", (13, 13), "bicubic"),
        ("bilinear_to_5x7_aa", (5, 7), "bilinear"),
        ("bilinear_x2_ac0", (18, 20), "bilinear"),
    ],
)
def test_resizing_parity_with_torch(parity, output, grid, method):
    _, arrays = parity("micro_ops")
    x = arrays["in_x"].transpose(0, 2, 3, 1)
    expected = arrays[f"out_{output}"].transpose(0, 2, 3, 1)
    table = x.reshape(len(x), -1, x.shape[-1])
    y = resize_positions(table, x.shape[1:3], grid, method=method)
    assert np.abs(y.reshape(expected.shape) - expected).max() <= (
        1e-5 * np.abs(expected).max()
    )


def test_tables_are_resized_when_a_run_starts_from_another():
    table = np.random.default_rng(0).normal(size=(1, 1 + 16, 8)).astype(np.float32)
    resize = ResizePositions()
    found = resize("backbone/position_embedding", table, (1, 1 + 64, 8))
    expected = resize_positions(table, (4, 4), (8, 8), num_prefix=1)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(found[:, 0], table[:, 0])
    assert resize("backbone/class_token", table, (1, 1, 8)) is None


def test_two_tokens_and_no_cells_are_kept_as_they_are():
    table = np.random.default_rng(0).normal(size=(1, 2 + 9, 4)).astype(np.float32)
    found = ResizePositions()("position_embedding", table, (1, 2 + 36, 4))
    np.testing.assert_array_equal(found[:, :2], table[:, :2])
    expected = resize_positions(table[:, 2:], (3, 3), (6, 6))
    np.testing.assert_array_equal(found[:, 2:], expected)


@pytest.mark.parametrize("num_suffix", [0, 3])
def test_tables_of_offsets_keep_their_middle_and_their_directions(num_suffix):
    # Two heads: how far down and how far right, in windows of 4; then in windows of 7.
    down, right = np.mgrid[-3:4, -3:4].astype(np.float32)
    offsets = np.stack([down, right], -1).reshape(-1, 2)
    extra = np.full((num_suffix, 2), 9, np.float32)
    resize = ResizePositions(match="bias$", num_prefix=0, num_suffix=num_suffix)
    table = np.concatenate([offsets, extra])
    found = resize("stage_0_block_0/bias", table, (13 * 13 + num_suffix, 2))
    grid = found[: 13 * 13].reshape(13, 13, 2)
    np.testing.assert_allclose(grid[6, 6], 0, atol=1e-5)
    # The same window has more cells, so that an offset is 7 / 13 of what it was.
    np.testing.assert_allclose(grid[6, 7], [0, 7 / 13], atol=2e-2)
    np.testing.assert_allclose(grid[8, 6], [14 / 13, 0], atol=2e-2)
    np.testing.assert_allclose(grid, -grid[::-1, ::-1], atol=1e-5)
    np.testing.assert_array_equal(found[13 * 13 :], extra)


def test_grids_that_are_no_squares_have_to_be_given():
    table = np.ones((1, 6, 8), np.float32)
    with pytest.raises(ValueError, match="7 positions are no square grid"):
        ResizePositions()("position_embedding", np.ones((1, 7, 8)), (1, 28, 8))
    with pytest.raises(ValueError, match="24 positions are no square grid"):
        ResizePositions()("position_embedding", table, (1, 24, 8))
    resize = ResizePositions(old_grid=(2, 3), new_grid=(4, 6))
    assert resize("position_embedding", table, (1, 24, 8)).shape == (1, 24, 8)
    with pytest.raises(ValueError, match=r"cannot be resized to \(1, 24, 4\)"):
        resize("position_embedding", table, (1, 24, 4))
