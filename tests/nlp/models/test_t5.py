"""T5: parity of both versions, published counts, properties, initial scales."""

import functools
import json

import encoder_decoders
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from encoder_decoders import SIZES as TINY
from encoder_decoders import SOURCE, drawn, jit, stacked

from nlp.import_weights import convert
from nlp.models import t5
from nlp.models.t5 import T5

SIZES = {
    "embed_dim": 32,
    "num_layers": 2,
    "num_heads": 4,
    "head_dim": 12,
    "mlp_dim": 48,
    "num_buckets": 8,
    "max_distance": 10,
}
FIXTURES = {
    "t5_v10_hf": {},
    "t5_v11_hf": {"activation": "gelu_tanh", "gated": True, "tie_head": False},
}
TWO = np.ones((1, 2), np.int32)
tiny = functools.partial(T5, **TINY, head_dim=6, num_buckets=6, max_distance=5)


def fixture_model(name, **fields):
    return T5(99, **{**SIZES, **FIXTURES[name], **fields})


@pytest.mark.parametrize("name", FIXTURES)
def test_parity(name, parity, imported, assert_parity):
    arrays = {k: v.astype(np.int32) for k, v in parity(name)[1].items() if "id" in k}
    inputs = arrays["in_input_ids"], arrays["in_decoder_input_ids"]
    # By a loop over the layers and by a scan.
    model = fixture_model(name, scan=name == "t5_v11_hf")
    variables = imported(model, name, *inputs)

    @jit
    def run(variables, source, target):
        logits, seen = model.apply(
            variables,
            source,
            target,
            mutable="intermediates",
            capture_intermediates=lambda _, method: method in ("encode", "decode"),
        )
        seen = seen["intermediates"]
        return logits, seen["encode"][0], seen["decode"][0]

    @jit
    def write(variables, source):
        start = jnp.zeros((2, 1), jnp.int32)
        logits, cache = model.apply(
            variables, source, start, cache_length=8, method="begin", mutable=["cache"]
        )

        def step(carry, _):
            logits, cache = carry
            token = logits.argmax(-1)
            carry = model.apply(
                {**variables, **cache}, token, method="step", mutable=["cache"]
            )
            return carry, token

        (logits, _), tokens = jax.lax.scan(step, (logits, cache), None, length=7)
        return jnp.concatenate([start, tokens.T, logits.argmax(-1)[:, None]], 1)

    logits, memory, hidden = run(variables, *inputs)
    assert_parity(name, "logits", logits)
    assert_parity(name, "encoder_last_hidden", memory)
    assert_parity(name, "decoder_last_hidden", hidden)
    greedy = write(variables, arrays["in_input_ids"])
    np.testing.assert_array_equal(greedy, arrays["out_greedy_ids"])


@pytest.mark.parametrize("name", FIXTURES)
def test_published_files_hold_the_same_weights(name, parity, imported):
    model = fixture_model(name)
    now = imported(model, name, TWO, TWO)["params"]
    names = json.loads((parity.folder / name / "hub_names.json").read_text())
    weights = parity(name)[0]
    published = {name: weights[memory] for name, memory in names["map"].items()}
    unused = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    published[unused] = np.zeros((8, 4), np.float32)
    template = jax.eval_shape(model.init, jax.random.key(0), TWO, TWO)
    params, _ = convert(published, template)
    jax.tree.map(np.testing.assert_array_equal, params, now)


