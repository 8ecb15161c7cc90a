import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from layers.pooling import avg_pool, max_pool

CASES = [
    ((3, 3), (2, 2), ((1, 1), (1, 1))),
    ((3, 3), (2, 2), "SAME"),
    ((2, 2), (2, 2), "VALID"),
    ((3, 3), (1, 1), "SAME"),
    ((3, 2), (1, 3), "VALID"),
    ((2, 2), (3, 3), "VALID"),
    ((1, 3), (2, 2), ((0, 0), (1, 2))),
]


def values_and_gradient(pool, x, case):
    def scalar(x):
        out = pool(x, *case)
        return (jnp.arange(out.size).reshape(out.shape) * out).sum(), out

    gradient, out = jax.jit(jax.grad(scalar, has_aux=True))(x)
    return out, gradient


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("ties", [False, True])
def test_max_pool_has_value_and_gradient_of_the_derived_one(case, ties):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x = rng.normal(size=(2, 9, 10, 3))
        x = np.maximum(np.round(x), 0) if ties else x  # as after a ReLU
        ours = values_and_gradient(max_pool, x, case)
        plain = values_and_gradient(nn.max_pool, x, case)
        assert ours[0].shape == plain[0].shape
        for a, b in zip(ours, plain, strict=True):
            np.testing.assert_array_equal(a, b)


def test_max_pool_gradient_needs_no_window_reduction():
    def scalar(x):
        return max_pool(x, (3, 3), (2, 2), "SAME").sum()

    text = str(jax.make_jaxpr(jax.grad(scalar))(jnp.ones((1, 8, 8, 2))))
    assert "select_and" not in text and "reduce_window" not in text


def test_of_equal_values_the_first_gets_the_gradient():
    x = jnp.zeros((1, 2, 2, 1))
    gradient = jax.grad(lambda x: max_pool(x, (2, 2), (2, 2)).sum())(x)
    np.testing.assert_array_equal(gradient.ravel(), [1, 0, 0, 0])


def test_max_pool_of_half_precision_integers_and_one_dimension():
    x = jnp.arange(24).reshape(2, 6, 2)
    expected = np.asarray(x).reshape(2, 3, 2, 2).max(2)
    np.testing.assert_array_equal(max_pool(x, (2,), (2,)), expected)
    half = x.astype(jnp.bfloat16)
    gradient = jax.grad(lambda x: max_pool(x, (2,), (2,)).sum())(half)
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_array_equal(gradient[0, :, 0], [0, 1, 0, 1, 0, 1])


@pytest.mark.parametrize("case", CASES[:4], ids=str)
@pytest.mark.parametrize("count_include_pad", [False, True])
def test_avg_pool_is_the_mean_of_slices(case, count_include_pad):
    window, strides, padding = case
    x = np.random.default_rng(0).normal(size=(2, 9, 10, 3)).astype(np.float32)
    y = avg_pool(x, window, strides, padding, count_include_pad)
    pairs = padding
    if isinstance(padding, str):
        pairs = jax.lax.padtype_to_pads((9, 10), window, strides, padding)
    padded = np.pad(x, [(0, 0), *pairs, (0, 0)], constant_values=np.nan)
    for i in range(y.shape[1]):
        for j in range(y.shape[2]):
            rows = slice(i * strides[0], i * strides[0] + window[0])
            columns = slice(j * strides[1], j * strides[1] + window[1])
            part = padded[:, rows, columns]
            mean = np.nanmean(part, (1, 2))
            if count_include_pad:
                mean = np.nansum(part, (1, 2)) / np.prod(window)
            np.testing.assert_allclose(y[:, i, j], mean, rtol=1e-5, atol=1e-6)


def test_window_that_does_not_fit_the_input_is_named():
    with pytest.raises(ValueError, match=r"window \(2, 2\).*\(2, 6, 3\)"):
        max_pool(jnp.ones((2, 6, 3)), (2, 2))


@pytest.mark.parametrize(
    "output, pool, case",
    [
        ("maxpool_3_2_p1", max_pool, ((3, 3), (2, 2), 1)),
        ("maxpool_3_2_ceil", max_pool, ((3, 3), (2, 2), ((0, 0), (0, 1)))),
        ("maxpool_3_2_tfsame", max_pool, ((3, 3), (2, 2), "SAME")),
        # Named "nopad" because torch sees no padding: it was put on before, and counts.
        ("avgpool_3_2_tfsame_nopad", avg_pool, ((3, 3), (2, 2), "SAME", True)),
        ("avgpool_3_1_p1", avg_pool, ((3, 3), (1, 1), 1, True)),
        ("avgpool_3_1_p1_nopad", avg_pool, ((3, 3), (1, 1), 1, False)),
    ],
)
def test_parity_with_torch(parity, output, pool, case):
    _, arrays = parity("micro_ops")
    y = pool(jnp.asarray(arrays["in_x"].transpose(0, 2, 3, 1)), *case)
    expected = arrays[f"out_{output}"].transpose(0, 2, 3, 1)
    assert np.abs(y - expected).max() <= 1e-5 * np.abs(expected).max()
