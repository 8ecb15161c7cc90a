"""A text with holes and what fills them: T5's span corruption, BART's infilling and sentence
permutation, MASS's fragment.

Papers: C. Raffel et al., "Exploring the Limits of Transfer Learning with a Unified
Text-to-Text Transformer", 2019, https://arxiv.org/abs/1910.10683; M. Lewis et al., "BART:
Denoising Sequence-to-Sequence Pre-training for Natural Language Generation, Translation,
and Comprehension", 2019, https://arxiv.org/abs/1910.13461; K. Song, X. Tan, T. Qin, J. Lu,
T.-Y. Liu, "MASS: Masked Sequence to Sequence Pre-training for Language Generation", 2019,
https://arxiv.org/abs/1905.02450.

Functions take one row, tokens [T] with all padding at its end, and its key; `jax.vmap` makes
them work on a batch. Shapes are static and follow from T, so that rows that are short, or
lose more tokens than others, end in padding. What is drawn does not depend on padding.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from nlp.ops.ordering import compact, ranks
from nlp.ops.row_keys import uniform_table


def span_counts(length: int, density: float, mean_span: float) -> tuple[int, int]:
    """(tokens lost, spans) of a text of so many tokens; the text begins with a token that
    stays and ends with one that is lost, as in T5, and spans do not touch.

    At least one token is lost and one stays, or, of a text shorter than two, none is lost.
    """
    if length < 2:
        return 0, 0
    lost = min(max(round(length * density), 1), length - 1)
    spans = max(round(lost / mean_span), 1)
    return lost, min(spans, lost, length - lost)


def corrupted_lengths(
    length: int, density: float, mean_span: float
) -> tuple[int, int, int]:
    """(source, target, spans) that a row of so many tokens, or fewer, needs at most.

    Source: the tokens that stay, a sentinel per span, eos. Target: bos, a sentinel per
    span, the tokens lost, eos.
    """
    counts = [(n, *span_counts(n, density, mean_span)) for n in range(length + 1)]
    source = max(n - lost + spans + 1 for n, lost, spans in counts)
    target = max(lost + spans + 2 for _, lost, spans in counts)
    return source, target, max(spans for *_, spans in counts)


def random_segments(
    draw: jax.Array, items: jax.Array, segments: jax.Array, most: int
) -> jax.Array:
    """Cuts a line of items at random into segments that are not empty, every way equally
    likely.

    Args:
        draw: float32 [N], uniform in [0, 1).
        items: int32 [], at most N.
        segments: int32 [], at most `items` and `most`.
        most: static bound.

    Returns:
        int32 [most]: the size of each segment, 0 beyond `segments`.
    """
    position = jnp.arange(len(draw))
    score = jnp.where((position > 0) & (position < items), draw, jnp.inf)
    number = jnp.cumsum((ranks(score) < segments - 1) & jnp.isfinite(score))
    number = jnp.where((position < items) & (number < segments), number, most)
    return jnp.zeros(most, jnp.int32).at[number].add(1, mode="drop")


def corrupt_spans(
    key: jax.Array,
    tokens: jax.Array,
    *,
    density: float,
    mean_span: float,
    first_sentinel: int,
    pad_id: int,
    bos_id: int,
    eos_id: int,
) -> tuple[jax.Array, jax.Array]:
    """T5: spans become sentinels; the target says what each sentinel stood for.

    "a b c d e f" may become the source "a X d Y eos" and the target "bos X b c Y e f eos".

    Args:
        key: PRNG key.
        tokens: int32 [T].
        density: share of the tokens that is lost.
        mean_span: tokens per span, on average.
        first_sentinel: span k is marked by first_sentinel - k.
        pad_id, bos_id, eos_id: bos starts the target.

    Returns:
        Source and target, int32, of `corrupted_lengths(T, ...)`.
    """
    length = len(tokens)
    source_length, target_length, most = corrupted_lengths(length, density, mean_span)
    # A table, so that the counts are those of the static lengths to the last rounding.
    table = [span_counts(n, density, mean_span) for n in range(length + 1)]
    real = (tokens != pad_id).sum()
    lost, spans = jnp.asarray(np.array(table, np.int32))[real]
    draws = uniform_table(key, length, 2)
    stay_sizes = random_segments(draws[:, 0], real - lost, spans, max(most, 1))
    lost_sizes = random_segments(draws[:, 1], lost, spans, max(most, 1))
    ends = jnp.cumsum(stay_sizes + lost_sizes)
    position = jnp.arange(length)[:, None]
    inside = (position >= ends - lost_sizes) & (position < ends)  # [T, spans]
    hidden = inside.any(1)
    first = (inside & (position == ends - lost_sizes)).any(1)
    sentinel = first_sentinel - (jnp.cumsum(first) - 1)

    some = jnp.reshape(real > 0, (1,))
    bos, eos = (jnp.full(1, x, jnp.int32) for x in (bos_id, eos_id))
    stays = jnp.arange(length) < real
    source = compact(
        jnp.concatenate([jnp.where(hidden, sentinel, tokens), eos]),
        jnp.concatenate([stays & (~hidden | first), some]),
        source_length,
        pad_id,
    )
    pairs = jnp.stack([sentinel, tokens], 1).reshape(-1)
    target = compact(
        jnp.concatenate([bos, pairs, eos]),
        jnp.concatenate([some, jnp.stack([first, hidden], 1).reshape(-1), some]),
        target_length,
        pad_id,
    )
    return source, target


def fill_spans(
    source: Sequence[int],
    target: Sequence[int],
    *,
    first_sentinel: int,
    spans: int,
    specials: Sequence[int],
) -> list[int]:
    """The inverse of `corrupt_spans`: the source with its holes filled from the target.

    Args:
        source, target: token ids; the target may be a model's, and lack a span.
        first_sentinel: as for `corrupt_spans`.
        spans: how many sentinels there are.
        specials: bos, eos and padding, which are left out.
    """

    def is_sentinel(token):
        return first_sentinel - spans < token <= first_sentinel

    filling: dict[int, list[int]] = {}
    current: list[int] = []
    for token in map(int, target):
        if is_sentinel(token):
            current = filling.setdefault(token, [])
        elif token not in specials:
            current.append(token)
    filled: list[int] = []
    for token in map(int, source):
        if is_sentinel(token):
            filled += filling.get(token, [])
        elif token not in specials:
            filled.append(token)
    return filled


def infill(
    key: jax.Array,
    tokens: jax.Array,
    *,
    density: float,
    mean_span: float,
    mask_id: int,
    pad_id: int,
    eos_id: int,
) -> jax.Array:
    """BART: spans of Poisson length become one mask each; a span of length 0 puts a mask
    between two tokens.

    Spans are drawn until `density` of the tokens, rounded up, are lost, and at most as many
    as that; the last one is cut, or stretched, to fit. Then the spans and the tokens that stay are put in random order, the tokens
    among themselves as they were, every order equally likely.

    Args:
        key: PRNG key.
        tokens: int32 [T].
        density: share of the tokens that is lost.
        mean_span: of the Poisson distribution.
        mask_id, pad_id, eos_id: special tokens.

    Returns:
        The source, int32 [T + 1], its end marked by eos.
    """
    length = len(tokens)
    most = math.ceil(density * length)
    draws = uniform_table(key, length + 1, 2)
    real = (tokens != pad_id).sum()
    budget = jnp.asarray([math.ceil(density * n) for n in range(length + 1)])[real]
    sizes = (draws[:most, :1] >= poisson_cdf(mean_span)).sum(1)
    # No more spans than lost tokens: the last possible one takes what is left.
    sizes = jnp.where(jnp.arange(most) == budget - 1, length, sizes)
    # consumed[k]: tokens lost to the first k spans.
    consumed = jnp.minimum(jnp.cumsum(sizes), budget)
    consumed = jnp.concatenate([jnp.zeros(1, consumed.dtype), consumed])
    spans = (consumed[:-1] < budget).sum()
    slots = real - consumed[-1] + spans

    place = jnp.arange(length + 1)
    score = jnp.where(place < slots, draws[:, 1], jnp.inf)
    is_span = ranks(score) < spans
    before = jnp.cumsum(is_span)  # spans before a slot that is none
    origin = place - before + consumed[jnp.minimum(before, most)]
    source = jnp.where(is_span, mask_id, tokens[jnp.minimum(origin, length - 1)])
    end = jnp.where((place == slots) & (real > 0), eos_id, pad_id)
    return jnp.where(place < slots, source, end).astype(tokens.dtype)


def poisson_cdf(mean: float) -> np.ndarray:
    """float32 [K]: P(X <= k), up to where nothing is left to speak of."""
    last = int(mean + 10 * math.sqrt(mean) + 10)
    density = [math.exp(-mean)]
    for k in range(1, last):
        density.append(density[-1] * mean / k)
    return np.cumsum(density).astype(np.float32)


def permute_sentences(
    key: jax.Array, tokens: jax.Array, sentence_ends: Sequence[int], pad_id: int
) -> jax.Array:
    """Sentences in random order, tokens in theirs: int32 [T] -> [T].

    Args:
        key: PRNG key.
        tokens: int32 [T].
        sentence_ends: tokens that end a sentence; it also ends with the row.
        pad_id: padding stays at the end.
    """
    ends = jnp.isin(tokens, jnp.asarray(tuple(sentence_ends)))
    sentence = jnp.cumsum(ends) - ends
    score = jax.random.uniform(key, tokens.shape)[sentence]
    score = jnp.where(tokens == pad_id, jnp.inf, score)
    return tokens[jnp.argsort(score, stable=True)]


def cut_fragment(
    key: jax.Array,
    tokens: jax.Array,
    *,
    density: float,
    mask_id: int,
    pad_id: int,
    bos_id: int,
    eos_id: int,
) -> tuple[jax.Array, jax.Array]:
    """MASS: one run of tokens becomes masks, one each; the target is the run.

    Args:
        key: PRNG key.
        tokens: int32 [T].
        density: share of the tokens in the run; rounded, at least one token.
        mask_id, pad_id, bos_id, eos_id: special tokens.

    Returns:
        Source, int32 [T + 1], ended by eos; target, int32 [ceil(density * T) + 3].
    """
    length = len(tokens)
    real = (tokens != pad_id).sum()
    table = [min(max(round(density * n), 1), n) for n in range(length + 1)]
    size = jnp.asarray(table)[real]
    start = (jax.random.uniform(key) * (real - size + 1)).astype(jnp.int32)
    start = jnp.minimum(start, real - size)
    position = jnp.arange(length)
    hidden = (position >= start) & (position < start + size)
    some = jnp.reshape(real > 0, (1,))
    bos, eos = (jnp.full(1, x, jnp.int32) for x in (bos_id, eos_id))
    source = compact(
        jnp.concatenate([jnp.where(hidden, mask_id, tokens), eos]),
        jnp.concatenate([position < real, some]),
        length + 1,
        pad_id,
    )
    target = compact(
        jnp.concatenate([bos, tokens, eos]),
        jnp.concatenate([some, hidden, some]),
        math.ceil(density * length) + 3,
        pad_id,
    )
    return source, target
