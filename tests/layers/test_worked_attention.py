"""The lecture decks' worked example of attention, seven tokens by seven, and what the decks
claim of attention: masks, heads, positions, scaling, norms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from layers.attention import MultiHeadAttention, dot_product_attention
from layers.masks import causal_mask
from layers.positions import sincos_1d
from layers.transformer import EncoderBlock

# "When you play the game of thrones": query times key.
PRODUCTS = np.array(
    [
        [89, 20, 41, 10, 55, 78, 59],
        [90, 98, 81, 22, 87, 15, 32],
        [29, 81, 95, 10, 90, 30, 92],
        [10, 22, 67, 12, 88, 40, 89],
        [22, 70, 90, 56, 98, 44, 80],
        [10, 15, 30, 40, 44, 44, 59],
        [59, 72, 92, 90, 13, 59, 99],
    ],
    np.float32,
)
# The same over the square root of 7, as printed: 13 cells are not, most of them mirrored.
SCALED = np.array(
    [
        [33.6, 7.6, 15.5, 3.8, 20.8, 3.8, 22.3],
        [7.6, 34.0, 30.6, 8.3, 26.5, 5.7, 27.2],
        [15.5, 30.6, 35.9, 3.8, 34.0, 11.3, 34.8],
        [3.8, 8.3, 3.8, 34.8, 33.3, 15.1, 33.6],
        [20.8, 26.5, 34.0, 33.3, 37.0, 16.6, 35.9],
        [3.8, 5.7, 11.3, 15.1, 16.6, 32.1, 22.3],
        [22.3, 27.2, 34.8, 34.0, 35.9, 22.3, 37.4],
    ],
    np.float32,
)
WEIGHTS = np.array(
    [
        [1.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00],
        [0.00, 0.97, 0.03, 0.00, 0.00, 0.00, 0.00],
        [0.00, 0.00, 0.68, 0.00, 0.10, 0.00, 0.22],
        [0.00, 0.00, 0.00, 0.65, 0.14, 0.00, 0.21],
        [0.00, 0.00, 0.03, 0.02, 0.72, 0.00, 0.23],
        [0.00, 0.00, 0.00, 0.00, 0.00, 1.00, 0.00],
        [0.00, 0.00, 0.05, 0.03, 0.17, 0.00, 0.75],
    ]
)
# "[SOS] you win or you die [EOS]": each row sees itself and what is before it.
CAUSAL_WEIGHTS = np.array(
    [
        [1, 0, 0, 0, 0, 0, 0],
        [0.01, 0.99, 0, 0, 0, 0, 0],
        [0.001, 0.004, 0.995, 0, 0, 0, 0],
        [0.003, 0.004, 0.003, 0.99, 0, 0, 0],
        [0.003, 0.003, 0.04, 0.02, 0.93, 0, 0],
        [0.001, 0.001, 0.001, 0.001, 0.001, 0.995, 0],
        [0.00, 0.00, 0.05, 0.03, 0.17, 0.00, 0.75],
    ]
)
DIE = 5


def attend(logits, **options):
    """Attention whose logits, before any scale, are these [T, S]; output and weights.

    Unit vectors as keys make a query's products its own coordinates; as values they make
    the output the weights again.
    """
    keys = jnp.eye(logits.shape[1])[None, :, None]
    output, weights = dot_product_attention(
        jnp.asarray(logits)[None, :, None], keys, keys, return_weights=True, **options
    )
    np.testing.assert_allclose(output[0, :, 0], weights[0, 0], atol=1e-6)
    return weights[0, 0]


def softmax(logits):
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def test_seven_tokens_are_scaled_by_the_root_of_seven():
    assert round(89 / 7**0.5, 1) == 33.6
    ours = attend(PRODUCTS)  # seven coordinates: 1 / sqrt(7) is the default
    np.testing.assert_allclose(ours, softmax(PRODUCTS / 7**0.5), atol=1e-5)
    np.testing.assert_allclose(ours.sum(-1), 1, atol=1e-6)
    scaled = PRODUCTS / 7**0.5
    as_is, mirrored = (np.abs(x - SCALED) < 0.06 for x in (scaled, scaled.T))
    assert as_is.sum() == 36 and (as_is | mirrored).sum() == 44


def test_the_softmax_of_the_scaled_table_is_the_printed_one():
    ours = attend(SCALED, scale=1.0)
    np.testing.assert_allclose(ours, WEIGHTS, atol=0.0125)


def test_a_causal_mask_gives_the_printed_rows():
    logits = SCALED.copy()
    logits[DIE, 4] = 26.6  # as the deck's masked table has it, unlike its first
    forbidden = np.triu(np.full((7, 7), -np.inf), 1)
    ours = attend(logits, scale=1.0, mask=causal_mask(7))
    np.testing.assert_allclose(ours, attend(logits, scale=1.0, causal=True), atol=1e-7)
    # Adding minus infinity, as the deck does, is the same.
    np.testing.assert_allclose(ours, softmax(logits + forbidden), atol=1e-6)
    np.testing.assert_allclose(ours, CAUSAL_WEIGHTS, atol=0.0101)
    np.testing.assert_allclose(ours.sum(-1), 1, atol=1e-6)
    assert not np.triu(ours, 1).any()


def test_a_row_without_a_key_is_zero_where_minus_infinity_gives_nothing():
    mask = np.ones((1, 1, 7, 7), bool)
    mask[..., 3, :] = False
    ours = attend(SCALED, scale=1.0, mask=jnp.asarray(mask))
    assert not ours[3].any() and np.isfinite(ours).all()
    with np.errstate(invalid="ignore"):
        assert np.isnan(softmax(np.full(7, -np.inf))).all()


@pytest.mark.parametrize("width", [4, 64, 512])
def test_products_of_random_vectors_vary_by_their_width(width):
    """The reason for the scale: var(q k) = d, and 1 after division by sqrt(d)."""
    rng = np.random.default_rng(0)
    query, key = rng.normal(size=(2, 20_000, width))
    products = np.einsum("TD,TD->T", query, key)
    # Four standard errors; a product's kurtosis is 3 + 6 / d.
    bound = 4 * np.sqrt((2 + 6 / width) / 20_000)
    np.testing.assert_allclose(products.var() / width, 1, atol=bound)
    np.testing.assert_allclose((products / width**0.5).var(), 1, atol=bound)


def drawn(module, *inputs):
    """Variables shaped as `init` makes them, by numpy and nowhere zero."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    return jax.tree.map(
        lambda s: (0.4 * rng.normal(size=s.shape)).astype(np.float32), shapes
    )


