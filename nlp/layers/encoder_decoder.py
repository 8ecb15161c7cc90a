"""What every encoder-decoder Transformer does alike: teacher forcing, and token by token."""

import flax.linen as nn
import jax
import jax.numpy as jnp


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


class EncoderDecoder(nn.Module):
    """The base of a model with the submodule `decoder`, the field `pad_id`, and

    - `encode(source int32 [B, S], *, train) -> memory [B, S, D]`,
    - `decode(target int32 [B, T], memory or None, valid bool [B, S], *, positions,
      cache_length, train) -> hidden [B, T, D]`: `valid` is False where the source is
      padding; with a `cache_length` the memory stays in the cache, and `positions`, int32
      [T], say where the target stands,
    - `logits(hidden [..., D]) -> float32 [..., V]`.
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
        self, source: jax.Array, target: jax.Array, *, train: bool = False
    ) -> jax.Array:
        """Logits of the token after each of the target's (teacher forcing).

        Args:
            source: int32 [B, S], padded with `pad_id`.
            target: int32 [B, T], the decoder's input: begins with bos.
            train: whether to drop.

        Returns:
            float32 [B, T, V].

        Raises:
            ValueError: S or T is greater than `max_length`.
        """
        memory = self.encode(source, train=train)
        valid = source != self.pad_id
        return self.logits(self.decode(target, memory, valid, train=train))

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
        memory = self.encode(source)
        hidden = self.decode(prompt, memory, valid, cache_length=cache_length)
        return self.logits(hidden[:, -1])

    def step(self, tokens: jax.Array) -> jax.Array:
        """Logits float32 [B, V] of the token after `tokens`, int32 [B]; `begin` first."""
        index = self.get_variable("cache", "index")
        hidden = self.decode(
            tokens[:, None],
            None,
            self.get_variable("cache", "valid"),
            positions=index[None],
            cache_length=cache_length_of(self.decoder),
        )
        self.put_variable("cache", "index", index + 1)
        return self.logits(hidden[:, 0])
