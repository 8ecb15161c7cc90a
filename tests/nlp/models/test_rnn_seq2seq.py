"""Recurrent encoder-decoders: parity with OpenNMT-py, stepwise decoding, learning."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import save_file

from nlp.models.rnn_seq2seq import RNNSeq2Seq
from nlp.weights.rnn_seq2seq import NAMINGS
from training.weight_files import convert, load_file

MLP = {"attention": "additive", "readout_activation": "identity", "readout_bias": True}
FIXTURES = {
    "seq2seq_gru_general_feed": {"attention": "general", "input_feeding": True},
    "seq2seq_gru_mlp": MLP,
    "seq2seq_lstm_dot_feed": {
        "cell": "lstm",
        "attention": "dot",
        "input_feeding": True,
    },
    "seq2seq_lstm_mlp": {"cell": "lstm", **MLP},
}
SOURCE = np.array([[5, 6, 7, 8, 9], [7, 5, 4, 0, 0], [0, 0, 0, 0, 0]], np.int32)
TARGET = np.array([[1, 4, 5, 6], [1, 9, 8, 7], [1, 5, 5, 4]], np.int32)


def tiny(**fields):
    return RNNSeq2Seq(**{"vocab_size": 11, "embed_dim": 5, "hidden_dim": 12, **fields})


def drawn(model, seed=0):
    """Variables shaped as `init` makes them, by numpy and nowhere zero."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, jax.random.key(0), SOURCE, TARGET)
    return jax.tree.map(
        lambda s: (0.4 * rng.normal(size=s.shape)).astype(np.float32), shapes
    )


def free_run(model, variables, source, prompt, steps):
    """Greedy: logits [B, steps, V] and the tokens [B, 1 + steps], prompt first."""

    @jax.jit
    def run(variables, source, prompt):
        apply = functools.partial(model.apply, mutable=["cache"])
        logits, cache = apply(variables, source, prompt, method="begin")

        def body(carry, _):
            logits, cache = carry
            token = logits.argmax(-1)
            new = apply({**variables, **cache}, token, method="step")
            return new, (logits, token)

        _, seen = jax.lax.scan(body, (logits, cache), None, length=steps)
        return jax.tree.map(lambda x: x.swapaxes(0, 1), seen)

    logits, tokens = run(variables, source, prompt)
    return logits, np.concatenate([prompt, tokens], axis=1)


def fixture_model(name):
    return RNNSeq2Seq(50, 16, 24, num_layers=2, **FIXTURES[name])


def fixture_inputs(arrays):
    real = np.arange(arrays["in_src"].shape[1]) < arrays["in_src_len"][:, None]
    source = np.where(real, arrays["in_src"], 0).astype(np.int32)
    return source, arrays["in_tgt"].astype(np.int32)


@pytest.mark.parametrize("name", FIXTURES)
def test_parity(name, parity, tmp_path):
    weights, arrays = parity(name)
    path = tmp_path / "model.safetensors"
    save_file(weights, path)
    model, inputs = fixture_model(name), fixture_inputs(arrays)
    template = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    params, _ = convert(load_file(path), template, NAMINGS)

    @jax.jit
    def run(*inputs):
        logits, seen = model.apply(
            {"params": params},
            *inputs,
            mutable=["attention_weights", "intermediates"],
            capture_intermediates=lambda _, method: method in ("encode", "decode"),
        )
        return {
            "logits": logits,
            "memory": seen["intermediates"]["encode"][0][0],
            "dec_out": seen["intermediates"]["decode"][0][0],
            "attn": seen["attention_weights"]["cross_attention"]["weights"][0][:, 0],
        }

    for output, ours in run(*inputs).items():
        reference = arrays[f"out_{output}"]
        error = np.abs(ours - reference).max() / np.abs(reference).max()
        print(f"{name} {output}: {error:.1e}")
        assert ours.shape == reference.shape and error <= 1e-5


def test_files_that_do_not_fit_are_refused_by_name(parity):
    name = "seq2seq_gru_mlp"
    weights, arrays = parity(name)
    model = fixture_model(name)
    template = jax.eval_shape(model.init, jax.random.key(0), *fixture_inputs(arrays))
    wrong = {k: v for k, v in weights.items() if k != "decoder.rnn.bias_hh_l1"}
    wrong["encoder.rnn.weight_ih_l2"] = np.zeros(3, np.float32)
    wrong["generator.bias"] = np.zeros(51, np.float32)
    with pytest.raises(ValueError) as error:
        convert(wrong, template, NAMINGS)
    for part in (
        "missing: decoder.rnn.bias_hh_l1",
        "unexpected: encoder.rnn.weight_ih_l2",
        r"generator.bias is (51,), the model needs (50,)",
    ):
        assert part in str(error.value)


