"""What every encoder-decoder Transformer does alike: teacher forcing, and token by token."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers.masks import (
    combine_masks,
    padding_mask,
    segment_mask,
    segment_positions,
)


def check_prompt(length: int, cache_length: int) -> None:
    """Raises ValueError unless a prompt of `length` tokens fits the cache."""
    if not 1 <= length <= cache_length:
        raise ValueError(
            f"a prompt of {length} tokens does not fit cache_length={cache_length}; "
            "give at least 1 token and room for all"
        )


def cache_length_of(stack: nn.Module) -> int:
    """Positions in the cache of a stack of blocks, which its first call made."""
    blocks = stack.variables["cache"]
    block = blocks["blocks"] if "blocks" in blocks else blocks["block_0"]
    return block["attention"]["key"].shape[-2]


def packing(
    segments: jax.Array | None,
) -> tuple[jax.Array | None, jax.Array | None]:
    """(mask bool [B, 1, T, T], positions int32 [B, T]) of packed rows; None for others."""
    if segments is None:
        return None, None
    return segment_mask(segments), segment_positions(segments)


class EncoderDecoder(nn.Module):
    """The base of a model with the submodule `decoder`, the field `pad_id`, and

    - `encode(source int32 [B, S], *, segments, train) -> memory [B, S, D]`,
    - `decode(target int32 [B, T], memory or None, memory_mask, *, mask, positions,
      cache_length, train) -> hidden [B, T, D]`: `memory_mask` and `mask` say what each
      token may read of the memory and, besides causality, of the target; `positions`,
      int32 [T] or [B, T], where it stands; with a `cache_length` the memory stays in the
      cache,
    - `logits(hidden [..., D]) -> float32 [..., V]`.

    Packed rows hold several pairs, numbered from 1 by `segments`, 0 for padding: tokens of
    a pair read that pair alone, and their positions begin at 0, so that a row gives the
    logits that its pairs give one by one.
    """

    # A field of models whose positions end.
    max_length = None

    def check_length(self, length: int) -> None:
        """Raises ValueError if a sequence is longer than the model's positions."""
        if self.max_length is not None and length > self.max_length:
            raise ValueError(
                f"sequence of {length} is longer than max_length={self.max_length}; "
                "shorten it or raise max_length"
            )

    def __call__(
        self,
        source: jax.Array,
        target: jax.Array,
        source_segments: jax.Array | None = None,
        target_segments: jax.Array | None = None,
        *,
        train: bool = False,
    ) -> jax.Array:
        """Logits of the token after each of the target's (teacher forcing).

        Args:
            source: int32 [B, S], padded with `pad_id`.
            target: int32 [B, T], the decoder's input: begins with bos.
            source_segments: int32 [B, S], the pair of each token; None: rows are pairs.
            target_segments: int32 [B, T]; None if those of the source are.
            train: whether to drop.

        Returns:
            float32 [B, T, V].

        Raises:
            ValueError: S or T is greater than `max_length`; only one has segments.
        """
        if (source_segments is None) != (target_segments is None):
            raise ValueError(
                "packed pairs need source_segments and target_segments; one is missing"
            )
        memory = self.encode(source, segments=source_segments, train=train)
        memory_mask = padding_mask(source != self.pad_id)
        mask, positions = packing(target_segments)
        if target_segments is not None:
            of_pair = segment_mask(target_segments, source_segments)
            memory_mask = combine_masks(memory_mask, of_pair)
        hidden = self.decode(
            target, memory, memory_mask, mask=mask, positions=positions, train=train
        )
        return self.logits(hidden)

    def begin(
        self, source: jax.Array, prompt: jax.Array, *, cache_length: int
    ) -> jax.Array:
        """Starts decoding: logits float32 [B, V] of the token after the prompt.

        The state goes to the collection 'cache' (make it mutable).

        Args:
            source: int32 [B, S].
            prompt: int32 [B, P], all real: bos, and perhaps more.
            cache_length: tokens there is room for, the prompt included. A step beyond it
                is not noticed.

        Raises:
            ValueError: the prompt is empty or longer than `cache_length`; that or the
                source is longer than `max_length`.
        """
        self.check_length(cache_length)
        length = prompt.shape[1]
        check_prompt(length, cache_length)
        valid = source != self.pad_id
        self.put_variable("cache", "valid", valid)
        self.put_variable("cache", "index", jnp.int32(length))
        memory, memory_mask = self.encode(source), padding_mask(valid)
        hidden = self.decode(prompt, memory, memory_mask, cache_length=cache_length)
        return self.logits(hidden[:, -1])

    def step(self, tokens: jax.Array) -> jax.Array:
        """Logits float32 [B, V] of the token after `tokens`, int32 [B]; `begin` first."""
        index = self.get_variable("cache", "index")
        hidden = self.decode(
            tokens[:, None],
            None,
            padding_mask(self.get_variable("cache", "valid")),
            positions=index[None],
            cache_length=cache_length_of(self.decoder),
        )
        self.put_variable("cache", "index", index + 1)
        return self.logits(hidden[:, 0])