X = np.random.default_rng(1).normal(size=(2, 7, 12)).astype(np.float32)
ORDER = np.array([3, 0, 6, 1, 5, 2, 4])
BLOCK = EncoderBlock(num_heads=3, mlp_dim=16, activation="relu")


def test_without_positions_attention_does_not_know_the_order():
    """Permuted inputs give permuted outputs; fixed, added or concatenated positions do not."""
    table = np.broadcast_to(sincos_1d(7, 12), X.shape)
    ways = {
        "none": lambda x: x,
        "added": lambda x: x + table,
        "concatenated": lambda x: np.concatenate([x, table], -1),
    }
    for way, place in ways.items():
        variables = drawn(BLOCK, place(X))
        apply = jax.jit(BLOCK.apply)
        one = apply(variables, place(X))[:, ORDER]
        other = apply(variables, place(X[:, ORDER]))
        error = np.abs(one - other).max() / np.abs(one).max()
        assert error < 1e-5 if way == "none" else error > 0.05, way


def test_cross_attention_reads_a_memory_of_any_order_and_length():
    layer = MultiHeadAttention(num_heads=3, cross=True)
    memory = np.random.default_rng(2).normal(size=(2, 5, 8)).astype(np.float32)
    variables = drawn(layer, X, memory)
    apply = jax.jit(lambda m: layer.apply(variables, X, m, return_weights=True))
    output, weights = apply(memory)
    assert output.shape == X.shape and weights.shape == (2, 3, 7, 5)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
    order = np.array([4, 2, 0, 1, 3])
    permuted, permuted_weights = apply(memory[:, order])
    np.testing.assert_allclose(permuted, output, atol=1e-5)
    np.testing.assert_allclose(permuted_weights, weights[..., order], atol=1e-6)


def dense(x, params):
    """A projection to heads or from them, or of an MLP, in numpy."""
    kernel, bias = params["kernel"], params["bias"]
    axes = 2 if kernel.ndim == 3 and x.ndim == 4 else 1
    return np.tensordot(x, kernel, axes) + bias


def deck_attention(x, params, mask):
    """The deck's code: heads side by side, q / sqrt(head size), minus infinity."""
    query, key, value = (dense(x, params[n]) for n in ("query", "key", "value"))
    heads = []
    weights = []
    for n in range(query.shape[2]):
        q, k, v = (a[:, :, n] for a in (query / query.shape[-1] ** 0.5, key, value))
        scores = np.where(mask[:, None], q @ k.swapaxes(1, 2), -np.inf)
        weights.append(softmax(scores))
        heads.append(weights[-1] @ v)
    out = params["out"]["kernel"].reshape(-1, x.shape[-1])
    joined = np.concatenate(heads, -1)
    return joined @ out + params["out"]["bias"], np.stack(weights, 1)


def normalized(x, params):
    centered = x - x.mean(-1, keepdims=True)
    deviation = np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-6)
    return centered / deviation * params["scale"] + params["bias"]


def deck_mlp(x, params):
    return dense(np.maximum(dense(x, params["up"]), 0), params["down"])


VALID = np.arange(7) < np.array([[7], [4]])


def test_heads_side_by_side_and_projected_are_the_deck_s_code():
    layer = MultiHeadAttention(num_heads=3)
    variables = drawn(layer, X)
    apply = jax.jit(
        lambda x: layer.apply(
            variables, x, mask=VALID[:, None, None], return_weights=True
        )
    )
    for ours, theirs in zip(
        apply(X), deck_attention(X, variables["params"], VALID), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pre_norm", [True, False])
def test_add_and_norm_before_and_after(pre_norm):
    """The deck's code normalises before each branch, its drawing after each sum."""
    block = BLOCK.clone(pre_norm=pre_norm)
    variables = drawn(block, X)
    params = variables["params"]
    mask = VALID[:, None, None]
    ours = jax.jit(block.apply)(variables, X, mask=mask)

    def add(x, branch, norm):
        if pre_norm:
            return x + branch(normalized(x, params[norm]))
        return normalized(x + branch(x), params[norm])

    x = add(
        X, lambda x: deck_attention(x, params["attention"], VALID)[0], "attention_norm"
    )
    x = add(x, lambda x: deck_mlp(x, params["mlp"]), "mlp_norm")
    np.testing.assert_allclose(ours, x, rtol=1e-4, atol=1e-5)


def test_heads_must_divide_the_width():
    """512 over 6 heads, as one slide says, cannot be; the paper has 8."""
    x = jnp.zeros((1, 2, 512))
    with pytest.raises(ValueError, match="num_heads=6 does not divide 512"):
        jax.eval_shape(MultiHeadAttention(6).init, jax.random.key(0), x)
    shapes = jax.eval_shape(MultiHeadAttention(8).init, jax.random.key(0), x)
    assert shapes["params"]["query"]["kernel"].shape == (512, 8, 64)
