"""Writing sequences: greedy choice and sampling, over any model's `step`.

A model is a callable `step(tokens int32 [B], state) -> (logits float32 [B, V], state)`
with the logits [B, V] of the first token and the state that goes with them; `begin` makes
all three of a Linen model. Every function here is one `lax.while_loop` that stops when all
rows have ended, so under `jit` a whole decoding is one program. `nlp.beam_search` is the
other way to choose.

Top-k: A. Fan, M. Lewis, Y. Dauphin, "Hierarchical Neural Story Generation", 2018,
https://arxiv.org/abs/1805.04833; top-p: A. Holtzman, J. Buys, L. Du, M. Forbes, Y. Choi,
"The Curious Case of Neural Text Degeneration", 2019, https://arxiv.org/abs/1904.09751.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Step = Callable[[jax.Array, Any], tuple[jax.Array, Any]]

# Never written as text; `eos_id` is, as the end.
_SPECIAL = ("pad_id", "bos_id", "unk_id", "mask_id")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
    """Which sequences may be written.

    Args:
        max_length: most tokens of a row, `eos_id` included.
        min_length: fewest tokens before `eos_id`.
        eos_id: ends a row; None: rows end at `max_length` only.
        pad_id: what rows that have ended are filled with.
        forbidden: ids that are never chosen: padding, the start, the unknown token.

    Raises:
        ValueError: lengths that leave nothing to write; the end is forbidden.
    """

    max_length: int
    min_length: int = 0
    eos_id: int | None = 2
    pad_id: int = 0
    forbidden: tuple[int, ...] = ()

    def __post_init__(self):
        if self.max_length < 1:
            raise ValueError(f"max_length={self.max_length} must be at least 1")
        if not 0 <= self.min_length <= self.max_length:
            raise ValueError(
                f"min_length={self.min_length} must lie in [0, max_length="
                f"{self.max_length}]"
            )
        if self.eos_id in self.forbidden:
            raise ValueError(
                f"eos_id={self.eos_id} is forbidden; give eos_id=None for no end"
            )

    @classmethod
    def of_text(
        cls, tokenizer: Any, max_length: int, *, vocab_size: int | None = None
    ) -> Self:
        """Nothing is written but the tokenizer's text and the end.

        Args:
            tokenizer: with `eos_id` and such of `pad_id bos_id unk_id mask_id` as it has.
            max_length: most tokens of a row, the end included.
            vocab_size: outputs of the model, where it may have more than there are tokens.
        """
        special = {getattr(tokenizer, name, None) for name in _SPECIAL}
        eos, pad = (getattr(tokenizer, name, None) for name in ("eos_id", "pad_id"))
        beyond = range(tokenizer.vocab_size, vocab_size or 0)
        return cls(
            max_length=max_length,
            eos_id=eos,
            pad_id=0 if pad is None else pad,
            forbidden=tuple(sorted((special | set(beyond)) - {None, eos})),
        )

    def allow(self, logits: jax.Array, length: jax.Array) -> jax.Array:
        """The logits with -inf for what may not follow.

        Args:
            logits: float32 [..., V].
            length: int32 [...]; how many tokens the row has written.
        """
        ids = jnp.arange(logits.shape[-1])
        refused = jnp.isin(ids, jnp.array(self.forbidden, jnp.int32))
        early = (length < self.min_length)[..., None] & self.ends(ids)
        return jnp.where(refused | early, -jnp.inf, logits)

    def ends(self, tokens: jax.Array) -> jax.Array:
        """Which tokens are the end: int32 [...] -> bool [...]."""
        if self.eos_id is None:
            return jnp.zeros(tokens.shape, bool)
        return tokens == self.eos_id


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How one token is drawn.

    Args:
        temperature: divides the logits; 0 takes the likeliest token.
        top_k: draw from the k likeliest only; None from all.
        top_p: draw from the fewest likeliest tokens whose probabilities (after the
            temperature and `top_k`) reach p; None from all.

    Raises:
        ValueError: a value outside its range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self):
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(
                f"temperature={self.temperature} must be 0 (greedy) or a positive number"
            )
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k={self.top_k} must be at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p} must lie in (0, 1]")

    def draw(self, logits: jax.Array, rng: jax.Array | None) -> jax.Array:
        """float32 [..., V] -> tokens int32 [...]; `rng` may be None if it is greedy."""
        if self.temperature == 0:
            return logits.argmax(-1).astype(jnp.int32)
        # The largest becomes 0 first: no temperature is small enough to overflow then.
        logits = (logits - logits.max(-1, keepdims=True)) / self.temperature
        if self.top_k is None and self.top_p is None:
            return jax.random.categorical(rng, logits).astype(jnp.int32)
        # Of equals the first: exactly k tokens stay, where a threshold may keep more.
        most = min(self.top_k or logits.shape[-1], logits.shape[-1])
        logits, tokens = lax.top_k(logits, most)
        if self.top_p is not None:
            probabilities = jax.nn.softmax(logits)
            before = probabilities.cumsum(-1) - probabilities
            # The likeliest always stays, whatever rounding does to a tiny p.
            kept = (before < self.top_p).at[..., 0].set(True)
            logits = jnp.where(kept, logits, -jnp.inf)
        place = jax.random.categorical(rng, logits)[..., None]
        return jnp.take_along_axis(tokens, place, -1)[..., 0].astype(jnp.int32)


GREEDY = Sampling(temperature=0.0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Decoded:
    """Written sequences; from beam search with a dimension R of the best, after B.

    Args:
        tokens: int32 [B, max_length]; with its end, then padding.
        lengths: int32 [B]; the end counts.
        scores: float32 [B]; the model's log-probability of the whole, over the length
            penalty in beam search.
    """

    tokens: jax.Array
    lengths: jax.Array
    scores: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Forced:
    """What rows must still read before they write: the rest of their prompts.

    Args:
        tokens: int32 [B, F].
        lengths: int32 [B]; at most F.
    """

    tokens: jax.Array
    lengths: jax.Array

    def room(self, rules: Rules) -> jax.Array:
        """int32 [B, F + max_length]: the forced tokens, then padding."""
        real = jnp.arange(self.tokens.shape[1]) < self.lengths[:, None]
        tokens = jnp.where(real, self.tokens, rules.pad_id)
        padding = ((0, 0), (0, rules.max_length))
        return jnp.pad(tokens, padding, constant_values=rules.pad_id)


def split_prompts(
    prompts: Sequence[Sequence[int]], pad_id: int = 0
) -> tuple[np.ndarray, Forced]:
    """Prompts of different lengths as one batch.

    Args:
        prompts: B sequences of ids.
        pad_id: fills short rows.

    Returns:
        int32 [B, P], as long as the shortest prompt, for the model to begin with, and the
        rest of each.

    Raises:
        ValueError: an empty prompt.
    """
    lengths = np.array([len(prompt) for prompt in prompts], np.int32)
    if not len(lengths) or not lengths.min():
        raise ValueError(f"prompts of {lengths.tolist()} tokens; each needs at least 1")
    rows = np.full((len(prompts), lengths.max()), pad_id, np.int32)
    for row, prompt in zip(rows, prompts, strict=True):
        row[: len(prompt)] = prompt
    shared = lengths.min()
    return rows[:, :shared], Forced(rows[:, shared:], lengths - shared)


def unforced(rows: int) -> Forced:
    """For prompts that are read already."""
    return Forced(jnp.zeros((rows, 0), jnp.int32), jnp.zeros(rows, jnp.int32))


def begin(
    model: Any, variables: Any, *inputs: jax.Array, cache_length: int
) -> tuple[jax.Array, Step, Any]:
    """Has a Linen model read its prompts.

    Args:
        model: with the methods `begin(*inputs, cache_length) -> logits` and
            `step(tokens) -> logits`, and its state in the collection 'cache'.
        variables: its parameters and other collections.
        inputs: prompt int32 [B, P], or source int32 [B, S] and prompt.
        cache_length: tokens there is room for, the prompt included. Of the tokens that are
            written, only the last needs none.

    Returns:
        Logits of the next token float32 [B, V], `step`, and the state.
    """
    variables = {name: x for name, x in variables.items() if name != "cache"}
    logits, state = model.apply(
        variables, *inputs, cache_length=cache_length, method="begin", mutable=["cache"]
    )

    def step(tokens: jax.Array, state: Any) -> tuple[jax.Array, Any]:
        return model.apply(
            {**variables, **state}, tokens, method="step", mutable=["cache"]
        )

    return logits, step, state


def greedy(
    step: Step,
    logits: jax.Array,
    state: Any,
    rules: Rules,
    *,
    forced: Forced | None = None,
) -> Decoded:
    """The likeliest token at every step; arguments as for `sample`."""
    return sample(step, logits, state, rules, GREEDY, rng=None, forced=forced)


def sample(
    step: Step,
    logits: jax.Array,
    state: Any,
    rules: Rules,
    sampling: Sampling,
    *,
    rng: jax.Array | None,
    forced: Forced | None = None,
) -> Decoded:
    """Draws one sequence for every row.

    Args:
        step: tokens int32 [B], state -> logits float32 [B, V], state. Called at most
            F + max_length - 1 times.
        logits: float32 [B, V] of the first token.
        state: what `step` takes; any tree of arrays.
        rules: lengths, the end, what is forbidden.
        sampling: how a token is drawn.
        rng: PRNG key; draw i uses `fold_in(rng, i)`. None if it is greedy.
        forced: what the rows read before they write; None for nothing.

    Returns:
        What each row wrote; without what it was forced to read.
    """
    forced = forced or unforced(len(logits))
    room = forced.room(rules)

    def emit(i: jax.Array, logits: jax.Array, rows: tuple) -> tuple:
        tokens, lengths, scores, ended = rows
        writes = ~ended & (i >= forced.lengths)
        key = None if rng is None else jax.random.fold_in(rng, i)
        chosen = sampling.draw(rules.allow(logits, lengths), key)
        token = jnp.where(writes, chosen, jnp.where(ended, rules.pad_id, tokens[:, i]))
        log_probs = jax.nn.log_softmax(logits)
        score = jnp.take_along_axis(log_probs, token[:, None], -1)[:, 0]
        lengths += writes
        ended |= writes & (rules.ends(token) | (lengths >= rules.max_length))
        return (
            tokens.at[:, i].set(token),
            lengths,
            scores + jnp.where(writes, score, 0),
            ended,
        )

    def body(carry: tuple) -> tuple:
        i, rows, state = carry
        logits, state = step(rows[0][:, i - 1], state)
        return i + 1, emit(i, logits, rows), state

    def unfinished(carry: tuple) -> jax.Array:
        i, (*_, ended), _ = carry
        return (i < room.shape[1]) & ~ended.all()

    B = len(logits)
    nothing = (room, jnp.zeros(B, jnp.int32), jnp.zeros(B), jnp.zeros(B, bool))
    start = jnp.int32(1), emit(jnp.int32(0), logits, nothing), state
    _, (tokens, lengths, scores, _), _ = lax.while_loop(unfinished, body, start)
    return Decoded(written(tokens, forced, rules), lengths, scores)


def written(tokens: jax.Array, forced: Forced, rules: Rules) -> jax.Array:
    """[B, ..., F + max_length] -> [B, ..., max_length], without what was forced."""
    lengths = forced.lengths.reshape((-1,) + (1,) * (tokens.ndim - 1))
    places = lengths + jnp.arange(rules.max_length)
    return jnp.take_along_axis(tokens, places, -1)