def test_parameter_counts(parity):
    counts = {
        "seq2seq_gru_general_feed": 17_826,
        "seq2seq_gru_mlp": 16_746,
        "seq2seq_lstm_dot_feed": 21_666,
        "seq2seq_lstm_mlp": 20_586,
    }

    def count(model):
        shapes = jax.eval_shape(model.init, jax.random.key(0), SOURCE, TARGET)
        return sum(x.size for x in jax.tree.leaves(shapes))

    for name, expected in counts.items():
        assert count(fixture_model(name)) == expected
    # By hand, GRU 256/512 on 8000 tokens: gates of (input + hidden + 2 biases) * 3 * width.
    encoder = 2 * 3 * 256 * (256 + 256 + 2)
    decoder = 3 * 512 * (256 + 512 + 2)
    tables, head = 2 * 8000 * 256, 513 * 8000
    plain = tables + encoder + decoder + head
    assert count(RNNSeq2Seq(8000, attention="none")) == plain
    additive = 2 * 512 * 512 + 512 + 512 + 1024 * 512
    assert count(RNNSeq2Seq(8000)) == plain + additive
    tied = RNNSeq2Seq(8000, attention="none", embed_dim=512, share_embeddings=True)
    tied_head = tied.clone(tie_head=True)
    assert count(tied) - count(tied_head) == 512 * 8000


ONE_OF_EACH = [
    {"attention": "none", "input_feeding": True, "cell": "lstm"},
    {"attention": "additive", "bidirectional": True},
    {"attention": "general", "input_feeding": True, "cell": "tanh", "num_layers": 2},
    {"attention": "key_value_predict", "share_embeddings": True},
    {"attention": "scaled_dot", "cell": "lstm", "readout_dim": 5, "tie_head": True},
]


@pytest.mark.parametrize("fields", ONE_OF_EACH)
def test_a_token_at_a_time_equals_teacher_forcing(fields):
    model = tiny(**{"bidirectional": False, **fields})
    variables = drawn(model)
    apply = functools.partial(jax.jit, static_argnames=("method", "mutable"))(
        model.apply
    )
    forced, weights = apply(variables, SOURCE, TARGET, mutable=("attention_weights",))
    logits, cache = apply(
        variables, SOURCE, TARGET[:, :2], method="begin", mutable=("cache",)
    )
    stepwise = [logits]
    for t in (2, 3):
        logits, cache = apply(
            {**variables, **cache}, TARGET[:, t], method="step", mutable=("cache",)
        )
        stepwise.append(logits)
    assert forced.shape == (3, 4, 11) and forced.dtype == jnp.float32
    assert np.isfinite(forced).all(), "the last source is empty"
    np.testing.assert_allclose(np.stack(stepwise, 1), forced[:, 1:], atol=1e-5)
    assert all(len(leaf) == 3 for leaf in jax.tree.leaves(cache))
    if fields["attention"] == "none":
        assert not weights
        return
    (weights,) = weights["attention_weights"]["cross_attention"]["weights"]
    assert weights.shape == (3, 1, 4, 5)
    np.testing.assert_allclose(weights.sum(-1)[:2], 1, atol=1e-6)
    assert not weights[:, 0].swapaxes(1, 2)[SOURCE == 0].any()


def test_padding_of_any_length_changes_nothing():
    model = tiny(input_feeding=True)
    variables = drawn(model)
    run = jax.jit(model.apply)
    wide = np.pad(SOURCE, ((0, 0), (2, 3)))
    expected = run(variables, SOURCE, TARGET)
    longer = run(variables, wide, np.pad(TARGET, ((0, 0), (0, 3))))
    np.testing.assert_allclose(longer[:, :4], expected, atol=1e-5)


def test_a_free_run_equals_teacher_forcing_on_what_it_wrote():
    """Row 90 of the decks: where predictions are right, both see the same."""
    model = tiny(input_feeding=True, bidirectional=False)
    variables = drawn(model)
    logits, written = free_run(model, variables, SOURCE, TARGET[:, :1], steps=4)
    forced = jax.jit(model.apply)(variables, SOURCE, written[:, :-1])
    np.testing.assert_allclose(logits, forced, atol=1e-5)
    np.testing.assert_array_equal(forced.argmax(-1), written[:, 1:])


