"""BigBird: parity of full and sparse attention, sparse against dense, padding, counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from layers.attention import dot_product_attention
from layers.masks import padding_mask
from nlp.layers.block_sparse_attention import (
    block_sparse_attention,
    dense_mask_and_bias,
    draw_random_blocks,
    seen_blocks,
)
from nlp.models.bigbird import BigBird, BigBird_B

V, T = 13, 38
TOKENS = np.random.default_rng(3).integers(1, V, (2, T)).astype(np.int32)
TOKENS[1, 31:] = 0


def fixture_model(**fields):
    sizes = {"vocab_size": 99, "max_length": 64, "embed_dim": 32, "num_layers": 2}
    sparse = {"block_size": 4, "num_random": 2}
    return BigBird(**{**sizes, "num_heads": 2, "mlp_dim": 64, **sparse, **fields})


@pytest.mark.parametrize("kind", ["full", "sparse_eval", "sparse_train"])
def test_parity(kind, parity, imported, assert_parity):
    name = f"bigbird_{kind}_hf"
    arrays = parity(name)[1]
    tokens = arrays["in_input_ids"].astype(np.int32)
    model = fixture_model(attention=kind.split("_")[0])
    variables = imported(model, name, tokens)
    drawn = arrays.get("out_rand_attn")
    out = jax.jit(model.apply)(
        variables, tokens, None, arrays["in_attention_mask"], random_blocks=drawn
    )
    for output, ours in (("logits", out.logits), ("last_hidden", out.hidden)):
        if kind == "full":
            assert_parity(name, output, ours)
            continue
        # The sparse fixtures know no noise.
        reference = arrays[f"out_{output}"]
        error = np.abs(ours - reference).max() / np.abs(reference).max()
        print(f"{name} {output}: {error:.1e}")
        assert ours.shape == reference.shape and error <= 1e-5


def test_published_parameter_counts(count_parameters):
    assert count_parameters(BigBird_B(), TOKENS) == 128_111_286
    bare = BigBird_B(pooling="token")
    assert count_parameters(bare, TOKENS) == 128_111_286 - 768 * 769
    init = jax.tree_util.Partial(BigBird_B().init, method="represent")
    shapes = jax.eval_shape(init, jax.random.key(0), TOKENS)
    assert sum(x.size for x in jax.tree.leaves(shapes)) == 127_468_800


def test_what_a_block_sees():
    drawn = draw_random_blocks(9, 3, 2, seed=(0, 1))
    assert drawn.shape == (3, 7, 2)
    seen = np.asarray(seen_blocks(jnp.asarray(drawn), 9))
    for head in seen:
        for row, blocks in enumerate(head, start=1):
            blocks = blocks[blocks >= 0]
            assert len(set(blocks)) == len(blocks) == (6 if row in (1, 7) else 7)
            assert {0, row - 1, row, row + 1, 8} <= set(blocks)
    assert not np.array_equal(drawn[0], drawn[1])
    np.testing.assert_array_equal(drawn, draw_random_blocks(9, 3, 2, seed=(0, 1)))
    assert not np.array_equal(drawn, draw_random_blocks(9, 3, 2, seed=(0, 2)))
    with pytest.raises(ValueError, match="6 blocks are too few for num_random=2"):
        draw_random_blocks(6, 1, 2, seed=(0,))


@pytest.mark.parametrize("draws", ["different", "first"])
def test_sparse_equals_dense_with_a_mask(draws):
    rng = np.random.default_rng(0)
    B, M, block, N, H = 2, 8, 2, 3, 4
    query, key, value = rng.normal(size=(3, B, M * block, N, H)).astype(np.float32)
    valid = np.arange(M * block) < np.array([[M * block], [11]])
    drawn = draw_random_blocks(M, N, 2, seed=(1,))
    drawn = jnp.asarray(drawn if draws == "different" else 0 * drawn)

    def sparse(*inputs):
        return block_sparse_attention(
            *inputs, valid=jnp.asarray(valid), random_blocks=drawn, block_size=block
        )

    def dense(*inputs):
        mask, bias = dense_mask_and_bias(drawn, M, block)
        mask &= padding_mask(valid) & valid[:, None, :, None]
        return dot_product_attention(*inputs, mask=mask, bias=bias)

    def run(attend):
        def loss(*inputs):
            out = attend(*inputs)
            return jnp.square(out).sum(), out

        return jax.value_and_grad(loss, (0, 1, 2), has_aux=True)

    results = jax.jit(lambda *x: (run(sparse)(*x), run(dense)(*x)))(query, key, value)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *results
    )
    mask, _ = dense_mask_and_bias(drawn, M, block)
    per_row = np.asarray(mask[0, :, ::block, ::block].sum(-1))
    inner = (6, 7) if draws == "different" else (4, 5)
    assert set(per_row[:, [0, -1]].ravel()) == {M}
    assert set(per_row[:, [1, -2]].ravel()) == {inner[0]}
    assert set(per_row[:, 2:-2].ravel()) == {inner[1]}


def test_padding_of_any_length_changes_nothing_in_the_same_blocks():
    model = fixture_model(vocab_size=V, num_layers=1)
    shapes = jax.eval_shape(model.init, jax.random.key(0), TOKENS)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda s: (0.4 * rng.normal(size=s.shape)).astype(np.float32), shapes
    )
    run = jax.jit(model.apply)
    out = run(variables, TOKENS)
    assert out.logits.dtype == jnp.float32 and out.hidden.shape == (2, T, 32)
    padded = run(variables, np.pad(TOKENS, ((0, 0), (0, 2))))  # still ten blocks
    real = TOKENS != 0
    np.testing.assert_allclose(
        padded.hidden[:, :T][real], out.hidden[real], rtol=1e-4, atol=1e-4
    )
    # What the tokens that are not seen say does not matter.
    changed = np.where(real, TOKENS, 7).astype(np.int32)
    masked = run(variables, changed, None, real)
    np.testing.assert_allclose(
        masked.hidden[real], out.hidden[real], rtol=1e-4, atol=1e-4
    )
    assert np.isfinite(run(variables, 0 * TOKENS).logits).all()


def test_short_rows_get_full_attention():
    models = [fixture_model(num_layers=1, attention=a) for a in ("sparse", "full")]
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(models[0].init, jax.random.key(0), TOKENS)
    variables = jax.tree.map(
        lambda s: (0.4 * rng.normal(size=s.shape)).astype(np.float32), shapes
    )

    @jax.jit
    def run(tokens):
        return [m.apply(variables, tokens, method="hidden") for m in models]

    sparse, full = run(TOKENS[:, :36])
    np.testing.assert_allclose(sparse, full, rtol=1e-5, atol=1e-5)
    sparse, full = run(TOKENS)
    # The first and the last block see all.
    np.testing.assert_allclose(sparse[0, :4], full[0, :4], rtol=1e-4, atol=1e-4)
    assert np.abs(sparse[0, 4:36] - full[0, 4:36]).max(-1).min() > 1e-4


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"attention": "dense"}, "attention is 'dense'; known: sparse, full"),
        ({"pooling": "max"}, "pooling is 'max'; known: pooler, token, mean"),
        ({"max_length": 20}, "sequence of 38 is longer than max_length=20"),
    ],
)
def test_errors_name_the_value(fields, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(fixture_model(**fields).init, jax.random.key(0), TOKENS)
