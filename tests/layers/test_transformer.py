"""The encoder: scan equals loop, rematerialised equals plain, and what a block is."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from layers.masks import padding_mask
from layers.transformer import REMAT, Encoder, EncoderBlock, rematerialize

KEY = jax.random.key(0)
B, T, D, L = 2, 5, 8, 2
X = jnp.asarray(np.random.default_rng(1).normal(size=(B, T, D)), jnp.float32)
SIZES = {"num_layers": L, "num_heads": 2, "mlp_dim": 16}


def encoder(**options):
    return Encoder(**{**SIZES, **options})


@pytest.fixture(scope="module")
def variables():
    return jax.jit(encoder().init)(KEY, X)


def apply(model, variables, x=X, **kwargs):
    """`model.apply` under jit: op by op, Linen takes seconds."""
    options = {
        k: kwargs.pop(k) for k in ("train", "return_intermediates") if k in kwargs
    }
    return jax.jit(lambda v, x, kw: model.apply(v, x, **kw, **options))(
        variables, x, kwargs
    )


def stacked(variables):
    """The loop's parameters, as the scan wants them."""
    params = dict(variables["params"])
    blocks = [params.pop(f"block_{i}") for i in range(L)]
    return {
        "params": {**params, "blocks": jax.tree.map(lambda *a: jnp.stack(a), *blocks)}
    }


@pytest.fixture(scope="module")
def plain(variables):
    """Of the loop, without dropout."""
    return outputs_and_gradients(encoder(), variables)


RATES = {"dropout_rate": 0.2, "attention_dropout_rate": 0.2, "drop_path_rate": 0.3}


@pytest.fixture(scope="module")
def plain_dropped(variables):
    """Of the loop, with everything dropped by one key."""
    rngs = {"dropout": jax.random.key(3)}
    return outputs_and_gradients(encoder(**RATES), variables, train=True, rngs=rngs)


def outputs_and_gradients(model, variables, **kwargs):
    bias = jax.random.normal(KEY, (1, 2, T, T))
    mask = padding_mask(jnp.arange(T) < jnp.array([[T], [T - 2]]))

    def scalar(variables, x, bias):
        y, intermediates = model.apply(
            variables, x, mask=mask, bias=bias, return_intermediates=True, **kwargs
        )
        return jnp.sin(y).sum(), (y, intermediates)

    grad = jax.grad(scalar, argnums=(0, 1, 2), has_aux=True)
    return jax.jit(grad)(variables, X, bias)


def assert_close(ours, expected):
    assert jax.tree.structure(ours) == jax.tree.structure(expected)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        ours,
        expected,
    )


@pytest.mark.parametrize("remat", REMAT)
def test_scan_equals_loop(variables, plain, remat):
    scanned = encoder(scan=True, remat=remat)
    fresh = jax.eval_shape(scanned.init, KEY, X)
    assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, stacked(variables))
    gradients, outputs = outputs_and_gradients(scanned, stacked(variables))
    (expected, *others), expected_outputs = plain
    assert_close(outputs, expected_outputs)
    assert_close(gradients, (stacked(expected), *others))


@pytest.mark.parametrize("remat", ["block", "dots"])
def test_rematerialised_equals_plain_with_the_same_draws(
    variables, plain_dropped, remat
):
    rngs = {"dropout": jax.random.key(3)}
    model = encoder(remat=remat, **RATES)
    ours = outputs_and_gradients(model, variables, train=True, rngs=rngs)
    assert_close(ours, plain_dropped)


def test_rematerialisation_computes_more_and_dots_less_of_it(variables):
    def products(remat):
        def scalar(x):
            return encoder(remat=remat).apply(variables, x).sum()

        return str(jax.make_jaxpr(jax.grad(scalar))(X)).count("dot_general")

    assert products("none") < products("dots") < products("block")


@pytest.mark.parametrize("scan", [False, True])
def test_drop_path_grows_linearly_from_zero(scan):
    """At a final rate near 1 the first block always runs and the last nearly never."""
    model = encoder(drop_path_rate=0.998, scan=scan, num_layers=3)
    x = jnp.broadcast_to(X[:1], (64, T, D))
    variables = jax.jit(model.init)(KEY, x)
    rngs = {"dropout": KEY}
    _, outputs = apply(
        model, variables, x, train=True, return_intermediates=True, rngs=rngs
    )
    changed = [
        (np.abs(after - before) > 0).any((1, 2)).mean()
        for before, after in zip((x, *outputs[:-1]), outputs, strict=True)
    ]
    # Block i of 3 keeps each branch with 1 - rate; either branch changes the example.
    assert changed[0] == 1
    assert changed[1] == pytest.approx(1 - 0.499**2, abs=0.2)
    assert changed[2] <= 0.1


