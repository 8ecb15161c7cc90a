"""Beam search: the likeliest sequences, by keeping the best few at every length.

The length penalty ((5 + length) / 6)^alpha: Y. Wu et al., "Google's Neural Machine
Translation System", 2016, https://arxiv.org/abs/1609.08144. Deviations: no coverage
penalty; the search ends when no hypothesis that is still open can beat the results, and
not by a margin of scores.

At every step the best `beam_size` continuations of the open hypotheses are kept. Those
that end leave the beam for the results, and only the others are continued; so a beam of 1
is greedy choice, whatever the penalty.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from nlp.decoding import Decoded, Forced, Rules, Step, unforced, written

Gather = Callable[[Any, jax.Array], Any]


def gather_rows(state: Any, rows: jax.Array) -> Any:
    """Rows of a model's cache: batch in axis 0, or 1 below a component `blocks` of the
    path (scanned layers); leaves without that axis are shared by all rows.

    Args:
        state: a tree of arrays.
        rows: int32 [R]; which to take.
    """

    def take(path: tuple, leaf: jax.Array) -> jax.Array:
        names = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
        axis = 1 if "blocks" in names else 0
        if jnp.ndim(leaf) <= axis:
            return leaf
        return jnp.take(leaf, rows, axis=axis, mode="clip")

    return jax.tree_util.tree_map_with_path(take, state)


def penalty(length: jax.Array | int, alpha: float) -> jax.Array:
    """((5 + length) / 6)^alpha; a score is a log-probability divided by it."""
    return ((5.0 + jnp.maximum(length, 1)) / 6.0) ** alpha


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Beams:
    """Open hypotheses [B, K] by log-probability, results [B, R] by score, both sorted; one
    that does not exist has -inf. Tokens are [B, K or R, F + max_length]."""

    tokens: jax.Array
    log_probs: jax.Array
    result_tokens: jax.Array
    result_lengths: jax.Array
    result_scores: jax.Array


@dataclasses.dataclass(frozen=True)
class _Search:
    """A search's settings; arguments as for `beam_search`."""

    rules: Rules
    size: int
    alpha: float
    results: int
    forced: Forced

    def start(self) -> _Beams:
        room = self.forced.room(self.rules)[:, None]
        B, _, W = room.shape
        none = jnp.full((B, self.results), -jnp.inf)
        return _Beams(
            jnp.broadcast_to(room, (B, self.size, W)),
            jnp.full((B, self.size), -jnp.inf).at[:, 0].set(0.0),
            jnp.full((B, self.results, W), self.rules.pad_id, jnp.int32),
            jnp.zeros((B, self.results), jnp.int32),
            none,
        )

    def extend(
        self, i: jax.Array, logits: jax.Array, beams: _Beams
    ) -> tuple[_Beams, jax.Array]:
        """Puts token i on every hypothesis.

        Args:
            i: int32 [].
            logits: float32 [B * K, V].
            beams: with i tokens each.

        Returns:
            The beams, and the parent of each open hypothesis, int32 [B * K].
        """
        (B, K), V = beams.log_probs.shape, logits.shape[-1]
        length = i - self.forced.lengths + 1  # with the new token
        log_probs = self._next(i, logits.reshape(B, K, V), beams, length)
        totals = beams.log_probs[..., None] + log_probs
        log_probs, places = lax.top_k(totals.reshape(B, K * V), K)
        parents, token = places // V, (places % V).astype(jnp.int32)
        tokens = jnp.take_along_axis(beams.tokens, parents[..., None], 1)
        tokens = tokens.at[:, :, i].set(token)
        full = (length >= self.rules.max_length)[:, None]
        ends = (length > 0)[:, None] & (self.rules.ends(token) | full)
        scores = log_probs / penalty(length, self.alpha)[:, None]
        found = (
            tokens,
            jnp.broadcast_to(length[:, None], (B, K)),
            jnp.where(ends, scores, -jnp.inf),
        )
        beams = _Beams(
            tokens, jnp.where(ends, -jnp.inf, log_probs), *self._merge(beams, found)
        )
        return beams, (jnp.arange(B)[:, None] * K + parents).reshape(-1)

    def _next(self, i, logits, beams, length):
        """Log-probabilities [B, K, V]; forced tokens are certain."""
        V = logits.shape[-1]
        free = self.rules.allow(jax.nn.log_softmax(logits), length[:, None] - 1)
        wanted = beams.tokens[:, :1, i, None] == jnp.arange(V)
        certain = jnp.where(wanted, 0.0, -jnp.inf)
        return jnp.where((length > 0)[:, None, None], free, certain)

    def _merge(self, beams: _Beams, found: tuple) -> tuple:
        """The best of the results so far and of those just found; of equals the older."""
        old = beams.result_tokens, beams.result_lengths, beams.result_scores
        tokens, lengths, scores = (
            jnp.concatenate(pair, 1) for pair in zip(old, found, strict=True)
        )
        scores, best = lax.top_k(scores, self.results)
        return (
            jnp.take_along_axis(tokens, best[..., None], 1),
            jnp.take_along_axis(lengths, best, 1),
            scores,
        )

    def unfinished(self, i: jax.Array, beams: _Beams) -> jax.Array:
        """bool []: whether an open hypothesis may still become a result.

        Log-probabilities only fall, and a negative number over the largest penalty to
        come is the best that the likeliest open hypothesis can reach. Taking the penalty
        of its present length instead loses longer, better results where alpha > 0.
        """
        shortest = i - self.forced.lengths + 1
        largest = jnp.maximum(
            penalty(shortest, self.alpha), penalty(self.rules.max_length, self.alpha)
        )
        reachable = beams.log_probs.max(-1) / largest
        return (reachable > beams.result_scores[:, -1]).any()