def test_files_that_do_not_fit_are_refused_by_name(parity):
    weights = parity("t5_v11_hf")[0]
    tied = fixture_model("t5_v11_hf", tie_head=True)
    template = jax.eval_shape(tied.init, jax.random.key(0), TWO, TWO)
    with pytest.raises(ValueError, match=r"unexpected: lm_head\.weight"):
        convert(weights, template)
    deeper = fixture_model("t5_v11_hf", num_decoder_layers=3, head_dim=8)
    template = jax.eval_shape(deeper.init, jax.random.key(0), TWO, TWO)
    with pytest.raises(ValueError) as error:
        convert(weights, template)
    for part in (
        "missing: decoder.block.2.layer.0.SelfAttention.k.weight",
        "SelfAttention.q.weight is (48, 32), the model needs (32, 32)",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (t5.T5_Small, 60_506_624),
        pytest.param(t5.T5_Base, 222_903_552, marks=pytest.mark.slow),
        pytest.param(t5.T5_Large, 737_668_096, marks=pytest.mark.slow),
        pytest.param(t5.T5_3B, 2_851_598_336, marks=pytest.mark.slow),
        pytest.param(t5.T5_11B, 11_307_321_344, marks=pytest.mark.slow),
        (t5.T5v1_1_Small, 76_961_152),
        pytest.param(t5.T5v1_1_Base, 247_577_856, marks=pytest.mark.slow),
        pytest.param(t5.T5v1_1_Large, 783_150_080, marks=pytest.mark.slow),
        pytest.param(t5.T5v1_1_XL, 2_849_757_184, marks=pytest.mark.slow),
        pytest.param(t5.T5v1_1_XXL, 11_135_332_352, marks=pytest.mark.slow),
    ],
)
def test_published_parameter_counts(make, expected, count_parameters):
    assert count_parameters(make(scan=True), TWO, TWO) == expected


def test_a_loop_has_the_parameters_of_a_scan(count_parameters):
    assert count_parameters(t5.T5_Small(), TWO, TWO) == 60_506_624


@pytest.mark.parametrize(
    "name", ["t5_v10_hf", pytest.param("t5_v11_hf", marks=pytest.mark.slow)]
)
def test_initial_logits_of_attention_and_vocabulary_are_near_one(name):
    """Without a scale in attention the initial kernels must keep them there."""
    model = T5(300, 128, 1, num_heads=4, head_dim=64, mlp_dim=256, **FIXTURES[name])
    variables = jit(model.init)(jax.random.key(0, impl="rbg"), TWO, TWO)
    x = np.random.default_rng(0).normal(size=(64, 128)).astype(np.float32)
    attention = variables["params"]["encoder"]["block_0"]["attention"]
    query, key = (
        np.einsum("BD,DNH->NBH", x, attention[part]["kernel"])
        for part in ("query", "key")
    )
    assert 0.8 < np.einsum("NBH,NSH->NBS", query, key).std() < 1.2
    # As published: queries are small, keys are not.
    assert 0.8 < query.std() * 64**0.5 < 1.2 and 0.8 < key.std() < 1.2
    logits = model.apply(variables, x, method="logits")
    assert 0.8 < logits.std() < 1.2


@pytest.mark.parametrize("check", encoder_decoders.CHECKS)
def test_properties(check):
    check(tiny)


def test_gradients_reach_shared_biases_through_a_scan_with_recomputation():
    loop = tiny(num_layers=2)
    scan = loop.clone(scan=True, remat="block")
    params = drawn(loop)["params"]

    @jit
    def run(params, same):
        def loss(params, model):
            memory = model.apply({"params": params}, SOURCE, method="encode")
            return jnp.square(memory).sum()

        return jax.grad(loss)(params, loop), jax.grad(loss)(same, scan)

    grads, scan_grads = run(params, stacked(params))
    assert np.abs(grads["encoder_position_bias"]["embedding"]).max() > 0.1

    def check(ours, theirs):
        bound = 1e-5 * max(np.abs(theirs).max(), 1)
        np.testing.assert_allclose(ours, theirs, atol=bound)

    jax.tree.map(check, scan_grads, stacked(grads))


def test_distance_alone_decides_what_a_position_is():
    """Without a table of positions there is no longest sequence, and order matters."""
    model = tiny(num_layers=1)
    params = drawn(model)
    long = np.tile(SOURCE[:1], 50)
    shapes = jax.eval_shape(model.apply, params, long, long)
    assert shapes.shape == (1, 250, 11)
    encode = jit(lambda v, x: model.apply(v, x, method="encode"))
    one, other = (encode(params, x) for x in (SOURCE, SOURCE[:, ::-1]))
    assert np.abs(one[0] - other[0, ::-1]).max() > 1e-2
