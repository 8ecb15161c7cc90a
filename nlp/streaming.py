"""Text as it comes: tokens one by one from a model, and their characters when they are whole.

`nlp.decoding.sample` writes whole sequences in one program; where a person waits, a program
of one step, called from Python, shows every token at once. Both write the same.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from nlp.decoding import Rules, Sampling, begin

# What a tokenizer decodes the bytes of half a character to.
_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


class TextStream:
    """Turns ids into text piece by piece; the pieces joined are the text of the whole.

    Bytes of a character wait for the rest of it, and a piece is what the text of the last
    few tokens has grown by, so that spaces which decoding drops in front stay right.

    Args:
        tokenizer: with `decode(ids) -> str`.
        context: ids before the first, whose text is not given again.
    """

    def __init__(self, tokenizer: Any, context: Sequence[int] = ()):
        self._tokenizer = tokenizer
        self._ids = list(context)
        # Text up to `_shown` ids was given; decoding starts some ids before.
        self._start, self._shown = 0, len(self._ids)

    def push(self, token: int) -> str:
        """The text that is whole now; often empty."""
        self._ids.append(int(token))
        text = self._new()
        if text.endswith(_INCOMPLETE):
            return ""
        if text:
            self._start, self._shown = self._shown, len(self._ids)
        return text

    def finish(self) -> str:
        """The rest, with U+FFFD for what will never be whole."""
        text = self._new()
        self._start = self._shown = len(self._ids)
        return text

    def _new(self) -> str:
        decode = self._tokenizer.decode
        before = decode(self._ids[self._start : self._shown])
        return decode(self._ids[self._start :])[len(before) :]


class TokenStream:
    """Writes tokens one by one, for one prompt; compiles once for each shape.

    Args:
        model: as for `nlp.decoding.begin`.
        variables: its parameters and other collections.
    """

    def __init__(self, model: Any, variables: Any):
        self._model, self._variables = model, variables
        static = ("rules", "sampling")
        self._first = jax.jit(self._read, static_argnames=(*static, "cache_length"))
        self._next = jax.jit(self._step, static_argnames=static, donate_argnums=(2,))

    def __call__(
        self,
        inputs: Sequence[Sequence[int]],
        rules: Rules,
        sampling: Sampling,
        *,
        rng: jax.Array,
        cache_length: int,
    ) -> Iterator[int]:
        """Tokens up to the end, which is the last, or `max_length`; the same as `sample`
        writes for one row.

        Args:
            inputs: the prompt, or source and prompt.
            rules, sampling, rng: as for `nlp.decoding.sample`.
            cache_length: tokens there is room for.
        """
        settings = dict(rules=rules, sampling=sampling)
        arrays = [jnp.array([row], jnp.int32) for row in inputs]
        token, state = self._first(
            self._variables, arrays, rng, cache_length=cache_length, **settings
        )
        for i in range(1, rules.max_length + 1):
            written = token
            if i < rules.max_length:
                # The next is under way while this one is read and shown.
                token, state = self._next(
                    self._variables, token, state, jnp.int32(i), rng, **settings
                )
            yield int(written[0])
            if int(written[0]) == rules.eos_id:
                return

    def _read(self, variables, inputs, rng, *, cache_length, rules, sampling):
        logits, _, state = begin(
            self._model, variables, *inputs, cache_length=cache_length
        )
        return _choose(logits, jnp.int32(0), rng, rules, sampling), state

    def _step(self, variables, token, state, i, rng, *, rules, sampling):
        step = functools.partial(self._model.apply, method="step", mutable=["cache"])
        logits, state = step({**variables, **state}, token)
        return _choose(logits, i, rng, rules, sampling), state


def _choose(logits, i, rng, rules, sampling):
    """Token i of `nlp.decoding.sample`."""
    allowed = rules.allow(logits, jnp.full(len(logits), i))
    return sampling.draw(allowed, jax.random.fold_in(rng, i))
