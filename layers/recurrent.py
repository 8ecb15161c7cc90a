"""Recurrent layers over time: the plain tanh network, LSTM and GRU, masked by length.

Papers: J. Elman, "Finding Structure in Time", 1990 (tanh); S. Hochreiter, J. Schmidhuber,
"Long Short-Term Memory", 1997, with the forget gate of F. Gers, J. Schmidhuber, F. Cummins,
"Learning to Forget", 2000; K. Cho et al., "Learning Phrase Representations using RNN
Encoder-Decoder", 2014, https://arxiv.org/abs/1406.1078 (GRU); both directions: M. Schuster,
K. Paliwal, "Bidirectional Recurrent Neural Networks", 1997.

The formulas, gate orders and the two biases are those of PyTorch; its GRU resets the
candidate after the product, Cho's before. Initial values are not: recurrent kernels are
orthogonal by gate, and the LSTM's forget gate starts with a bias of 1 (R. Jozefowicz,
W. Zaremba, I. Sutskever, "An Empirical Exploration of Recurrent Network Architectures", 2015).

Dimensions: B batch, T time, D input, H hidden, G gates.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from layers.dense import Dense

# What a layer remembers: (hidden,), or (hidden, cell) of an LSTM, each float32 [B, H].
State = tuple[jax.Array, ...]


def tanh_update(state: State, x: jax.Array, z: jax.Array) -> State:
    """tanh(x + z): products of the input and of the state, [B, H] each."""
    del state
    return (jnp.tanh(x + z),)


def lstm_update(state: State, x: jax.Array, z: jax.Array) -> State:
    """Gates i, f, g, o of x + z, [B, 4 * H]: c = f * c + i * tanh(g), h = o * tanh(c)."""
    i, f, g, o = jnp.split(x + z, 4, axis=-1)
    cell = jax.nn.sigmoid(f) * state[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(cell), cell


def gru_update(state: State, x: jax.Array, z: jax.Array) -> State:
    """Gates r, u, n of x and z, [B, 3 * H] each: n = tanh(x_n + r * z_n), and then
    h = (1 - u) * n + u * h."""
    x_r, x_u, x_n = jnp.split(x, 3, axis=-1)
    z_r, z_u, z_n = jnp.split(z, 3, axis=-1)
    update = jax.nn.sigmoid(x_u + z_u)
    candidate = jnp.tanh(x_n + jax.nn.sigmoid(x_r + z_r) * z_n)
    return (candidate + update * (state[0] - candidate),)


class Cell(NamedTuple):
    """A kind of recurrence.

    Args:
        num_gates: G; its products are G * H wide.
        num_states: arrays in its `State`.
        update: (state, input's product, state's product) -> next state.
    """

    num_gates: int
    num_states: int
    update: Callable[[State, jax.Array, jax.Array], State]


CELLS = {
    "tanh": Cell(1, 1, tanh_update),
    "lstm": Cell(4, 2, lstm_update),
    "gru": Cell(3, 1, gru_update),
}


def find_cell(name: str) -> Cell:
    """The cell called `name`.

    Raises:
        ValueError: there is none.
    """
    if name not in CELLS:
        raise ValueError(f"unknown cell {name!r}; known: {', '.join(CELLS)}")
    return CELLS[name]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def recurrence(
    update: Callable[[State, jax.Array, jax.Array], State],
    reverse: bool,
    inputs: jax.Array,
    kernel: jax.Array,
    bias: jax.Array,
    state: State,
    mask: jax.Array | None,
) -> tuple[jax.Array, State]:
    """state <- update(state, inputs[t], hidden @ kernel + bias), for every t in turn.

    Why a gradient of its own: that of a scan adds to the kernel's gradient at every step,
    a small product and a pass over the whole kernel; here all steps make one product.
    Reverse-mode differentiation only.

    Args:
        update: of a `Cell`.
        reverse: from the last step to the first.
        inputs: [T, B, G * H], the products of the layer's inputs.
        kernel: [H, G * H].
        bias: [G * H].
        state: before the first step.
        mask: bool [T, B], None for all; where False the state stays as it is.

    Returns:
        The hidden states, float32 [T, B, H], zeros where the mask is False, and the state
        after the last step.
    """

    def step(state, xs):
        x, real = xs
        new = _keep(real, update(state, _wide(x), _product(state, kernel, bias)), state)
        return new, _real(real, new[0])

    final, outputs = _scan(step, state, (inputs, mask), reverse)
    return outputs, final


def _recurrence_forward(update, reverse, inputs, kernel, bias, state, mask):
    def step(state, xs):
        x, real = xs
        product = _product(state, kernel, bias)
        new = _keep(real, update(state, _wide(x), product), state)
        return new, (_real(real, new[0]), state, product)

    final, (outputs, before, products) = _scan(step, state, (inputs, mask), reverse)
    return (outputs, final), (inputs, kernel, bias, before, products, mask)


def _recurrence_backward(update, reverse, residuals, cotangents):
    inputs, kernel, bias, before, products, mask = residuals
    outputs_bar, state_bar = cotangents
    # Transposed once: the product of every step then reads it in order.
    transposed = kernel.T

    def step(state_bar, xs):
        x, old, product, real, output_bar = xs
        state_bar = (state_bar[0] + _real(real, output_bar), *state_bar[1:])
        new_bar = tuple(_real(real, bar) for bar in state_bar)
        _, pull = jax.vjp(update, old, _wide(x), product)
        old_bar, x_bar, product_bar = pull(new_bar)
        through = jnp.dot(
            product_bar.astype(kernel.dtype),
            transposed,
            preferred_element_type=product_bar.dtype,
        )
        old_bar = (old_bar[0] + through, *old_bar[1:])
        old_bar = _keep(real, old_bar, state_bar)
        return old_bar, (x_bar.astype(x.dtype), product_bar)

    steps = inputs, before, products, mask, outputs_bar
    state_bar, (inputs_bar, products_bar) = _scan(step, state_bar, steps, not reverse)
    rows = products_bar.reshape(-1, products_bar.shape[-1])
    hidden = before[0].reshape(-1, kernel.shape[0])
    kernel_bar = (hidden.T @ rows).astype(kernel.dtype)
    return inputs_bar, kernel_bar, rows.sum(0).astype(bias.dtype), state_bar, None


recurrence.defvjp(_recurrence_forward, _recurrence_backward)


def _scan(step: Callable, carry: Any, steps: tuple, reverse: bool) -> Any:
    """`lax.scan`; a single step, as in decoding, is written out without a loop."""
    return lax.scan(step, carry, steps, reverse=reverse, unroll=len(steps[0]) == 1)


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _product(state: State, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """The hidden state's product, [B, G * H], in the state's dtype."""
    hidden = state[0].astype(kernel.dtype)
    product = jnp.dot(hidden, kernel, preferred_element_type=state[0].dtype)
    return product + bias.astype(product.dtype)


def _keep(real: jax.Array | None, new: State, old: State) -> State:
    """`new` where real, else `old`."""
    if real is None:
        return new
    return tuple(jnp.where(real[:, None], n, o) for n, o in zip(new, old, strict=True))


def _real(real: jax.Array | None, x: jax.Array) -> jax.Array:
    """x [B, H] where real, else zeros."""
    return x if real is None else jnp.where(real[:, None], x, 0)


def orthogonal_by_gate(key: jax.Array, shape: Sequence[int], dtype: Any) -> jax.Array:
    """Initial recurrent kernel [H, G * H]: an orthogonal matrix for each gate.

    One after the other: on CPUs the decomposition of a batch waits, on a thread of XLA's
    pool, for other threads of that pool. Two of them on two cores wait for ever.
    """
    H, width = shape
    init = nn.initializers.orthogonal()
    keys = jax.random.split(key, width // H)
    return jnp.concatenate([init(k, (H, H), dtype) for k in keys], axis=1)


def _open_forget_gate(key: jax.Array, shape: Sequence[int], dtype: Any) -> jax.Array:
    """Initial bias [4 * H] of an LSTM: 1 for the forget gate, else 0."""
    del key
    return jnp.zeros((4, shape[0] // 4), dtype).at[1].set(1).reshape(-1)


class _Weights(nn.Module):
    """`kernel` [H, width] and `bias` [width], as arrays of `dtype`."""

    hidden_dim: int
    width: int
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self) -> tuple[jax.Array, jax.Array]:
        shape = self.hidden_dim, self.width
        kernel = self.param("kernel", orthogonal_by_gate, shape, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, shape[1:], self.param_dtype)
        dtype = self.dtype or self.param_dtype
        return kernel.astype(dtype), bias.astype(dtype)


class RecurrentLayer(nn.Module):
    """One layer in one direction, time first.

    Parameters: `input` (kernel [D, G * H], bias), `recurrent` (kernel [H, G * H], bias).

    Args:
        cell: 'gru', 'lstm' or 'tanh'.
        hidden_dim: H.
        reverse: reads from the end.
        dtype: of the products; the state is float32 always.
    """

    cell: str
    hidden_dim: int
    reverse: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, state: State, mask: jax.Array | None = None
    ) -> tuple[jax.Array, State]:
        """Hidden states [T, B, H] and the last state, of x [T, B, D]; mask bool [T, B]."""
        cell = find_cell(self.cell)
        width = cell.num_gates * self.hidden_dim
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        init = _open_forget_gate if self.cell == "lstm" else nn.initializers.zeros
        inputs = Dense(width, bias_init=init, name="input", **dtypes)(x)
        kernel, bias = _Weights(self.hidden_dim, width, name="recurrent", **dtypes)()
        outputs, state = recurrence(
            cell.update, self.reverse, inputs, kernel, bias, state, mask
        )
        return outputs.astype(inputs.dtype), state


class Recurrent(nn.Module):
    """Layers of a recurrence, one or both directions, with dropout between the layers.

    One flat product makes the inputs of all the steps of a layer before its scan starts.
    Submodules: `layer_0`, `layer_1` ..., and `layer_0_reverse` ... for the other direction.

    Args:
        cell: 'gru', 'lstm' or 'tanh'.
        hidden_dim: H, of one direction.
        num_layers: L.
        bidirectional: concatenates the hidden states of both directions, forward first.
        dropout_rate: of the inputs of every layer but the first.
        dtype: of the products; the state is float32 always.
    """

    cell: str
    hidden_dim: int
    num_layers: int = 1
    bidirectional: bool = False
    dropout_rate: float = 0.0
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        *,
        mask: jax.Array | None = None,
        state: tuple[State, ...] | None = None,
        train: bool = False,
    ) -> tuple[jax.Array, tuple[State, ...]]:
        """Reads a sequence.

        Args:
            x: [B, T, D].
            mask: bool [B, T]; None for all real. Padding may lie anywhere: the state
                passes it unchanged, the outputs there are zeros.
            state: before the first step (of the reverse direction: before the last), one
                for each layer, as returned; None for zeros.
            train: whether to drop.

        Returns:
            [B, T, H], of both directions [B, T, 2 * H].
            The state after the last step: a tuple of L tuples (hidden,) or (hidden, cell),
            float32 [B, H] or [B, 2 * H].

        Raises:
            ValueError: unknown cell; a state of another number of layers.
        """
        cell = find_cell(self.cell)
        both = 2 if self.bidirectional else 1
        if state is None:
            zeros = jnp.zeros((len(x), both * self.hidden_dim), jnp.float32)
            state = ((zeros,) * cell.num_states,) * self.num_layers
        if len(state) != self.num_layers:
            raise ValueError(
                f"state of {len(state)} layers for num_layers={self.num_layers}; give one "
                "for each"
            )
        x = x.swapaxes(0, 1)
        mask = None if mask is None else mask.T
        finals = []
        for i, old in enumerate(state):
            if i:
                x = nn.Dropout(self.dropout_rate, name=f"dropout_{i}")(
                    x, deterministic=not train
                )
            x, final = self._layer(i, x, old, mask)
            finals.append(final)
        return x.swapaxes(0, 1), tuple(finals)

    def _layer(
        self, i: int, x: jax.Array, state: State, mask: jax.Array | None
    ) -> tuple[jax.Array, State]:
        """Layer i in its one or two directions, time first."""
        make = functools.partial(
            RecurrentLayer,
            self.cell,
            self.hidden_dim,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )
        if not self.bidirectional:
            return make(name=f"layer_{i}")(x, state, mask)
        halves = [tuple(jnp.split(s, 2, axis=-1)) for s in state]
        ahead, behind = zip(*halves, strict=True)
        outputs, ahead = make(name=f"layer_{i}")(x, ahead, mask)
        others, behind = make(reverse=True, name=f"layer_{i}_reverse")(x, behind, mask)
        joined = [jnp.concatenate(pair, -1) for pair in zip(ahead, behind, strict=True)]
        return jnp.concatenate([outputs, others], axis=-1), tuple(joined)
