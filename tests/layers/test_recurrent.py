"""Recurrent layers: parity with torch, scan against loop, padding, gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import layers.recurrent
from layers.recurrent import Recurrent, recurrence

GATES = {"tanh": 1, "lstm": 4, "gru": 3}
TORCH = {"tanh": "rnn", "lstm": "lstm", "gru": "gru"}


def drawn(model, x, seed=0):
    """Variables shaped as `init` makes them, by numpy and nowhere zero."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    return jax.tree.map(
        lambda s: (0.4 * rng.normal(size=s.shape)).astype(np.float32), shapes
    )


def sequence(B=3, T=6, D=5, seed=1):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(B, T, D)).astype(np.float32)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def loop(cell, params, x, mask, reverse=False):
    """The same in numpy, a step at a time: (outputs [B, T, H], (hidden, cell))."""
    kernel = params["recurrent"]["kernel"]
    H = kernel.shape[0]
    h, c = np.zeros((2, len(x), H))
    outputs = np.zeros((*x.shape[:2], H))
    for t in reversed(range(x.shape[1])) if reverse else range(x.shape[1]):
        a = x[:, t] @ params["input"]["kernel"] + params["input"]["bias"]
        b = h @ kernel + params["recurrent"]["bias"]
        if cell == "tanh":
            new, memory = np.tanh(a + b), c
        elif cell == "lstm":
            i, f, g, o = np.split(a + b, 4, axis=-1)
            memory = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            new = sigmoid(o) * np.tanh(memory)
        else:
            (a_r, a_u, a_n), (b_r, b_u, b_n) = np.split(a, 3, -1), np.split(b, 3, -1)
            u, n = sigmoid(a_u + b_u), np.tanh(a_n + sigmoid(a_r + b_r) * b_n)
            new, memory = (1 - u) * n + u * h, c
        real = mask[:, t, None]
        h, c = np.where(real, new, h), np.where(real, memory, c)
        outputs[:, t] = np.where(real, h, 0)
    return outputs, (h, c) if cell == "lstm" else (h,)


@pytest.mark.parametrize("cell", GATES)
def test_parity_with_torch(cell, parity):
    weights, arrays = parity("rnn_cells")
    theirs = {
        k.split(".")[1]: v for k, v in weights.items() if k.startswith(TORCH[cell])
    }
    params = {
        ours: {
            "kernel": theirs[f"weight_{name}_l0"].T,
            "bias": theirs[f"bias_{name}_l0"],
        }
        for ours, name in (("input", "ih"), ("recurrent", "hh"))
    }
    model = Recurrent(cell, 12)
    outputs, ((hidden, *rest),) = jax.jit(model.apply)(
        {"params": {"layer_0": params}}, arrays["in_x"]
    )
    pairs = [(outputs, f"out_{TORCH[cell]}_out")]
    if cell == "lstm":
        pairs += [(hidden, "out_lstm_h"), (rest[0], "out_lstm_c")]
    for ours, name in pairs:
        reference = arrays[name].reshape(ours.shape)
        error = np.abs(ours - reference).max() / np.abs(reference).max()
        print(f"{name}: {error:.1e}")
        assert error <= 1e-5


@pytest.mark.parametrize("cell", GATES)
def test_the_scan_is_a_loop_in_both_directions_and_skips_padding(cell):
    x = sequence()
    mask = np.array([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [0, 1, 0, 1, 1, 0]], bool)
    num_layers = 2 if cell == "gru" else 1
    model = Recurrent(cell, 4, num_layers=num_layers, bidirectional=True)
    variables = drawn(model, x)
    outputs, states = jax.jit(model.apply)(variables, x, mask=mask)
    expected, params = x, variables["params"]
    for i, state in enumerate(states):
        ahead, final = loop(cell, params[f"layer_{i}"], expected, mask)
        behind, last = loop(cell, params[f"layer_{i}_reverse"], expected, mask, True)
        expected = np.concatenate([ahead, behind], -1)
        for ours, one, other in zip(state, final, last, strict=True):
            np.testing.assert_allclose(
                ours, np.concatenate([one, other], -1), atol=1e-5
            )
    np.testing.assert_allclose(outputs, expected, atol=1e-5)


@pytest.mark.parametrize("cell", GATES)
def test_padding_of_any_length_changes_nothing(cell):
    x = sequence()
    model = Recurrent(cell, 4, bidirectional=True)
    variables = drawn(model, x)
    apply = jax.jit(model.apply)
    outputs, state = apply(variables, x)
    for before, after in ((0, 1), (2, 3)):
        widths = ((0, 0), (before, after), (0, 0))
        padded = np.pad(x, widths, constant_values=1e3)
        mask = np.pad(np.ones(x.shape[:2], bool), widths[:2])
        wide, end = apply(variables, padded, mask=mask)
        np.testing.assert_allclose(wide[:, before : before + 6], outputs, atol=1e-6)
        assert not wide[~mask].any()
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state, end
        )


