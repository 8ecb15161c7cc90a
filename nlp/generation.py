"""Text from a trained model: what completions and translations share.

A `Writer` joins a run's task, its parameters and how its data framed texts; `nlp.completion`
and `nlp.translation` have the two kinds. Whatever a person must mend is a `PromptError` of
one line.
"""

import dataclasses
import inspect
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

from nlp.beam_search import beam_search
from nlp.decoding import Forced, Rules, Sampling, begin, sample
from nlp.streaming import TokenStream
from nlp.tasks.text_task import find_field

# Rows of one program; lengths are rounded up to multiples, so that few are compiled.
ROWS, MULTIPLE = 32, 16


class PromptError(ValueError):
    """One line: what is wrong with a prompt, or with the model for this purpose."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Beam:
    """Beam search; see `nlp.beam_search`.

    Args:
        size: hypotheses kept.
        length_penalty: alpha.
        results: best sequences of each prompt.

    Raises:
        ValueError: sizes that do not go together.
    """

    size: int = 4
    length_penalty: float = 0.6
    results: int = 1

    def __post_init__(self):
        if not 1 <= self.results <= self.size:
            raise ValueError(
                f"a beam of {self.size} cannot give {self.results} results; it must be at "
                "least 1, and as wide as there are results"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Framing:
    """What a run's data puts around texts.

    Args:
        add_bos: documents begin with `bos_id`.
        prefix: before every source text, 'translate English to German: ' say.
        source_tokenizer, target_tokenizer: of a pair of texts; None for the task's.
    """

    add_bos: bool = False
    prefix: str = ""
    source_tokenizer: Any = None
    target_tokenizer: Any = None


def framing_node(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config node of a run's `Framing`, read off the nodes of its training data."""
    node: dict[str, Any] = {"type": f"{__name__}.Framing"}
    for part in _nodes(config.get("data", {})):
        if part.get("add_bos"):
            node["add_bos"] = True
        if part.get("type") == "nlp.transforms.Translation":
            own = part.get("tokenizer")
            node["prefix"] = part.get("prefix", "")
            node["source_tokenizer"] = own
            node["target_tokenizer"] = part.get("target_tokenizer") or own
    return node


