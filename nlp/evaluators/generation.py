"""What the evaluators of generated text share: a batch's translation, raw texts."""

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from nlp.beam_search import beam_search
from nlp.decoding import Rules, begin
from training.errors import RunError, first_line
from training.evaluation import Batches


def tokenizer_of(run: Any, tokenizer: Any) -> Any:
    """The given tokenizer, or else the task's. Raises RunError if there is none."""
    found = tokenizer or getattr(run.experiment.task, "tokenizer", None)
    if found is None:
        raise RunError("no tokenizer; give the evaluator or the task one")
    return found


def translate(
    state: Any,
    batch: Any,
    *,
    task: Any,
    rules: Rules,
    beam_size: int,
    length_penalty: float,
) -> tuple[jax.Array, jax.Array]:
    """The best hypothesis of an encoder-decoder for each row of a batch.

    The prompt is the first token of the decoder's input, as in training.

    Returns:
        tokens int32 [B, max_length] and the batch's mask, bool [B].
    """
    source, target = task.plain_inputs(batch)[:2]
    logits, step, cache = begin(
        task.model,
        {"params": state.eval_params, **state.collections},
        source,
        target[:, :1],
        cache_length=rules.max_length,  # bos is read, the last token is not
    )
    found = beam_search(
        step,
        logits,
        cache,
        rules,
        beam_size=beam_size,
        length_penalty=length_penalty,
        num_sequences=1,
    )
    return found.tokens[:, 0], batch["mask"]


def call(step: Any, state: Any, batch: Any) -> Any:
    """A compiled step. Raises RunError, in one line, for what tracing refuses."""
    try:
        return step(state, batch)
    except (ValueError, TypeError, AttributeError) as error:
        raise RunError(f"the model cannot be evaluated: {first_line(error)}") from error


def written(
    run: Any,
    state: Any,
    data: Any,
    tokenizer: Any,
    *,
    batch_size: int | None,
    beam_size: int,
    length_penalty: float,
    max_length: int,
    limit: int | None = None,
) -> tuple[dict[int, str], int]:
    """The translations of a split by an encoder-decoder; every process gets all.

    Args:
        run, state: of the model.
        data: a pipeline with `eval_batches` in the order of its `source`.
        tokenizer: of the target.
        batch_size: sentences a step; None takes the training batch size.
        beam_size, length_penalty: of `beam_search`.
        max_length: most tokens, the end included.
        limit: stop after so many sentences; None takes all.

    Returns:
        Index in the source -> text, in order, and how many could not be read.

    Raises:
        RunError: no sentence can be read, or the model cannot translate.
    """
    outputs = getattr(run.experiment.task.model, "vocab_size", None)
    settings = dict(
        rules=Rules.of_text(tokenizer, max_length, vocab_size=outputs),
        beam_size=beam_size,
        length_penalty=length_penalty,
    )
    function = functools.partial(translate, **settings)
    step = run.compile(function, key=("translate", *settings.values()))
    with Batches(data, run, batch_size or run.experiment.batch_size) as batches:
        found = {
            i: tokenizer.decode(tokens.tolist())
            for i, tokens in itertools.islice(_rows(batches, step, state), limit)
        }
        skipped = batches.skipped
    if not found:
        raise RunError("no sentence could be read; look at the evaluator's source")
    return found, skipped


def _rows(batches: Any, step: Any, state: Any) -> Iterator[tuple[int, np.ndarray]]:
    """(index in the source, tokens int32 [L]) of every readable example, in order.

    Row r of batch b is example b * B + r.
    """
    start = 0
    for batch in batches:
        tokens, mask = jax.device_get(call(step, state, batch))
        for i in np.flatnonzero(mask):
            yield start + int(i), tokens[i]
        start += len(mask)


def raw_text(source: Any, index: int, field: str) -> str:
    """A field of a source's example as text.

    Raises:
        RunError: there is no such field, or it is no text.
    """
    example = source[index]
    if field not in example:
        raise RunError(
            f"the source has no field {field!r}; it has {', '.join(example)}"
        )
    value = example[field]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if not isinstance(value, str):
        raise RunError(
            f"field {field!r} of the source is {type(value).__name__}; name a field of text"
        )
    return str(value)


def check_positive(**values: int | None) -> None:
    """Raises ValueError for the first value that is neither None nor positive."""
    for name, value in values.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; it must be positive")


def show(
    sources: Sequence[str], references: Sequence[str], hypotheses: Sequence[str]
) -> list[tuple[str, str]]:
    """(name, text) of sentences, an empty pair after each."""
    entries = []
    for texts in zip(sources, references, hypotheses, strict=True):
        entries += zip(("source", "reference", "model"), texts, strict=True)
        entries.append(("", ""))
    return entries


def as_lines(entries: Sequence[tuple[str, str]]) -> str:
    """(name, text) pairs as lines; further lines of a text are indented as the first."""
    indent = "\n" + " " * 11
    lines = [f"{name:10} {indent.join(text.split(chr(10)))}" for name, text in entries]
    return "\n".join(line.rstrip() for line in lines)
