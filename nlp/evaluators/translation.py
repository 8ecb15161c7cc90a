"""Corpus BLEU and chrF of what an encoder-decoder writes, also by the length of the source.

BLEU: K. Papineni et al., "BLEU: a Method for Automatic Evaluation of Machine Translation",
2002, https://aclanthology.org/P02-1040; as measured by M. Post, "A Call for Clarity in
Reporting BLEU Scores", 2018, https://arxiv.org/abs/1804.08771 (sacrebleu); chrF: M. Popović,
"chrF: character n-gram F-score", 2015, https://aclanthology.org/W15-3049.
"""

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from sacrebleu.metrics import BLEU, CHRF

from nlp import visualize
from nlp.evaluators import length_curves
from nlp.evaluators.generation import (
    as_lines,
    check_positive,
    raw_text,
    show,
    tokenizer_of,
    written,
)
from training.evaluation import Report

_log = logging.getLogger("tessera")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Translation:
    """An evaluator, see `training.evaluation`: translates a split and scores it.

    Texts are cased and detokenised: the reference is the raw field of the source, and the
    hypothesis what the tokenizer decodes. Metrics:

    - `bleu`, `chrf`: of the corpus, 0 to 100.
    - `length_ratio`: sacrebleu's tokens of all hypotheses over those of the references.
    - `empty`: hypotheses without a character.
    - `bleu_len_A-B`, `sentences_len_A-B`: of the sentences whose source has A to B words,
      separated by spaces; a length that does not occur has none.

    Pictures `bleu_by_length` and `translations`; the text `translations` holds the
    signatures, which say all that a BLEU depends on, and examples.

    Args:
        data: a pipeline; example i of its `eval_batches` is `data.source[i]`, which also
            has the raw texts.
        source_field, reference_field: the raw texts in the source, 'en' and 'de' say.
        tokenizer: of the target; `decode(ids) -> str`, `eos_id` and the like; None takes
            the task's.
        batch_size: sentences a step; None takes the training batch size.
        beam: hypotheses kept; 1 is greedy.
        length_penalty: alpha of `nlp.beam_search`.
        max_length: most tokens written, the end included.
        examples: how many sentences are shown.
        lengths: where the groups by length begin, beside 0.
        bleu_tokenize: sacrebleu's tokenizer, '13a' unless the target has no spaces.
    """

    data: Any
    source_field: str
    reference_field: str
    tokenizer: Any = None
    batch_size: int | None = None
    beam: int = 4
    length_penalty: float = 0.6
    max_length: int = 100
    examples: int = 8
    lengths: Sequence[int] = (10, 15, 20, 30)
    bleu_tokenize: str = "13a"

    def __post_init__(self):
        check_positive(
            batch_size=self.batch_size, beam=self.beam, max_length=self.max_length
        )
        if list(self.lengths) != sorted({*self.lengths} - {0}):
            raise ValueError(
                f"lengths is {tuple(self.lengths)}; give growing numbers above 0"
            )

    def __call__(self, run: Any, state: Any) -> Report:
        """Raises RunError for data or a model that cannot be translated with."""
        found, skipped = written(
            run,
            state,
            self.data,
            tokenizer_of(run, self.tokenizer),
            batch_size=self.batch_size,
            beam_size=self.beam,
            length_penalty=self.length_penalty,
            max_length=self.max_length,
        )
        hypotheses = list(found.values())
        sources, references = (
            [raw_text(self.data.source, i, field) for i in found]
            for field in (self.source_field, self.reference_field)
        )
        metrics, summary = self._score(hypotheses, references)
        by_length = self._by_length(sources, hypotheses, references)
        for label, (bleu, count) in by_length.items():
            metrics |= {f"bleu_len_{label}": bleu, f"sentences_len_{label}": count}
        _log.info("%s", "; ".join(summary))
        pictures = {"bleu_by_length": length_curves.draw({"BLEU": by_length})}
        triples = (sources, references, hypotheses)
        shown = show(*(texts[: self.examples] for texts in triples))
        if shown:
            pictures["translations"] = visualize.page(shown)
        return Report(
            metrics,
            pictures,
            skipped,
            {"translations": "\n".join([*summary, "", as_lines(shown)])},
        )

    def _score(
        self, hypotheses: list[str], references: list[str]
    ) -> tuple[dict[str, float], list[str]]:
        """Metrics of the corpus, and lines with their signatures."""
        bleu, chrf = BLEU(tokenize=self.bleu_tokenize), CHRF()
        found = bleu.corpus_score(hypotheses, [references])
        characters = chrf.corpus_score(hypotheses, [references])
        metrics = {
            "bleu": float(found.score),
            "chrf": float(characters.score),
            "length_ratio": found.sys_len / max(1, found.ref_len),
            "empty": sum(not text.strip() for text in hypotheses),
        }
        settings = (
            f"{len(hypotheses)} sentences, beam {self.beam}, length penalty "
            f"{self.length_penalty:g}, at most {self.max_length} tokens"
        )
        return metrics, [
            f"BLEU {found.score:.2f} {bleu.get_signature()}",
            f"chrF {characters.score:.2f} {chrf.get_signature()}",
            settings,
        ]

    def _by_length(
        self, sources: list[str], hypotheses: list[str], references: list[str]
    ) -> dict[str, tuple[float, int]]:
        """'A-B' or 'A+' -> BLEU and number of the sentences of that length, if any."""
        bleu = BLEU(tokenize=self.bleu_tokenize)
        groups = np.searchsorted(
            self.lengths, [len(text.split()) for text in sources], side="right"
        )
        edges, found = [0, *self.lengths], {}
        for i, low in enumerate(edges):
            rows = np.flatnonzero(groups == i)
            if not rows.size:
                continue
            label = f"{low}-{edges[i + 1] - 1}" if i + 1 < len(edges) else f"{low}+"
            score = bleu.corpus_score(
                [hypotheses[r] for r in rows], [[references[r] for r in rows]]
            )
            found[label] = float(score.score), int(rows.size)
        return found