def _nodes(tree: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(tree, Mapping):
        yield tree
        tree = tree.values()
    elif not isinstance(tree, list | tuple):
        return
    for part in tree:
        yield from _nodes(part)


def reads_source(task: Any) -> bool:
    """Whether a task's model is a sequence-to-sequence model, or else a language model.

    Raises:
        PromptError: it is neither.
    """
    model = type(task.model)
    if not hasattr(model, "begin"):
        raise PromptError(
            f"{model.__name__} writes no text; generation needs a language model or a "
            "sequence-to-sequence model"
        )
    return "source" in inspect.signature(model.begin).parameters


class Writer:
    """A model that writes text.

    Args:
        task: holds the model and its `tokenizer`.
        variables: {'params': ..., other collections}.
        framing: what the run's data put around texts; None for nothing.

    Attributes:
        tokenizer: of what is written.
        max_length: the model's context; None if it has no bound.

    Raises:
        PromptError: there is no tokenizer, or model, parameters and tokenizer do not fit
            each other.
    """

    def __init__(self, task: Any, variables: Any, framing: Framing | None = None):
        self._model, self._variables = task.model, variables
        self._framing = framing or Framing()
        self._name = type(self._model).__name__
        own = getattr(task, "tokenizer", None)
        self._reads = self._framing.source_tokenizer or own
        self.tokenizer = self._framing.target_tokenizer or own
        if self.tokenizer is None or self._reads is None:
            raise PromptError(
                f"the task of {self._name} names no tokenizer; set task.tokenizer"
            )
        self.max_length = find_field(self._model, "max_length")
        self._check_vocabulary()
        self._check_parameters(2 if reads_source(task) else 1)
        self._stream = TokenStream(self._model, variables)
        self._batch = jax.jit(
            self._decode, static_argnames=("rules", "way", "cache_length")
        )

    def _check_vocabulary(self) -> None:
        known = find_field(self._model, "vocab_size")
        for tokenizer in (self.tokenizer, self._reads):
            if known is not None and tokenizer.vocab_size > known:
                raise PromptError(
                    f"the tokenizer has {tokenizer.vocab_size} tokens and {self._name} "
                    f"{known}: it is not the one that the model was trained with"
                )

    def _check_parameters(self, num_inputs: int) -> None:
        inputs = [jnp.zeros((1, 1), jnp.int32)] * num_inputs

        def trace(variables):
            return begin(self._model, variables, *inputs, cache_length=1)[0]

        try:
            jax.eval_shape(trace, self._variables)
        except flax.errors.FlaxError as error:
            line = str(error).splitlines()[0]
            raise PromptError(
                f"the checkpoint does not fit {self._name}: {line}"
            ) from error

    def rules(self, max_tokens: int) -> Rules:
        """By which no special token is written but the end, and none that is unknown."""
        known = find_field(self._model, "vocab_size")
        return Rules.of_text(self.tokenizer, max_tokens, vocab_size=known)

    def run(
        self,
        inputs: Sequence[np.ndarray],
        way: Sampling | Beam,
        *,
        max_tokens: int,
        rng: jax.Array,
        forced: Forced | None = None,
    ) -> np.ndarray:
        """Writes a batch in one program, filled up to a round number of rows.

        Args:
            inputs: prompt int32 [B, P], or source int32 [B, S] and prompt.
            way: how tokens are chosen.
            max_tokens: L, most tokens of a row.
            rng: PRNG key.
            forced: what rows still read of their prompts.

        Returns:
            int32 [B, R, L], with R = 1 but for a beam of several results.
        """
        B = len(inputs[0])
        fill = np.arange(min(1 << (B - 1).bit_length(), max(B, ROWS))) % B
        if forced is None:
            forced = Forced(np.zeros((B, 0), np.int32), np.zeros(B, np.int32))
        tokens = self._batch(
            self._variables,
            [x[fill] for x in inputs],
            jax.tree.map(lambda x: x[fill], forced),
            rng,
            rules=self.rules(max_tokens),
            way=way,
            # The last token is not read.
            cache_length=inputs[-1].shape[1] + forced.tokens.shape[1] + max_tokens - 1,
        )
        return np.asarray(tokens)[:B]

    def _decode(self, variables, inputs, forced, rng, *, rules, way, cache_length):
        logits, step, state = begin(
            self._model, variables, *inputs, cache_length=cache_length
        )
        if isinstance(way, Sampling):
            found = sample(step, logits, state, rules, way, rng=rng, forced=forced)
            return found.tokens[:, None]
        return beam_search(
            step,
            logits,
            state,
            rules,
            beam_size=way.size,
            length_penalty=way.length_penalty,
            num_sequences=way.results,
            forced=forced,
        ).tokens


def check_max_tokens(max_tokens: int | None) -> None:
    """Raises PromptError unless it is None or positive."""
    if max_tokens is not None and max_tokens < 1:
        raise PromptError(f"max_tokens={max_tokens} must be at least 1")


def encoded(tokenizer: Any, text: str, name: str) -> list[int]:
    """The ids of a text. Raises PromptError, with its name, if it is no valid text."""
    try:
        return list(tokenizer.encode(text))
    except ValueError as error:
        raise PromptError(f"{name}: {str(error).splitlines()[0]}") from error


def unknown(tokenizer: Any, text: str, most: int = 8) -> str:
    """The characters a tokenizer does not know, for a message; empty if it knows all."""
    found = tokenizer.unknown(text)
    shown = ", ".join(map(repr, itertools.islice(found, most)))
    return shown + (f" and {len(found) - most} more" if len(found) > most else "")