@pytest.mark.parametrize("cell", GATES)
def test_gradients_are_those_of_a_plain_scan(cell, monkeypatch):
    x = sequence()
    mask = np.array([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0]], bool)
    model = Recurrent(cell, 4, bidirectional=cell == "lstm")
    variables = drawn(model, x)
    start = jax.tree.map(lambda s: 0.1 + s, jax.jit(model.apply)(variables, x)[1])

    def loss(variables, x, start):
        outputs, states = model.apply(variables, x, mask=mask, state=start)
        ends = sum(
            (s * jnp.arange(s.shape[-1])).sum() for state in states for s in state
        )
        return (outputs * jnp.arange(6)[:, None]).sum() + ends

    # A function of its own each time: JAX would find the first one's program again.
    gradient = jax.jit(jax.grad(lambda *a: loss(*a), argnums=(0, 1, 2)))
    grads = gradient(variables, x, start)
    monkeypatch.setattr(layers.recurrent, "recurrence", recurrence.__wrapped__)
    plain = jax.jit(jax.grad(lambda *a: loss(*a), argnums=(0, 1, 2)))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        grads,
        plain(variables, x, start),
    )
    assert not grads[1][2].any(), "padding passes a gradient on"


def test_a_sequence_in_two_parts_is_the_whole():
    x = sequence()
    model = Recurrent("lstm", 4, num_layers=2)
    variables = drawn(model, x)
    apply = jax.jit(model.apply)
    outputs, state = apply(variables, x)
    first, middle = apply(variables, x[:, :2])
    second, end = apply(variables, x[:, 2:], state=middle)
    np.testing.assert_allclose(np.concatenate([first, second], 1), outputs, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state, end)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_future_is_seen_by_the_reverse_direction_only(bidirectional):
    x = sequence(B=1)
    model = Recurrent("gru", 4, bidirectional=bidirectional)
    variables = drawn(model, x)
    gradient = jax.jit(jax.grad(lambda x: model.apply(variables, x)[0][0, 2].sum()))(x)
    assert np.abs(gradient[0, :3]).min() > 0
    assert bool(np.abs(gradient[0, 3:]).max() > 0) is bidirectional


@pytest.mark.parametrize("cell", GATES)
def test_parameter_counts_by_hand(cell):
    model = Recurrent(cell, 7, num_layers=2, bidirectional=True)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 2, 5)))
    layers = [GATES[cell] * (D * 7 + 7 * 7 + 7 + 7) for D in (5, 14)]
    assert sum(x.size for x in jax.tree.leaves(shapes)) == 2 * sum(layers)


def test_dropout_lies_between_layers_only():
    x = sequence()
    # A generator that compiles faster than the default.
    rngs = {"dropout": jax.random.key(0, impl="unsafe_rbg")}
    for num_layers, changes in ((1, False), (2, True)):
        model = Recurrent("gru", 4, num_layers=num_layers, dropout_rate=0.5)
        variables = drawn(model, x)
        plain = jax.jit(model.apply)(variables, x)[0]
        train = jax.jit(functools.partial(model.apply, train=True))
        dropped = train(variables, x, rngs=rngs)[0]
        assert np.allclose(plain, dropped, atol=1e-6) is not changes


def test_half_precision_keeps_a_wide_state_and_float32_parameters():
    x = sequence()
    model = Recurrent("gru", 4, dtype=jnp.bfloat16)
    variables = drawn(model, x)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    half, ((state,),) = jax.jit(model.apply)(variables, x)
    full, _ = jax.jit(Recurrent("gru", 4).apply)(variables, x)
    assert half.dtype == jnp.bfloat16 and state.dtype == jnp.float32
    np.testing.assert_allclose(half.astype(np.float32), full, atol=0.03)
    grads = jax.grad(lambda v: model.apply(v, x)[0].astype(jnp.float32).sum())(
        variables
    )
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_initial_kernels_are_orthogonal_by_gate_and_forget_gates_open():
    variables = jax.jit(Recurrent("lstm", 3).init)(jax.random.key(0), sequence())
    layer = variables["params"]["layer_0"]
    gates = np.split(layer["recurrent"]["kernel"], 4, axis=1)
    for gate in gates:
        np.testing.assert_allclose(gate @ gate.T, np.eye(3), atol=1e-5)
    assert not np.allclose(gates[0], gates[1], atol=1e-2)
    np.testing.assert_array_equal(layer["input"]["bias"], [0] * 3 + [1] * 3 + [0] * 6)
    assert not layer["recurrent"]["bias"].any()


def test_errors_name_the_value():
    x = sequence()
    with pytest.raises(ValueError, match="unknown cell 'rnn'; known: tanh, lstm, gru"):
        Recurrent("rnn", 4).init(jax.random.key(0), x)
    state = ((jnp.zeros((3, 4)),),)
    with pytest.raises(ValueError, match="state of 1 layers for num_layers=2"):
        Recurrent("gru", 4, num_layers=2).init(jax.random.key(0), x, state=state)


def test_initial_kernels_are_decomposed_one_by_one():
    """A batch of them can wait for itself on a small pool of threads."""
    draw = lambda key: layers.recurrent.orthogonal_by_gate(key, (8, 24), jnp.float32)
    program = jax.jit(draw).lower(jax.random.key(0)).as_text()
    calls = [line for line in program.splitlines() if "lapack_s" in line]
    assert calls and not [line for line in calls if "tensor<3x8x8xf32>" in line]
