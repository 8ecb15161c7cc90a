"""Perplexity of a long text by a sliding window.

A model sees at most `context` tokens at once. Cut into pieces of that length, a text's
tokens have half of it before them on average, and the first of a piece nothing. A window
that moves on by `stride` scores only what is new in it, so that every token but those of the
first window has at least `context - stride` tokens before it: the smaller the stride, the
closer to what the model can do, and the more work.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nlp.evaluators.generation import call, check_positive, raw_text, tokenizer_of
from training.errors import RunError, first_line
from training.evaluation import Report


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlidingPerplexity:
    """An evaluator, see `training.evaluation`: how well a language model predicts a text.

    All the source's texts, joined, are one. Its first token is scored only after
    `bos_id`. Metrics, of every scored token once: `loss` in nats per token, `perplexity`,
    `tokens`, and per character and per byte of UTF-8 of the text, which do not depend on
    the tokenizer: `bits_per_character`, `bits_per_byte`.

    Args:
        source: examples with a field of text, a `data.sources.TFDS` say.
        context: tokens the model sees at once; at most its `max_length`.
        stride: how far the window moves, 1 to `context`; None for half of it.
        field: the text.
        joiner: between two texts.
        tokenizer: None takes the task's; one that loses text makes the numbers per
            character too good.
        bos: put `bos_id` before the text, and score its first token too.
        max_characters: of the text, from its beginning; None takes all.
        batch_size: windows a step; None takes the training batch size.
    """

    source: Any
    context: int
    stride: int | None = None
    field: str = "text"
    joiner: str = ""
    tokenizer: Any = None
    bos: bool = False
    max_characters: int | None = None
    batch_size: int | None = None

    def __post_init__(self):
        check_positive(
            context=self.context,
            stride=self.stride,
            max_characters=self.max_characters,
            batch_size=self.batch_size,
        )
        if self.stride is not None and self.stride > self.context:
            raise ValueError(
                f"stride is {self.stride} and context {self.context}; tokens between two "
                "windows would not be scored: take a stride of at most context"
            )

    def __call__(self, run: Any, state: Any) -> Report:
        """Raises RunError for a text too short, or that the tokenizer or model refuses."""
        tokenizer = tokenizer_of(run, self.tokenizer)
        text = self._text()
        try:
            ids = list(tokenizer.encode(text))
        except ValueError as error:
            raise RunError(
                f"the text cannot be encoded: {first_line(error)}"
            ) from error
        if len(ids) + self.bos < 2:
            raise RunError(f"a text of {len(ids)} tokens has nothing to predict")
        scored = text
        if self.bos:
            ids = [tokenizer.bos_id, *ids]
        else:
            scored = text[len(tokenizer.decode(ids[:1])) :]
        total = self._total(run, state, np.array(ids, np.int32))
        loss, bits = total / (len(ids) - 1), total / math.log(2)
        return Report(
            {
                "loss": loss,
                "perplexity": math.exp(min(loss, 700.0)),  # or beyond float64
                "tokens": len(ids) - 1,
                "bits_per_character": bits / max(1, len(scored)),
                "bits_per_byte": bits / max(1, len(scored.encode("utf-8", "replace"))),
            }
        )

    def _text(self) -> str:
        parts, length = [], 0
        for i in range(len(self.source)):
            parts.append(raw_text(self.source, i, self.field))
            length += len(parts[-1]) + len(self.joiner)
            if self.max_characters is not None and length >= self.max_characters:
                break
        return self.joiner.join(parts)[: self.max_characters]

    def _total(self, run: Any, state: Any, ids: np.ndarray) -> float:
        """Nats of all tokens but the first."""
        stride = self.stride or max(1, self.context // 2)
        divisor = run.layout.batch_divisor
        size = self.batch_size or run.experiment.batch_size
        size = -(-size // divisor) * divisor
        index, hosts = run.layout.host_shard(size)
        own = slice(index * size // hosts, (index + 1) * size // hosts)
        step = run.compile(nats)
        total = 0.0
        for batch in window_batches(ids, self.context, stride, size):
            placed = run.layout.put({k: v[own] for k, v in batch.items()})
            total += float(
                jax.device_get(call(step, state, placed)).sum(dtype=np.float64)
            )
        return total


def nats(state: Any, batch: Any, *, task: Any) -> jax.Array:
    """Cross-entropy of what counts in each window, float32 [B]; of `SlidingPerplexity`."""
    tokens, counted = batch["tokens"], batch["counted"]
    variables = {"params": state.eval_params, **state.collections}
    logits = task.model.apply(variables, tokens[:, :-1], train=False)
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
    own = jnp.take_along_axis(log_probs, tokens[:, 1:, None], -1)[..., 0]
    return -jnp.where(counted, own, 0).sum(-1)


def windows(length: int, context: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Places of windows over a text of `length` tokens.

    Yields:
        (start, first, stop): the model reads from `start`, at most `context` tokens, and
        tokens `first` to `stop` - 1 are scored, all but token 0 once.
    """
    first = 1
    while first < length:
        # The first window scores all it sees; later ones what the one before did not.
        stop = min(length, first + (context if first == 1 else stride))
        yield max(0, stop - 1 - context), first, stop
        first = stop


def window_batches(
    ids: np.ndarray, context: int, stride: int, batch_size: int
) -> Iterator[dict[str, np.ndarray]]:
    """Windows as batches of one shape.

    Args:
        ids: int32 [L], the text.
        context, stride: see `windows`.
        batch_size: B.

    Yields:
        `tokens` int32 [B, context + 1], short ones ending in zeros, and `counted`, bool
        [B, context]: which of tokens[:, 1:] are scored here.
    """
    places = windows(len(ids), context, stride)
    while rows := list(itertools.islice(places, batch_size)):
        tokens = np.zeros((batch_size, context + 1), np.int32)
        counted = np.zeros((batch_size, context), bool)
        for row, (start, first, stop) in enumerate(rows):
            tokens[row, : stop - start] = ids[start:stop]
            counted[row, first - start - 1 : stop - start - 1] = True
        yield {"tokens": tokens, "counted": counted}
