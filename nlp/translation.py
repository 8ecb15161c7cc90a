"""Translations: what a sequence-to-sequence model writes for a text."""

import logging
from collections.abc import Iterator, Sequence

import jax
import numpy as np

from nlp.decoding import Sampling
from nlp.generation import (
    MULTIPLE,
    ROWS,
    Beam,
    PromptError,
    Writer,
    check_max_tokens,
    encoded,
    unknown,
)
from nlp.streaming import TextStream

# How many lines are sorted by length at once: their order is kept, and output flows.
_SORTED = 1024


class Translator(Writer):
    """A sequence-to-sequence model; arguments as for `Writer`."""

    def translate(
        self,
        lines: Sequence[str],
        way: Sampling | Beam,
        *,
        max_tokens: int | None = None,
        seed: int = 0,
    ) -> Iterator[str]:
        """The translation of each line, in order; of an empty line, an empty one.

        Args:
            lines: of any lengths.
            way: how tokens are chosen.
            max_tokens: most tokens of a translation; None for twice the source's and some.
            seed: of the draws.

        Raises:
            PromptError: a line is too long; names it.
        """
        check_max_tokens(max_tokens)
        sources = [self.encode(line, f"line {i + 1}") for i, line in enumerate(lines)]
        for first in range(0, len(sources), _SORTED):
            some = sources[first : first + _SORTED]
            order = [i for i, ids in enumerate(some) if ids]
            order.sort(key=lambda i, some=some: len(some[i]))
            found = [""] * len(some)
            for start in range(0, len(order), ROWS):
                rows = order[start : start + ROWS]
                rng = jax.random.fold_in(jax.random.key(seed), first + start)
                texts = self._translated([some[i] for i in rows], way, max_tokens, rng)
                for i, text in zip(rows, texts, strict=True):
                    found[i] = text
            yield from found

    def _translated(
        self,
        sources: Sequence[Sequence[int]],
        way: Sampling | Beam,
        max_tokens: int | None,
        rng: jax.Array,
    ) -> list[str]:
        longest = max(map(len, sources))
        length = -(-longest // MULTIPLE) * MULTIPLE
        if self.max_length is not None:
            length = min(length, self.max_length)
        source = np.full((len(sources), length), self._reads.pad_id, np.int32)
        for row, ids in zip(source, sources, strict=True):
            row[: len(ids)] = ids
        start = np.full((len(sources), 1), self.tokenizer.bos_id, np.int32)
        most = self._room(length, max_tokens)
        tokens = self.run([source, start], way, max_tokens=most, rng=rng)
        texts = (self.tokenizer.decode(row) for row in tokens[:, 0].tolist())
        return [" ".join(text.splitlines()) for text in texts]

    def stream(
        self,
        line: str,
        sampling: Sampling,
        *,
        max_tokens: int | None = None,
        seed: int = 0,
    ) -> Iterator[str]:
        """One translation in pieces as they come; arguments as for `translate`."""
        check_max_tokens(max_tokens)
        ids = self.encode(line, "the text")
        if not ids:
            return
        most = self._room(len(ids), max_tokens)
        text = TextStream(self.tokenizer)
        for token in self._stream(
            [ids, [self.tokenizer.bos_id]],
            self.rules(most),
            sampling,
            rng=jax.random.fold_in(jax.random.key(seed), 0),
            cache_length=most,
        ):
            yield text.push(token)
        yield text.finish()

    def encode(self, line: str, name: str) -> list[int]:
        """The ids of a text to translate, with its end; none for an empty one.

        Args:
            line: the text.
            name: what messages call it.
        """
        if not line.strip():
            return []
        text = self._framing.prefix + line
        ids = [*encoded(self._reads, text, name), self._reads.eos_id]
        strange = unknown(self._reads, text)
        if strange:
            logging.getLogger("tessera").warning(
                "%s has characters that the tokenizer does not know: %s", name, strange
            )
        if self.max_length is not None and len(ids) > self.max_length:
            raise PromptError(
                f"{name} has {len(ids)} tokens with its end, more than the model's "
                f"max_length={self.max_length}; split it"
            )
        return ids

    def _room(self, source_length: int, max_tokens: int | None) -> int:
        """Most tokens of a translation: the decoder reads as many, its start included."""
        most = max_tokens or 2 * source_length + 2 * MULTIPLE
        if self.max_length is None or most <= self.max_length:
            return most
        if max_tokens:
            raise PromptError(
                f"max_tokens={max_tokens} exceeds the model's max_length="
                f"{self.max_length}"
            )
        return self.max_length
