"""Forms of a block against their formulas: post-norm, RMS, gated, grouped, shared, cross."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from layers.attention import MultiHeadAttention
from layers.mlp import Mlp
from layers.normalization import LayerNorm, RMSNorm
from layers.transformer import Decoder, Encoder, EncoderBlock

B, T, S, D, F = 2, 5, 3, 8, 12
RNG = np.random.default_rng(0)
X = RNG.normal(size=(B, T, D)).astype(np.float32)
MEMORY = RNG.normal(size=(B, S, D)).astype(np.float32)


def drawn(module, *inputs):
    """Variables shaped as `init` makes them, by numpy and nowhere zero."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    return jax.tree.map(
        lambda s: (0.5 * rng.normal(size=s.shape)).astype(np.float32), shapes
    )


def layer_norm(x, params, epsilon=1e-6):
    centered = x - x.mean(-1, keepdims=True)
    x = centered / jnp.sqrt(jnp.square(centered).mean(-1, keepdims=True) + epsilon)
    return x * params["scale"] + params["bias"]


def dense(x, params):
    return x @ params["kernel"] + params["bias"]


def test_a_gated_mlp_by_its_formula():
    module = Mlp(F, gated=True, activation="silu")
    variables = drawn(module, X)
    params = variables["params"]
    assert set(params) == {"up", "gate", "down"}
    gate = dense(X, params["gate"])
    inner = gate / (1 + np.exp(-gate)) * dense(X, params["up"])
    expected = dense(inner, params["down"])
    np.testing.assert_allclose(
        module.apply(variables, X), expected, rtol=1e-4, atol=1e-4
    )


def test_rms_norm_by_its_formula():
    module = RMSNorm(epsilon=0.1)
    variables = drawn(module, X)
    assert set(variables["params"]) == {"scale"}
    size = np.sqrt(np.square(X).mean(-1, keepdims=True) + 0.1)
    expected = X / size * variables["params"]["scale"]
    np.testing.assert_allclose(module.apply(variables, X), expected, rtol=1e-5)
    # It knows no mean: a shift is not taken away, as LayerNorm does.
    layer = LayerNorm(use_scale=False, use_bias=False)
    shifted = layer.apply({}, X + 3.0)
    np.testing.assert_allclose(shifted, layer.apply({}, X), rtol=1e-3, atol=1e-4)
    assert np.abs(module.apply(variables, X + 3.0) - expected).max() > 0.1


def test_a_post_norm_block_normalises_its_sums():
    module = EncoderBlock(2, F, pre_norm=False, cross_attention=True, causal=True)
    variables = drawn(module, X, MEMORY)
    params = variables["params"]
    attend = MultiHeadAttention(2, causal=True)
    cross = MultiHeadAttention(2, cross=True)

    @jax.jit
    def run(x, memory):
        y = attend.apply({"params": params["attention"]}, x)
        x = layer_norm(x + y, params["attention_norm"])
        y = cross.apply({"params": params["cross_attention"]}, x, memory)
        x = layer_norm(x + y, params["cross_attention_norm"])
        y = Mlp(F).apply({"params": params["mlp"]}, x)
        return layer_norm(x + y, params["mlp_norm"])

    np.testing.assert_allclose(
        jax.jit(module.apply)(variables, X, MEMORY),
        run(X, MEMORY),
        rtol=1e-4,
        atol=1e-4,
    )


def test_a_pre_norm_block_with_a_memory():
    module = EncoderBlock(2, F, cross_attention=True, norm="rms", use_bias=False)
    variables = drawn(module, X, MEMORY)
    params = variables["params"]
    attend = MultiHeadAttention(2, use_bias=False)
    cross = MultiHeadAttention(2, cross=True, use_bias=False)

    @jax.jit
    def run(x, memory):
        def normalize(x, name):
            return RMSNorm().apply({"params": params[name]}, x)

        normed = normalize(x, "attention_norm")
        x = x + attend.apply({"params": params["attention"]}, normed)
        normed = normalize(x, "cross_attention_norm")
        x = x + cross.apply({"params": params["cross_attention"]}, normed, memory)
        normed = normalize(x, "mlp_norm")
        return x + Mlp(F, use_bias=False).apply({"params": params["mlp"]}, normed)

    np.testing.assert_allclose(
        jax.jit(module.apply)(variables, X, MEMORY),
        run(X, MEMORY),
        rtol=1e-4,
        atol=1e-4,
    )
    names = ["/".join(k.key for k in p) for p, _ in jax.tree.leaves_with_path(params)]
    assert not [name for name in names if name.endswith("bias")]