def test_no_token_sees_those_after_it():
    model = tiny(bidirectional=False)
    variables = drawn(model)
    other = TARGET.copy()
    other[:, 2] = 10
    run = jax.jit(model.apply)
    one, two = (np.array(run(variables, SOURCE, t)) for t in (TARGET, other))
    np.testing.assert_array_equal(one[:, :2], two[:, :2])
    assert (np.abs(one[:, 2:] - two[:, 2:]).max((0, 2)) > 1e-3).all()


def test_without_attention_the_source_is_known_by_the_final_state_alone():
    """Sources that end in the same state read the same; here all words are one word."""
    model = tiny(attention="none", bidirectional=False)
    variables = drawn(model)
    run = jax.jit(model.apply)
    expected = run(variables, SOURCE, TARGET)
    kernel = variables["params"]["encoder"]["layer_0"]["recurrent"]["kernel"]
    kernel[:] = 0
    # r = sigmoid(...), u = 0: nothing is kept of the state before the last word.
    variables["params"]["encoder"]["layer_0"]["input"]["bias"][12:24] = -1e3
    forgetful = run(variables, SOURCE, TARGET)
    last = np.array([[9, 0, 0, 0, 0], [4, 0, 0, 0, 0], [0, 0, 0, 0, 0]], np.int32)
    np.testing.assert_allclose(run(variables, last, TARGET), forgetful, atol=1e-6)
    assert not np.allclose(expected[:2], forgetful[:2], atol=1e-2)
    np.testing.assert_allclose(expected[2], forgetful[2], atol=1e-6)


@pytest.mark.parametrize("input_feeding", [False, True])
def test_gradients_reach_every_parameter_and_are_finite(input_feeding):
    model = tiny(input_feeding=input_feeding, bidirectional=False)
    variables = drawn(model)

    def loss(variables):
        return jnp.square(model.apply(variables, SOURCE, TARGET)).sum()

    grads = jax.jit(jax.grad(loss))(variables)
    assert all(np.isfinite(g).all() and g.any() for g in jax.tree.leaves(grads))


def test_dropout_acts_in_training_alone():
    model = tiny(input_feeding=True, bidirectional=False, dropout_rate=0.5)
    variables = drawn(model)
    # A generator that compiles faster than the default.
    rngs = {"dropout": jax.random.key(0, impl="unsafe_rbg")}
    train = jax.jit(functools.partial(model.apply, train=True))
    dropped = train(variables, SOURCE, TARGET, rngs=rngs)
    expected = jax.jit(model.clone(dropout_rate=0.0).apply)(variables, SOURCE, TARGET)
    assert not np.allclose(dropped, expected, atol=1e-2)
    plain = jax.jit(model.apply)(variables, SOURCE, TARGET)
    np.testing.assert_allclose(plain, expected, atol=1e-6)


@pytest.mark.slow
def test_it_learns_to_reverse():
    rng = np.random.default_rng(0)
    words = rng.integers(3, 9, (32, 4)).astype(np.int32)
    ones = np.ones((32, 1), np.int32)
    source, target = words, np.concatenate([ones, words[:, ::-1]], 1)
    model = tiny(embed_dim=12, hidden_dim=24, bidirectional=False)
    optimizer = optax.adam(2e-2)
    params = drawn(model)["params"]

    def loss_fn(params):
        logits = model.apply({"params": params}, source, target[:, :-1])
        entropy = optax.softmax_cross_entropy_with_integer_labels
        return entropy(logits, target[:, 1:]).mean()

    def step(carry, _):
        params, state = carry
        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, state = optimizer.update(grads, state)
        return (optax.apply_updates(params, updates), state), loss

    train = jax.jit(
        lambda carry: jax.lax.scan(step, carry, None, length=120), donate_argnums=0
    )
    (params, _), losses = train((params, optimizer.init(params)))
    assert losses[0] > 1 and losses[-1] < 0.1
    _, written = free_run(model, {"params": params}, source, ones, steps=4)
    assert (written[:, 1:] == words[:, ::-1]).mean() > 0.95


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_dim": 13}, "hidden_dim=13 cannot be halved"),
        ({"attention": "bilinear"}, "unknown attention 'bilinear'; known: additive"),
        ({"attention": "none", "readout_dim": 5}, "readout_dim=5 without attention"),
        ({"tie_head": True}, "readout of 12 and embed_dim=5; set readout_dim=5"),
        (
            {"attention": "key_value_predict", "hidden_dim": 10},
            "3 parts, and 10 is not a multiple",
        ),
        ({"readout_activation": "tan"}, "tan"),
        ({"cell": "elman"}, "unknown cell 'elman'"),
    ],
)
def test_errors_name_the_value(fields, message):
    model = tiny(**fields)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), SOURCE, TARGET)