def beam_search(
    step: Step,
    logits: jax.Array,
    state: Any,
    rules: Rules,
    *,
    beam_size: int,
    length_penalty: float = 0.0,
    num_sequences: int | None = None,
    forced: Forced | None = None,
    gather: Gather = gather_rows,
) -> Decoded:
    """The best sequences of every row, best first.

    Args:
        step: tokens int32 [B * K], state -> logits float32 [B * K, V], state. Called at
            most F + max_length - 1 times.
        logits: float32 [B, V] of the first token.
        state: what `step` takes, of B rows.
        rules: lengths, the end, what is forbidden. A sequence that reaches `max_length`
            counts as ended.
        beam_size: K.
        length_penalty: alpha; 0 ranks by log-probability, which favours short ones.
        num_sequences: R, at most K; fewer end the search sooner. None for K.
        forced: what the rows read before they write; None for nothing.
        gather: `gather(state, rows)` picks rows of the state.

    Returns:
        tokens [B, R, max_length], lengths and scores [B, R]; where fewer than R sequences
        exist, the rest have length 0 and score -inf.

    Raises:
        ValueError: `beam_size` or `num_sequences` is out of range.
    """
    results = beam_size if num_sequences is None else num_sequences
    if not 1 <= results <= beam_size:
        raise ValueError(
            f"beam_size={beam_size} and num_sequences={results}: at least 1 sequence, and "
            "no more than the beam holds"
        )
    forced = forced or unforced(len(logits))
    search = _Search(rules, beam_size, length_penalty, results, forced)
    beams = _searched(search, step, logits, state, gather)
    exists = jnp.isfinite(beams.result_scores)
    tokens = written(beams.result_tokens, forced, rules)
    return Decoded(
        jnp.where(exists[..., None], tokens, rules.pad_id),
        jnp.where(exists, beams.result_lengths, 0),
        beams.result_scores,
    )


def _searched(
    search: _Search, step: Step, logits: jax.Array, state: Any, gather: Gather
) -> _Beams:
    """The search's loop."""
    total = search.forced.tokens.shape[1] + search.rules.max_length

    def body(carry: tuple) -> tuple:
        i, beams, state = carry
        logits, state = step(beams.tokens[:, :, i - 1].reshape(-1), state)
        beams, parents = search.extend(i, logits, beams)
        return i + 1, beams, gather(state, parents)

    def unfinished(carry: tuple) -> jax.Array:
        i, beams, _ = carry
        return (i < total) & search.unfinished(i, beams)

    # All hypotheses start alike, so what the first choice makes of them needs no gathering.
    rows = jnp.repeat(jnp.arange(len(logits)), search.size)
    beams, _ = search.extend(jnp.int32(0), logits[rows], search.start())
    carry = jnp.int32(1), beams, gather(state, rows)
    return lax.while_loop(unfinished, body, carry)[1]