def test_grouped_heads_are_full_heads_that_repeat():
    grouped = MultiHeadAttention(4, num_kv_heads=2)
    full = MultiHeadAttention(4)
    variables = drawn(grouped, X)
    params = variables["params"]
    assert params["key"]["kernel"].shape == (D, 2, 2)
    repeated = {
        name: jax.tree.map(lambda x: np.repeat(x, 2, axis=-2), params[name])
        for name in ("key", "value")
    }
    np.testing.assert_allclose(
        grouped.apply(variables, X),
        full.apply({"params": {**params, **repeated}}, X),
        rtol=1e-5,
        atol=1e-5,
    )
    with pytest.raises(ValueError, match="4 query heads are not a multiple of 3"):
        MultiHeadAttention(4, num_kv_heads=3).init(jax.random.key(0), X)


def test_shared_layers_are_one_block_again_and_again():
    shared = Encoder(3, 2, F, shared=True, pre_norm=False, final_norm=False)
    block = EncoderBlock(2, F, pre_norm=False)
    variables = drawn(shared, X)
    assert set(variables["params"]) == {"block_0"}
    own = {"params": variables["params"]["block_0"]}

    @jax.jit
    def run(x):
        ours = shared.apply(variables, x)
        for _ in range(3):
            x = block.apply(own, x)
        return ours, x

    np.testing.assert_allclose(*run(X), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="shared layers have neither a scan"):
        Encoder(3, 2, F, shared=True, scan=True).init(jax.random.key(0), X)


def test_attention_scale_and_a_function_in_the_place_of_attention():
    plain = MultiHeadAttention(2, scale=1.0)
    variables = drawn(plain, X)
    # Scaled by the query's projection instead.
    query = jax.tree.map(lambda x: x / 2.0, variables["params"]["query"])
    halved = {"params": {**variables["params"], "query": query}}
    np.testing.assert_allclose(
        MultiHeadAttention(2).apply(variables, X),  # 1 / sqrt(4)
        plain.apply(halved, X),
        rtol=1e-5,
        atol=1e-5,
    )
    seen = []

    def attend(query, key, value):
        seen.append((query.shape, key.shape))
        return value

    values = np.einsum("BTD,DNH->BTNH", X, variables["params"]["value"]["kernel"])
    values = values + variables["params"]["value"]["bias"]
    out = variables["params"]["out"]
    expected = np.einsum("BTNH,NHD->BTD", values, out["kernel"]) + out["bias"]
    np.testing.assert_allclose(
        plain.apply(variables, X, attend=attend), expected, rtol=1e-4, atol=1e-4
    )
    assert seen == [((B, T, 2, 4), (B, T, 2, 4))]


def test_a_decoder_is_causal_and_scans_to_the_same():
    loop, scan = Decoder(2, 2, F), Decoder(2, 2, F, scan=True, remat="block")
    variables = drawn(loop, X, MEMORY)
    params = dict(variables["params"])
    blocks = [params.pop(f"block_{i}") for i in range(2)]
    params["blocks"] = jax.tree.map(lambda *x: np.stack(x), *blocks)

    @jax.jit
    def run(x, memory):
        return loop.apply(variables, x, memory), scan.apply(
            {"params": params}, x, memory
        )

    ours, scanned = run(X, MEMORY)
    np.testing.assert_allclose(ours, scanned, rtol=1e-4, atol=1e-4)
    changed = X.copy()
    changed[:, 3] *= -1.0
    later = run(changed, MEMORY)[0]
    np.testing.assert_allclose(later[:, :3], ours[:, :3], rtol=1e-5, atol=1e-5)
    assert np.abs(later[:, 3:] - ours[:, 3:]).max((0, 2)).min() > 1e-3
    assert np.abs(run(X, MEMORY + 1.0)[0] - ours).max((0, 2)).min() > 1e-3


def test_an_unknown_norm_is_told_the_known_ones():
    with pytest.raises(ValueError, match="unknown norm 'batch'; known: layer, rms"):
        EncoderBlock(2, F, norm="batch").init(jax.random.key(0), jnp.asarray(X))