def test_dropout_is_deterministic_by_key_and_off_in_evaluation(variables):
    model = encoder(dropout_rate=0.3, drop_path_rate=0.3)

    def run(key):
        return model.apply(variables, X, train=True, rngs={"dropout": key})

    run = jax.jit(run)
    np.testing.assert_array_equal(run(KEY), run(KEY))
    assert (run(KEY) != run(jax.random.key(9))).any()
    np.testing.assert_array_equal(apply(model, variables), apply(encoder(), variables))


def test_scanned_layers_draw_and_initialise_differently():
    model = encoder(scan=True, dropout_rate=0.5)
    variables = jax.jit(model.init)(KEY, X)
    kernel = variables["params"]["blocks"]["mlp"]["up"]["kernel"]
    assert kernel.shape == (L, D, 16)
    assert (kernel[0] != kernel[1]).any()
    # With equal layers that add constants, only their draws can tell them apart.
    equal = jax.tree.map(jnp.zeros_like, variables)
    equal["params"]["blocks"]["mlp"]["down"]["bias"] += 1.0
    _, outputs = apply(
        model, equal, train=True, return_intermediates=True, rngs={"dropout": KEY}
    )
    first, second = outputs[0] - X, outputs[1] - outputs[0]
    assert not np.allclose(first, second)


def test_block_is_prenorm_with_residuals():
    block = EncoderBlock(num_heads=2, mlp_dim=16, layer_scale=0.5)
    y, variables = jax.jit(block.init_with_output)(KEY, X)
    params = variables["params"]
    assert set(params) == {
        "attention_norm",
        "attention",
        "attention_scale",
        "mlp_norm",
        "mlp",
        "mlp_scale",
    }
    np.testing.assert_array_equal(params["mlp_scale"], np.full(D, 0.5, np.float32))
    attention = nn.MultiHeadDotProductAttention(2)

    def norm(x):
        return nn.LayerNorm().apply({"params": params["attention_norm"]}, x)

    x = X + 0.5 * attention.apply({"params": params["attention"]}, norm(X))
    mlp = params["mlp"]
    hidden = nn.gelu(norm(x) @ mlp["up"]["kernel"], approximate=False)
    expected = x + 0.5 * hidden @ mlp["down"]["kernel"]
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_without_positions_the_encoder_commutes_with_permutations(variables):
    order = jnp.array([3, 0, 4, 1, 2])
    y, permuted = (apply(encoder(), variables, x) for x in (X, X[:, order]))
    np.testing.assert_allclose(permuted, y[:, order], rtol=1e-4, atol=1e-5)


def test_causal_encoder_by_gradients(variables):
    model = encoder(causal=True)

    def last(x):
        return jnp.sin(model.apply(variables, x)).sum((0, 2))

    influence = np.abs(jax.jit(jax.jacobian(last))(X)).sum((1, 3))
    np.testing.assert_array_equal(influence > 0, np.tril(np.ones((T, T), bool)))


def test_padding_has_no_effect_on_the_rest(variables):
    mask = padding_mask(jnp.broadcast_to(jnp.arange(T) < 3, (B, T)))
    padded = apply(encoder(), variables, X.at[:, 3:].set(50.0), mask=mask)
    alone = apply(encoder(), variables, X[:, :3])
    np.testing.assert_allclose(padded[:, :3], alone, rtol=1e-4, atol=1e-5)


def test_intermediates_and_final_norm(variables):
    y, outputs = apply(encoder(), variables, return_intermediates=True)
    assert len(outputs) == L
    norm = {"params": variables["params"]["norm"]}
    np.testing.assert_allclose(
        y, nn.LayerNorm().apply(norm, outputs[-1]), rtol=1e-4, atol=1e-5
    )
    bare = encoder(final_norm=False)
    assert "norm" not in jax.eval_shape(bare.init, KEY, X)["params"]
    np.testing.assert_allclose(apply(bare, variables), outputs[-1], rtol=1e-5)


@pytest.mark.parametrize("scan", [False, True])
def test_half_precision_computation_with_float32_parameters(scan):
    model = encoder(scan=scan, dtype="bfloat16")
    y, variables = jax.eval_shape(model.init_with_output, KEY, X.astype(jnp.bfloat16))
    assert y.dtype == jnp.bfloat16
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))


def test_unknown_policy_is_told_the_known_ones():
    with pytest.raises(ValueError, match="unknown remat 'full'; known: none, block"):
        rematerialize(lambda block, x: x, "full", scan=False)
