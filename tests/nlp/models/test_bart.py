"""BART: parity, published counts, properties."""

import functools
import json

import encoder_decoders
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from encoder_decoders import SIZES as TINY
from encoder_decoders import SOURCE, TARGET, jit

from nlp.import_weights import convert
from nlp.models.bart import BART, BART_Base, BART_Large

TWO = np.ones((1, 2), np.int32)
NAME = "bart_hf"
tiny = functools.partial(BART, **TINY, max_length=16)


def fixture_model():
    sizes = {"num_layers": 2, "num_heads": 4, "mlp_dim": 64, "max_length": 24}
    return BART(99, 32, position_offset=2, pad_id=1, **sizes)


def test_parity(parity, imported, assert_parity):
    arrays = {k: v.astype(np.int32) for k, v in parity(NAME)[1].items() if "id" in k}
    inputs = arrays["in_input_ids"], arrays["in_decoder_input_ids"]
    model = fixture_model()
    scanned = model.clone(scan=True)
    variables = imported(model, NAME, *inputs)

    @jit
    def run(variables, source, target):
        logits, seen = scanned.apply(
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
        start = jnp.full((2, 1), 2, jnp.int32)
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

        _, tokens = jax.lax.scan(step, (logits, cache), None, length=7)
        return jnp.concatenate([start, tokens.T], 1)

    logits, memory, hidden = run(imported(scanned, NAME, *inputs), *inputs)
    assert_parity(NAME, "logits", logits)
    assert_parity(NAME, "encoder_last_hidden", memory)
    assert_parity(NAME, "decoder_last_hidden", hidden)
    # The reference forces its last token to be the end.
    greedy = write(variables, arrays["in_input_ids"])
    np.testing.assert_array_equal(greedy, arrays["out_greedy_ids"][:, :-1])


def test_published_files_hold_the_same_weights(parity, imported):
    model = fixture_model()
    now = imported(model, NAME, TWO, TWO)["params"]
    names = json.loads((parity.folder / NAME / "hub_names.json").read_text())
    weights = parity(NAME)[0]
    published = {name: weights[memory] for name, memory in names["map"].items()}
    template = jax.eval_shape(model.init, jax.random.key(0), TWO, TWO)
    params, _ = convert(published, template)
    jax.tree.map(np.testing.assert_array_equal, params, now)


def test_files_that_do_not_fit_are_refused_by_name(parity):
    wrong = dict(parity(NAME)[0])
    del wrong["model.encoder.layernorm_embedding.bias"]
    wrong["model.decoder.layers.2.fc1.bias"] = np.zeros(64, np.float32)
    model = fixture_model().clone(position_offset=0)
    template = jax.eval_shape(model.init, jax.random.key(0), TWO, TWO)
    with pytest.raises(ValueError) as error:
        convert(wrong, template)
    for part in (
        "missing: model.encoder.layernorm_embedding.bias",
        "unexpected: model.decoder.layers.2.fc1.bias",
        "embed_positions.weight is (26, 32), the model needs (24, 32)",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (BART_Base, 139_420_416),
        pytest.param(BART_Large, 406_291_456, marks=pytest.mark.slow),
    ],
)
def test_published_parameter_counts(make, expected, count_parameters):
    """The logits' bias is not counted in the published numbers."""
    assert count_parameters(make(head_bias=False, scan=True), TWO, TWO) == expected
    assert count_parameters(make(scan=True), TWO, TWO) == expected + 50_265


# What is the base's, the Transformer's default tests check.
OWN = ("a_token_at_a_time_equals_teacher_forcing", "a_prompt_must_fit_the_cache")


@pytest.mark.parametrize(
    "check",
    [
        check if check.__name__ in OWN else pytest.param(check, marks=pytest.mark.slow)
        for check in encoder_decoders.CHECKS
    ],
)
def test_properties(check):
    check(tiny)


def test_longer_than_the_table_of_positions_is_refused():
    long = np.ones((1, 17), np.int32)
    model = tiny(num_layers=1)
    for source, target in ((long, TARGET[:1]), (SOURCE[:1], long)):
        with pytest.raises(ValueError, match="sequence of 17 .* max_length=16; short"):
            jax.eval_shape(model.init, jax.random.key(0), source, target)
