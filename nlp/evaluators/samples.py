"""Samples of what a model writes while it learns: completions, and translations."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from nlp import visualize
from nlp.decoding import Forced, Rules, Sampling, begin, sample, split_prompts
from nlp.evaluators.generation import (
    as_lines,
    call,
    check_positive,
    raw_text,
    show,
    tokenizer_of,
    written,
)
from training.errors import RunError, first_line
from training.evaluation import Report


@dataclasses.dataclass(frozen=True, kw_only=True)
class Samples:
    """An evaluator, see `training.evaluation`: a language model completes prompts.

    No metrics; text and picture `samples`. The same parameters and seed give the same
    samples, whatever the devices.

    Args:
        prompts: one or more texts.
        tokenizer: None takes the task's.
        bos: begin every prompt with the tokenizer's `bos_id`, as in training; an empty
            prompt begins with it in any case.
        samples: completions of each prompt.
        max_length: most tokens written after a prompt; fewer if the model has not so many
            positions for the longest prompt and them.
        temperature, top_k, top_p: of `nlp.decoding.Sampling`.
        seed: of the draws.
    """

    prompts: Sequence[str]
    tokenizer: Any = None
    bos: bool = False
    samples: int = 1
    max_length: int = 200
    temperature: float = 0.8
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    def __post_init__(self):
        if not self.prompts or isinstance(self.prompts, str):
            raise ValueError(f"prompts is {self.prompts!r}; give a list of texts")
        check_positive(samples=self.samples, max_length=self.max_length)
        self._sampling()

    def _sampling(self) -> Sampling:
        return Sampling(
            temperature=self.temperature, top_k=self.top_k, top_p=self.top_p
        )

    def __call__(self, run: Any, state: Any) -> Report:
        """Raises RunError for prompts that the tokenizer or the model cannot take."""
        tokenizer = tokenizer_of(run, self.tokenizer)
        prompts = [self._ids(tokenizer, text) for text in self.prompts]
        prompts = [ids for ids in prompts for _ in range(self.samples)]
        model = run.experiment.task.model
        length = self._room(model, max(len(ids) for ids in prompts))
        settings = dict(
            rules=Rules.of_text(
                tokenizer, length, vocab_size=getattr(model, "vocab_size", None)
            ),
            sampling=self._sampling(),
            seed=self.seed,
        )
        function = functools.partial(complete, **settings)
        step = run.compile(function, key=("complete", *settings.values()))
        batch = _placed(run, prompts, settings["rules"].pad_id)
        tokens = jax.device_get(call(step, state, batch))[: len(prompts)]
        entries = []
        for i, (ids, new) in enumerate(zip(prompts, tokens, strict=True)):
            if i % self.samples == 0:
                entries.append(("prompt", tokenizer.decode(ids)))
            entries.append(("text", tokenizer.decode([*ids, *new.tolist()])))
            if (i + 1) % self.samples == 0:
                entries.append(("", ""))
        return Report(
            {},
            {"samples": visualize.page(entries)},
            texts={"samples": as_lines(entries)},
        )

    def _room(self, model: Any, prompt_length: int) -> int:
        """Most tokens to write. The last is never read, and needs no position."""
        positions = getattr(model, "max_length", None)
        if positions is None:
            return self.max_length
        if prompt_length > positions:
            raise RunError(
                f"a prompt of {prompt_length} tokens for a model with max_length="
                f"{positions}; shorten it"
            )
        return min(self.max_length, positions - prompt_length + 1)

    def _ids(self, tokenizer: Any, text: str) -> list[int]:
        try:
            ids = list(tokenizer.encode(text))
        except ValueError as error:
            raise RunError(f"prompt {text!r}: {first_line(error)}") from error
        return [tokenizer.bos_id, *ids] if self.bos or not ids else ids


def complete(
    state: Any, batch: Any, *, task: Any, rules: Rules, sampling: Sampling, seed: int
) -> jax.Array:
    """What a language model writes after prompts: int32 [B, max_length].

    Args:
        state: its `TrainState`; the moving average counts where there is one.
        batch: `prompt` int32 [B, P], `rest` int32 [B, F], `rest_length` int32 [B]; see
            `nlp.decoding.split_prompts`.
        task: that of the run.
        rules, sampling: of `nlp.decoding`.
        seed: of the draws.
    """
    forced = Forced(batch["rest"], batch["rest_length"])
    read = batch["prompt"].shape[1] + batch["rest"].shape[1]
    logits, step, cache = begin(
        task.model,
        {"params": state.eval_params, **state.collections},
        batch["prompt"],
        cache_length=read + rules.max_length - 1,  # the last is not read
    )
    rng = jax.random.key(seed)
    return sample(step, logits, cache, rules, sampling, rng=rng, forced=forced).tokens


def _placed(run: Any, prompts: Sequence[Sequence[int]], pad_id: int) -> Any:
    """The prompts as a global batch, its rows filled up by repetition."""
    count = -(-len(prompts) // run.layout.batch_divisor) * run.layout.batch_divisor
    rows = [prompts[i % len(prompts)] for i in range(count)]
    prompt, forced = split_prompts(rows, pad_id)
    index, hosts = run.layout.host_shard(count)
    own = slice(index * count // hosts, (index + 1) * count // hosts)
    batch = {"prompt": prompt, "rest": forced.tokens, "rest_length": forced.lengths}
    return run.layout.put({k: np.ascontiguousarray(v[own]) for k, v in batch.items()})


@dataclasses.dataclass(frozen=True, kw_only=True)
class TranslationSamples:
    """An evaluator, see `training.evaluation`: source, reference and hypothesis of the
    first sentences of a split.

    No metrics; text and picture `translations`, as those of
    `nlp.evaluators.translation.Translation`, without the wait for a whole split.

    Args:
        data, source_field, reference_field, tokenizer, beam, length_penalty, max_length:
            as there.
        count: sentences.
    """

    data: Any
    source_field: str
    reference_field: str
    tokenizer: Any = None
    beam: int = 1
    length_penalty: float = 0.0
    max_length: int = 100
    count: int = 8

    def __post_init__(self):
        check_positive(beam=self.beam, max_length=self.max_length, count=self.count)

    def __call__(self, run: Any, state: Any) -> Report:
        """Raises RunError for data or a model that cannot be translated with."""
        found, skipped = written(
            run,
            state,
            self.data,
            tokenizer_of(run, self.tokenizer),
            batch_size=self.count,
            beam_size=self.beam,
            length_penalty=self.length_penalty,
            max_length=self.max_length,
            limit=self.count,
        )
        source = self.data.source
        entries = show(
            [raw_text(source, i, self.source_field) for i in found],
            [raw_text(source, i, self.reference_field) for i in found],
            list(found.values()),
        )
        return Report(
            {},
            {"translations": visualize.page(entries)},
            skipped,
            {"translations": as_lines(entries)},
        )
