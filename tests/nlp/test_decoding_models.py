"""Decoding with a cache against the full forward pass, on a small Linen model."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nlp import decoding
from nlp.beam_search import beam_search, penalty
from nlp.decoding import Rules, greedy

EOS = 2
RNG = jax.random.key(0)


class Layer(nn.Module):
    """A running mean, as attention to all positions so far with equal weights."""

    dim: int

    def setup(self):
        self.up = nn.Dense(self.dim)

    def _mean(self, total, count):
        return nn.tanh(self.up(total / count))

    def __call__(self, x, _=None):
        count = jnp.arange(1, x.shape[1] + 1, dtype=jnp.float32)[:, None]
        return x + self._mean(x.cumsum(1), count), None

    def read(self, x, cache_length):
        y, _ = self(x)
        self.put_variable("cache", "total", x.sum(1))
        self.put_variable("cache", "index", jnp.int32(x.shape[1]))
        self.put_variable("cache", "keys", jnp.zeros((len(x), cache_length)))
        return y, None

    def step(self, x, _=None):
        total = self.get_variable("cache", "total") + x
        index = self.get_variable("cache", "index") + 1
        self.put_variable("cache", "total", total)
        self.put_variable("cache", "index", index)
        return x + self._mean(total, index.astype(jnp.float32)), None


class Toy(nn.Module):
    """A decoder with a cache in a plain layer and in scanned ones; with `translates` it
    reads a source first."""

    vocab_size: int = 11
    max_length: int = 16
    dim: int = 8
    num_layers: int = 2
    translates: bool = False

    def setup(self):
        self.embed = nn.Embed(self.vocab_size, self.dim)
        self.first = Layer(self.dim)
        self.blocks = nn.scan(
            Layer,
            variable_axes={"params": 0, "cache": 0},
            split_rngs={"params": True},
            length=self.num_layers,
            in_axes=nn.broadcast,
            methods=["__call__", "read", "step"],
        )(self.dim)
        self.head = nn.Dense(self.vocab_size, kernel_init=nn.initializers.normal(2.0))

    def _memory(self, source):
        return self.embed(source).sum(1) * 0.3

    def _apply(self, tokens, memory, method, *arguments):
        x = self.embed(tokens)
        if memory is not None:
            x = x + (memory[:, None] if x.ndim == 3 else memory)
        x, _ = getattr(self.first, method)(x, *arguments)
        x, _ = getattr(self.blocks, method)(x, *(arguments or (None,)))
        return self.head(x)

    def __call__(self, *inputs, train=False):
        memory = self._memory(inputs[0]) if self.translates else None
        return self._apply(inputs[-1], memory, "__call__")

    def begin(self, *inputs, cache_length):
        memory = self._memory(inputs[0]) if self.translates else None
        if memory is not None:
            self.put_variable("cache", "memory", memory)
        return self._apply(inputs[-1], memory, "read", cache_length)[:, -1]

    def step(self, tokens):
        memory = self.get_variable("cache", "memory") if self.translates else None
        return self._apply(tokens, memory, "step")


@functools.cache
def initialized(model):
    inputs = [jnp.ones((2, 6), jnp.int32)] * (2 if model.translates else 1)
    # This generator compiles in a third of the time.
    rng = jax.random.key(0, impl="unsafe_rbg")
    return jax.jit(model.init)(rng, *inputs)


def assert_cached_equals_full(
    model, variables, *inputs, prompt_length=1, rtol=1e-5, atol=1e-5
):
    """Decoding step by step gives the logits of the full forward pass.

    Args:
        inputs: of `model.__call__`; the last are the tokens [B, T] that the decoder reads,
            `prompt_length` of them at once and the others one by one.
    """
    *sources, tokens = inputs
    expected = jax.jit(functools.partial(model.apply, train=False))(variables, *inputs)
    length = tokens.shape[1]

    def start(variables, *inputs):
        logits, _, state = decoding.begin(
            model, variables, *inputs, cache_length=length
        )
        return logits, state

    logits, state = jax.jit(start)(variables, *sources, tokens[:, :prompt_length])

    def step(tokens, state):
        return model.apply(
            {**variables, **state}, tokens, method="step", mutable=["cache"]
        )

    step = jax.jit(step)
    for i in range(prompt_length - 1, tokens.shape[1]):
        wanted = expected[:, i]
        assert logits.dtype == jnp.float32
        np.testing.assert_allclose(logits, wanted, rtol=rtol, atol=atol, err_msg=str(i))
        if i + 1 < tokens.shape[1]:
            logits, state = step(tokens[:, i + 1], state)


@pytest.mark.parametrize(("translates", "prompt_length"), [(False, 1), (True, 3)])
def test_cached_decoding_equals_the_full_forward_pass(translates, prompt_length):
    model = Toy(translates=translates)
    tokens = jax.random.randint(RNG, (3, 7), 0, 11)
    inputs = [tokens[:, ::-1], tokens] if translates else [tokens]
    assert_cached_equals_full(
        model, initialized(model), *inputs, prompt_length=prompt_length
    )


def test_the_check_above_sees_a_wrong_cache():
    class Wrong(Toy):
        def step(self, tokens):
            return super().step(tokens) * 1.01

    tokens = jax.random.randint(RNG, (3, 7), 0, 11)
    with pytest.raises(AssertionError):
        assert_cached_equals_full(Wrong(), initialized(Toy()), tokens)


def full_greedy(model, variables, prompt, rules):
    """One row by the full forward pass at every step; what comes later is not seen."""
    apply = jax.jit(model.apply)
    tokens = list(prompt)
    for _ in range(rules.max_length):
        row = np.zeros((1, model.max_length), np.int32)
        row[0, : len(tokens)] = tokens
        logits = np.array(apply(variables, row)[0, len(tokens) - 1])
        logits[list(rules.forbidden)] = -np.inf
        tokens.append(int(logits.argmax()))
        if tokens[-1] == rules.eos_id:
            break
    return tokens[len(prompt) :]


@pytest.mark.parametrize("beam", [False, True])
def test_a_linen_model_completes_prompts_of_different_lengths(beam):
    model, rules = Toy(), Rules(max_length=6, eos_id=EOS, forbidden=(0, 1))
    variables = initialized(model)
    prompts = [[5, 6], [3, 4, 5, 6, 7], [9, 8, 7]]

    @jax.jit
    def complete(variables, tokens, forced):
        logits, step, state = decoding.begin(model, variables, tokens, cache_length=16)
        if beam:
            return beam_search(step, logits, state, rules, beam_size=1, forced=forced)
        return greedy(step, logits, state, rules, forced=forced)

    decoded = complete(variables, *decoding.split_prompts(prompts))
    for row, prompt in enumerate(prompts):
        expected = full_greedy(model, variables, prompt, rules)
        at = (row, 0) if beam else row
        assert decoded.lengths[at] == len(expected)
        np.testing.assert_array_equal(decoded.tokens[at][: len(expected)], expected)
        assert not np.any(decoded.tokens[at][len(expected) :])


def test_beams_of_a_linen_model_carry_their_own_cache():
    """Every returned score is that of its tokens under the full forward pass."""
    model = Toy(translates=True)
    rules = Rules(max_length=5, eos_id=EOS)
    variables = initialized(model)
    source = jax.random.randint(RNG, (3, 4), 3, 11)
    start = jnp.ones((3, 1), jnp.int32)

    @jax.jit
    def translate(variables):
        logits, step, state = decoding.begin(
            model, variables, source, start, cache_length=5
        )
        return beam_search(step, logits, state, rules, beam_size=4, length_penalty=0.6)

    decoded = jax.device_get(translate(variables))
    tokens = decoded.tokens.reshape(12, 5)
    inputs = np.concatenate([np.ones((12, 1), np.int32), tokens], 1)[:, :-1]
    logits = jax.jit(model.apply)(variables, jnp.repeat(source, 4, 0), inputs)
    steps = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[..., None], -1)
    lengths = decoded.lengths.reshape(12)
    counted = jnp.arange(5) < lengths[:, None]
    expected = (steps[..., 0] * counted).sum(1) / penalty(lengths, 0.6)
    np.testing.assert_allclose(decoded.scores.reshape(12), expected, rtol=1e-4)
    assert len(set(lengths.tolist())) > 1
