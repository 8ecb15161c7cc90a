"""Which tokens of a row are hidden, and by what: BERT's corruption, one row at a time.

Papers: J. Devlin, M.-W. Chang, K. Lee, K. Toutanova, "BERT: Pre-training of Deep
Bidirectional Transformers for Language Understanding", 2018,
https://arxiv.org/abs/1810.04805; whole words: its authors' release of May 2019.

Functions take a row, [T], and uniform random numbers for its places; `jax.vmap` makes them
work on a batch. What is done to a place does not depend on padding behind the row.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from nlp.ops.ordering import ranks


def share_of(count: jax.Array, share: float) -> jax.Array:
    """int32 []: `share` of `count` things, rounded; at least one if there is any."""
    rounded = jnp.round(share * count).astype(jnp.int32)
    return jnp.where(count > 0, jnp.maximum(rounded, 1), 0)


def random_tokens(draw: jax.Array, eligible: jax.Array, count: jax.Array) -> jax.Array:
    """Chooses tokens, every choice equally likely.

    Args:
        draw: float32 [T], uniform in [0, 1).
        eligible: bool [T].
        count: int32 [], at most the number of eligible tokens.

    Returns:
        bool [T]: `count` of the eligible are True.
    """
    return ranks(jnp.where(eligible, draw, jnp.inf)) < count


def random_words(
    draw: jax.Array, eligible: jax.Array, starts: jax.Array, count: jax.Array
) -> jax.Array:
    """Chooses whole words until `count` tokens are reached.

    Words are taken in random order as long as they fit, and the room left is filled with
    words of a single token, so that fewer than `count` are chosen only where those run out.

    Args:
        draw: float32 [T], uniform in [0, 1).
        eligible: bool [T].
        starts: bool [T]; True at the first token of a word. A word also begins after a
            token that is not eligible.
        count: int32 [].

    Returns:
        bool [T]: at most `count` are True, words as a whole.
    """
    before = jnp.roll(eligible, 1).at[0].set(False)
    word = jnp.cumsum(eligible & (starts | ~before))
    size = jnp.zeros(len(word) + 1, jnp.int32).at[word].add(eligible)[word]
    score = jnp.where(eligible, draw[_first(word)], jnp.inf)
    # In order of the words' scores the tokens of a word lie together.
    order = jnp.argsort(score, stable=True)
    end = jnp.zeros_like(word).at[order].set(jnp.cumsum(eligible[order]))
    # A word's last token tells where the word as a whole would end.
    end = jnp.where(eligible, end, 0)
    end = jnp.zeros(len(word) + 1, end.dtype).at[word].max(end)[word]
    chosen = eligible & (end <= count)
    single = eligible & ~chosen & (size == 1)
    filler = ranks(jnp.where(single, score, jnp.inf)) < count - chosen.sum()
    return chosen | (filler & single)


def corrupt(
    action: jax.Array,
    draw: jax.Array,
    tokens: jax.Array,
    selected: jax.Array,
    *,
    mask_id: int,
    special_ids: Sequence[int],
    vocab_size: int,
    mask_share: float = 0.8,
    random_share: float = 0.1,
) -> jax.Array:
    """Puts a mask, a random token, or the token itself in the place of selected tokens.

    Args:
        action, draw: float32 [T], uniform in [0, 1), independent: what is put in, and
            which token if it is a random one.
        tokens: int32 [T].
        selected: bool [T].
        mask_id: the mask token.
        special_ids: tokens that are never put in by chance.
        vocab_size: random tokens lie in [0, vocab_size).
        mask_share, random_share: of the selected; the rest stays as it is.

    Returns:
        int32 [T].
    """
    specials = sorted({s for s in special_ids if 0 <= s < vocab_size})
    ordinary = vocab_size - len(specials)
    drawn = jnp.minimum((draw * ordinary).astype(jnp.int32), ordinary - 1)
    for special in specials:  # ascending: steps over one after the other
        drawn = drawn + (drawn >= special)
    replaced = jnp.where(action < mask_share + random_share, drawn, tokens)
    replaced = jnp.where(action < mask_share, mask_id, replaced)
    return jnp.where(selected, replaced, tokens).astype(tokens.dtype)


def _first(word: jax.Array) -> jax.Array:
    """int32 [T]: where the word of each token begins; `word` counts up, [T]."""
    return jnp.searchsorted(word, word, side="left")
