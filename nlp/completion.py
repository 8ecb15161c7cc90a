"""Completions: what a language model writes after a prompt."""

from collections.abc import Iterator, Sequence

import jax
import numpy as np

from nlp.decoding import Forced, Sampling, split_prompts
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

DEFAULT_TOKENS = 256


class Completer(Writer):
    """A language model; arguments as for `Writer`."""

    def complete(
        self,
        prompts: Sequence[str],
        way: Sampling | Beam,
        *,
        max_tokens: int | None = None,
        seed: int = 0,
        num: int = 1,
    ) -> Iterator[list[str]]:
        """What the model writes after each prompt.

        Args:
            prompts: of any lengths; they are read together.
            way: how tokens are chosen; a beam's `results` must be `num`.
            max_tokens: most tokens; None for as many as fit, up to 256.
            seed: of the draws.
            num: texts for each prompt; of beam search the best.

        Yields:
            `num` texts for every prompt, in order.

        Raises:
            PromptError: a prompt is empty, too long, or has unknown characters.
        """
        rows = [self.encode(prompt) for prompt in prompts]
        most = self._room(max(map(len, rows)), max_tokens)
        draws = 1 if isinstance(way, Beam) else num
        count = max(1, ROWS // draws)
        for first in range(0, len(rows), count):
            some = rows[first : first + count]
            rng = jax.random.fold_in(jax.random.key(seed), first)
            prompt, forced = _rounded(
                [row for row in some for _ in range(draws)], self.tokenizer.pad_id
            )
            tokens = self.run([prompt], way, max_tokens=most, rng=rng, forced=forced)
            tokens = tokens.reshape(len(some), num, most).tolist()
            for texts in tokens:
                yield [self.tokenizer.decode(row) for row in texts]

    def stream(
        self,
        prompt: str,
        sampling: Sampling,
        *,
        max_tokens: int | None = None,
        seed: int = 0,
        draw: int = 0,
        slide: bool = False,
    ) -> Iterator[str]:
        """What the model writes after a prompt, in pieces as they come.

        Args:
            prompt, sampling, max_tokens, seed: as for `complete`.
            draw: which of several texts.
            slide: go on beyond the model's context: whenever it is full, the model reads
                the last half of it again and continues.
        """
        check_max_tokens(max_tokens)
        ids, limit = self.encode(prompt), self.max_length
        if slide and limit is not None:
            most = max_tokens or DEFAULT_TOKENS
        else:
            most = self._room(len(ids), max_tokens)
            limit = len(ids) + most
        rng = jax.random.fold_in(jax.random.key(seed), draw)
        text = TextStream(self.tokenizer, ids)
        for token in self._tokens(ids, sampling, most, limit, rng):
            yield text.push(token)
        yield text.finish()

    def _tokens(
        self,
        ids: list[int],
        sampling: Sampling,
        max_tokens: int,
        limit: int,
        rng: jax.Array,
    ) -> Iterator[int]:
        """Up to `max_tokens` tokens, with no more than `limit` of the text in view."""
        half = max(limit // 2, 1)
        ids = ids[-half:] if len(ids) >= limit else ids
        while max_tokens:
            rules = self.rules(min(max_tokens, limit - len(ids)))
            written = []
            for token in self._stream(
                [ids], rules, sampling, rng=rng, cache_length=limit
            ):
                written.append(token)
                yield token
            if written[-1] == rules.eos_id:
                return
            max_tokens -= len(written)
            ids = (ids + written)[-half:]
            rng = jax.random.fold_in(rng, max_tokens)

    def encode(self, prompt: str) -> list[int]:
        """The ids of a prompt. Raises PromptError for one that cannot be read."""
        ids = encoded(self.tokenizer, prompt, "the prompt")
        strange = unknown(self.tokenizer, prompt)
        if strange:
            raise PromptError(
                f"the prompt has characters that the tokenizer does not know: {strange}"
            )
        if self._framing.add_bos:
            ids = [self.tokenizer.bos_id, *ids]
        if not ids:
            raise PromptError("the prompt is empty; give the text to continue")
        return ids

    def _room(self, prompt_length: int, max_tokens: int | None) -> int:
        """Most tokens after a prompt."""
        check_max_tokens(max_tokens)
        if self.max_length is None:
            return max_tokens or DEFAULT_TOKENS
        room = self.max_length - prompt_length
        if room < 1 or (max_tokens or 0) > room:
            wanted = f" and max_tokens={max_tokens}" if max_tokens else ""
            raise PromptError(
                f"a prompt of {prompt_length} tokens{wanted} exceeds the model's context "
                f"of {self.max_length}; shorten it, or let it slide"
            )
        return max_tokens or min(room, DEFAULT_TOKENS)


def _rounded(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[np.ndarray, Forced]:
    """`split_prompts`, with a beginning of a round length; the rest is read one by one."""
    prompt, forced = split_prompts(rows, pad_id)
    whole = prompt.shape[1] // MULTIPLE * MULTIPLE or prompt.shape[1]
    rest = np.concatenate([prompt[:, whole:], forced.tokens], 1)
    return prompt[:, :whole], Forced(rest, forced.lengths + prompt.shape[1] - whole)
