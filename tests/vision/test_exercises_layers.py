"""The lecture decks' exercises on layers: sizes, worked tables, receptive fields, shifts, axes.

Rows 22, 41 and 46 to 55 of the catalogue of what the decks name.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from layers import activations
from layers.convolution import Conv
from layers.dense import Dense
from layers.normalization import BatchNorm, GroupNorm, LayerNorm
from layers.pooling import avg_pool, max_pool

KEY = jax.random.key(0)


def shape_of(layer, shape):
    """(shape of the output, shapes of the parameters), without computing."""

    def run(rng):
        y, variables = layer.init_with_output(rng, jnp.zeros(shape))
        return y, variables["params"]

    output, params = jax.eval_shape(run, KEY)
    return output.shape, {name: leaf.shape for name, leaf in params.items()}


def image(rows):
    """A table as one image of one channel: [1, H, W, 1]."""
    return jnp.asarray(rows, jnp.float32)[None, :, :, None]


def table(x):
    """The reverse of `image`."""
    return np.asarray(x)[0, :, :, 0]


def convolve(rows, kernel, **fields):
    """A Conv with this kernel applied to a table."""
    kernel = jnp.asarray(kernel, jnp.float32)
    layer = Conv(1, kernel.shape, use_bias=False, **{"padding": "VALID", **fields})
    variables = {"params": {"kernel": kernel[:, :, None, None]}}
    return table(layer.apply(variables, image(rows)))


# Sizes: (N - F + 2 P) / stride + 1.


@pytest.mark.parametrize(
    ("shape", "filters", "window", "stride", "padding", "expected"),
    [
        ((7, 7, 1), 1, 3, 1, 0, (5, 5, 1)),
        ((7, 7, 1), 1, 3, 2, 0, (3, 3, 1)),
        ((7, 7, 1), 1, 3, 1, 1, (7, 7, 1)),
        ((32, 32, 3), 5, 5, 3, 0, (10, 10, 5)),
        ((32, 32, 3), 5, 3, 1, 1, (32, 32, 5)),
    ],
)
def test_output_volume_of_a_convolution(
    shape, filters, window, stride, padding, expected
):
    layer = Conv(filters, (window, window), strides=stride, padding=padding)
    output, params = shape_of(layer, (1, *shape))
    assert output == (1, *expected)
    assert (shape[0] - window + 2 * padding) % stride == 0
    assert params["kernel"] == (window, window, shape[-1], filters)


@pytest.mark.parametrize("window", [1, 3, 5, 7])
def test_padding_by_half_the_window_keeps_the_size(window):
    layer = Conv(1, (window, window), padding=(window - 1) // 2)
    assert shape_of(layer, (1, 7, 9, 1))[0] == (1, 7, 9, 1)


def test_where_the_stride_does_not_fit_the_last_pixels_are_never_seen():
    # (7 - 3) / 3 + 1 is no whole number: two windows, and one row and column left over.
    layer = Conv(1, (3, 3), strides=3, padding="VALID", use_bias=False)
    variables = {"params": {"kernel": jnp.ones((3, 3, 1, 1))}}
    seen = jax.grad(lambda x: layer.apply(variables, x).sum())(jnp.ones((1, 7, 7, 1)))
    assert shape_of(layer, (1, 7, 7, 1))[0] == (1, 2, 2, 1)
    np.testing.assert_array_equal(table(seen)[:6, :6], 1)
    np.testing.assert_array_equal(table(seen)[6], 0)
    np.testing.assert_array_equal(table(seen)[:, 6], 0)


@pytest.mark.parametrize("pool", [max_pool, avg_pool])
@pytest.mark.parametrize(
    ("size", "window", "stride", "expected"),
    [(224, 2, 2, 112), (55, 3, 2, 27), (7, 3, 2, 3)],
)
def test_output_volume_of_pooling(pool, size, window, stride, expected):
    def run(x):
        return pool(x, (window, window), strides=(stride, stride))

    x = jax.ShapeDtypeStruct((1, size, size, 6), jnp.float32)
    assert (size - window) / stride + 1 == expected
    assert jax.eval_shape(run, x).shape == (1, expected, expected, 6)


def test_weights_of_filters_and_of_a_dense_layer_on_a_large_image():
    layer = Conv(100, (7, 7), padding="SAME", use_bias=False)
    assert np.prod(shape_of(layer, (1, 1000, 1000, 1))[1]["kernel"]) == 4_900
    # The deck says 1B; a million pixels by a million units are a thousand times that.
    _, params = shape_of(Dense(1000 * 1000, use_bias=False), (1, 1000 * 1000))
    assert np.prod(params["kernel"]) == 10**12


# Worked convolutions and poolings.


def test_convolution_table_of_the_visual_recognition_deck():
    rows = [
        [1, 0, 0, 1, 2],
        [0, 0, 0, 3, 0],
        [0, 1, 2, 1, 1],
        [1, 1, 3, 0, 0],
        [3, 0, 0, 0, 1],
    ]
    kernel = [[0, 0, 1], [0, 2, 0], [1, 1, 0]]
    expected = [[1, 4, 11], [4, 11, 5], [7, 7, 1]]
    np.testing.assert_array_equal(convolve(rows, kernel), expected)
    # It is the sum of products in place; a convolution in the strict sense turns the kernel.
    turned = np.rot90(kernel, 2)
    assert convolve(rows, turned)[0, 0] != 1


PADDED = np.pad(np.arange(9).reshape(3, 3), 1)


def test_convolution_tables_of_the_deep_networks_deck():
    rows, kernel = np.arange(9).reshape(3, 3), [[0, 1], [2, 3]]
    np.testing.assert_array_equal(convolve(rows, kernel), [[19, 25], [37, 43]])
    whole = [[0, 3, 8, 4], [9, 19, 25, 10], [21, 37, 43, 16], [6, 7, 8, 0]]
    np.testing.assert_array_equal(convolve(rows, kernel, padding=1), whole)
    np.testing.assert_array_equal(convolve(PADDED, kernel), whole)
    strided = convolve(rows, kernel, padding=1, strides=(3, 2))
    np.testing.assert_array_equal(strided, [[0, 8], [6, 8]])


def test_max_pool_table():
    rows = [[1, 1, 2, 4], [5, 6, 7, 8], [3, 2, 1, 0], [1, 2, 3, 4]]
    pooled = max_pool(image(rows), (2, 2), strides=(2, 2))
    np.testing.assert_array_equal(table(pooled), [[6, 8], [3, 4]])


@pytest.mark.parametrize("pool", [max_pool, avg_pool])
def test_pooling_works_on_each_channel_by_itself(pool):
    x = np.random.default_rng(0).normal(size=(1, 4, 4, 3)).astype(np.float32)
    both = pool(jnp.asarray(x), (2, 2), strides=(2, 2))
    for c in range(3):
        alone = pool(jnp.asarray(x[..., c : c + 1]), (2, 2), strides=(2, 2))
        np.testing.assert_array_equal(both[..., c : c + 1], alone)


def test_a_filter_answers_most_where_the_image_looks_like_it():
    rng = np.random.default_rng(0)
    bank = rng.normal(size=(16, 16, 1, 256)).astype(np.float32)
    bank /= np.linalg.norm(bank, axis=(0, 1), keepdims=True)
    x = 0.01 * rng.normal(size=(1, 40, 40, 1)).astype(np.float32)
    x[0, 11:27, 5:21] += bank[..., 123]
    layer = Conv(256, (16, 16), padding="VALID", use_bias=False)
    maps = np.asarray(layer.apply({"params": {"kernel": bank}}, x))
    assert maps.shape == (1, 25, 25, 256)
    assert np.unravel_index(maps.argmax(), maps.shape) == (0, 11, 5, 123)


# Receptive fields, by where the gradient of one output is not zero.


class Stack(nn.Module):
    """Convolutions (window, stride, dilation), or poolings ('pool', window, stride)."""

    layers: tuple

    @nn.compact
    def __call__(self, x):
        for i, (kind, *numbers) in enumerate(self.layers):
            if kind == "pool":
                window, stride = numbers
                x = avg_pool(x, (window, window), strides=(stride, stride))
            else:
                window, stride, dilation = numbers
                x = Conv(
                    1,
                    (window, window),
                    strides=stride,
                    kernel_dilation=dilation,
                    padding="VALID",
                    kernel_init=nn.initializers.ones,
                    name=f"conv_{i}",
                )(x)
        return x


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([("conv", 3, 1, 1)], 3),
        ([("conv", 3, 1, 1)] * 2, 5),
        ([("conv", 3, 1, 1)] * 3, 7),
        ([("conv", 7, 1, 1)], 7),
        # Two convolutions and a pooling, then two more: a stage of VGG, and the next.
        ([("conv", 3, 1, 1)] * 2 + [("pool", 2, 2)] + [("conv", 3, 1, 1)] * 2, 14),
        ([("conv", 3, 2, 1), ("conv", 3, 1, 1)], 7),
        # Dilation spreads nine weights over 5x5, and doubled each time over 15x15.
        ([("conv", 3, 1, 2)], 5),
        ([("conv", 3, 1, 1), ("conv", 3, 1, 2), ("conv", 3, 1, 4)], 15),
    ],
)
def test_receptive_field_by_gradient_support(layers, expected):
    model, x = Stack(tuple(layers)), jnp.ones((1, 24, 24, 1))
    variables = model.init(KEY, x)
    support = jax.grad(lambda x: model.apply(variables, x)[0, 1, 1, 0])(x)
    rows, columns = np.nonzero(table(support))
    assert np.ptp(rows) + 1 == np.ptp(columns) + 1 == expected


def test_small_filters_see_as_far_for_fewer_weights():
    C = 16

    def weights(window):
        return np.prod(shape_of(Conv(C, (window, window)), (1, 9, 9, C))[1]["kernel"])

    assert weights(7) == 49 * C**2 and 3 * weights(3) == 27 * C**2
    assert weights(5) == 25 * C**2 and 2 * weights(3) == 18 * C**2


# Translation: shift in, shift out.


def spot(row, column):
    """A blob away from the borders: [1, 16, 16, 1]."""
    x = np.zeros((1, 16, 16, 1), np.float32)
    blob = np.random.default_rng(0).normal(size=(3, 3)) + 3
    x[0, row : row + 3, column : column + 3, 0] = blob
    return jnp.asarray(x)


KERNEL = np.random.default_rng(1).normal(size=(3, 3, 1, 2)).astype(np.float32)


def convolution(x):
    layer = Conv(2, (3, 3), padding=1, use_bias=False)
    return layer.apply({"params": {"kernel": KERNEL}}, x)


def pooling(x):
    return max_pool(x, (2, 2), strides=(2, 2))


@pytest.mark.parametrize(("down", "right"), [(1, 0), (0, 1), (3, 2)])
@pytest.mark.parametrize("stride_one", [convolution, lambda x: max_pool(x, (3, 3))])
def test_convolution_and_dense_pooling_move_with_the_image(stride_one, down, right):
    before, after = stride_one(spot(5, 5)), stride_one(spot(5 + down, 5 + right))
    np.testing.assert_array_equal(jnp.roll(before, (down, right), (1, 2)), after)


def test_pooling_with_a_stride_moves_by_whole_strides_only():
    before = pooling(spot(4, 4))
    np.testing.assert_array_equal(jnp.roll(before, 1, 1), pooling(spot(6, 4)))
    odd = pooling(spot(5, 4))
    for shift in (0, 1):
        assert not np.array_equal(jnp.roll(before, shift, 1), odd)


def test_pooling_everything_forgets_where_it_was_and_a_dense_layer_does_not():
    here, there = convolution(spot(5, 5)), convolution(spot(8, 3))
    np.testing.assert_array_equal(here.max((1, 2)), there.max((1, 2)))
    np.testing.assert_allclose(here.mean((1, 2)), there.mean((1, 2)), rtol=1e-6)
    kernel = np.random.default_rng(2).normal(size=(16 * 16, 4)).astype(np.float32)
    dense = Dense(4, use_bias=False)
    outputs = [
        dense.apply({"params": {"kernel": kernel}}, x.reshape(1, -1))
        for x in (spot(5, 5), spot(8, 3))
    ]
    assert np.abs(outputs[0] - outputs[1]).min() > 0.1


# Non-linearities.


X = np.array([-3.0, -0.5, 0.25, 2.0])


def gaussian(x):
    """Density of the normal distribution."""
    return np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)


# Of the normal distribution at X, from its table.
CUMULATIVE = np.array([0.0013498980, 0.3085375387, 0.5987063257, 0.9772498681])


@pytest.mark.parametrize(
    ("name", "value", "slope"),
    [
        (
            "sigmoid",
            1 / (1 + np.exp(-X)),
            np.exp(-X) / (1 + np.exp(-X)) ** 2,
        ),
        ("tanh", (np.exp(2 * X) - 1) / (np.exp(2 * X) + 1), 1 / np.cosh(X) ** 2),
        ("relu", np.maximum(0, X), [0, 0, 1, 1]),
        ("leaky_relu", np.maximum(0.01 * X, X), [0.01, 0.01, 1, 1]),
        ("gelu", X * CUMULATIVE, CUMULATIVE + X * gaussian(X)),
    ],
)
def test_activations_have_the_decks_values_and_slopes(name, value, slope):
    function = activations.activation_function(name)
    x = jnp.asarray(X, jnp.float32)
    np.testing.assert_allclose(function(x), value, atol=2e-6)
    np.testing.assert_allclose(jax.vmap(jax.grad(function))(x), slope, atol=2e-6)


# Normalisation: over which axes? After figure 2 of "Group Normalization".


SHAPE = (3, 2, 4, 6)  # N, H, W, C
NORMS = {
    "batch": (BatchNorm(use_running_average=False), lambda n, h, w, c: c == 5),
    "layer of a map": (GroupNorm(1), lambda n, h, w, c: n == 1),
    "layer of a token": (
        LayerNorm(),
        lambda n, h, w, c: (n == 1) & (h == 0) & (w == 2),
    ),
    "instance": (GroupNorm(6), lambda n, h, w, c: (n == 1) & (c == 5)),
    "group": (GroupNorm(3), lambda n, h, w, c: (n == 1) & (c >= 4)),
}


@pytest.mark.parametrize("name", NORMS)
def test_a_norm_reads_exactly_its_axes(name):
    layer, inside = NORMS[name]
    x = jnp.asarray(np.random.default_rng(0).normal(2, 3, SHAPE), jnp.float32)
    params = {"scale": jnp.ones(6), "bias": jnp.zeros(6)}
    stats = {"mean": jnp.zeros(6), "var": jnp.ones(6)}

    def run(x):
        variables = {"params": params, "batch_stats": stats}
        return layer.apply(variables, x, mutable="batch_stats")[0]

    @jax.jit
    def both(x):
        return run(x), jax.grad(lambda x: run(x)[1, 0, 2, 5])(x)

    y, influence = both(x)
    expected = inside(*np.indices(SHAPE))
    np.testing.assert_array_equal(np.asarray(influence) != 0, expected)
    # What is read together has mean 0 and variance 1 afterwards.
    together = np.asarray(y)[expected]
    assert abs(together.mean()) < 1e-5 and abs(together.var() - 1) < 1e-4


# Upsampling by a transposed convolution.


@pytest.mark.parametrize(("window", "even"), [(2, True), (3, False), (4, True)])
def test_windows_that_the_stride_divides_leave_no_checkerboard(window, even):
    """The deck's own example, 3x3 with stride 2, breaks the rule it gives."""
    layer = nn.ConvTranspose(1, (window, window), strides=(2, 2), use_bias=False)
    variables = {"params": {"kernel": jnp.ones((window, window, 1, 1))}}
    inside = table(layer.apply(variables, jnp.ones((1, 6, 6, 1))))[3:-3, 3:-3]
    assert (np.ptp(inside) == 0) == even
    if not even:
        assert sorted(set(inside.ravel())) == [1, 2, 4]


def test_interpolation_before_a_convolution_leaves_no_checkerboard():
    x = jax.image.resize(jnp.ones((1, 6, 6, 1)), (1, 12, 12, 1), "nearest")
    assert np.ptp(convolve(table(x), np.ones((3, 3)))) == 0
