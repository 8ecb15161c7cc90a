"""Masked language modelling: which tokens are hidden here? And, as an option: does the
second part follow the first?

Papers: J. Devlin, M.-W. Chang, K. Lee, K. Toutanova, "BERT: Pre-training of Deep
Bidirectional Transformers for Language Understanding", 2018,
https://arxiv.org/abs/1810.04805; masks drawn anew each epoch and no second question: Y. Liu
et al., "RoBERTa: A Robustly Optimized BERT Pretraining Approach", 2019,
https://arxiv.org/abs/1907.11692.

Deviations: unknown tokens are not hidden either, and no special token is put in by chance.

Each row has a fixed number of predictions, round(share * its tokens), and not a random one,
because then the loss gathers a seventh of the positions before it takes a softmax over the
vocabulary (and, with `gather`, the model before it multiplies by the vocabulary).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nlp.ops import masking
from nlp.ops.cross_entropy import cross_entropy
from nlp.ops.ordering import compact
from nlp.ops.row_keys import uniform_table
from nlp.tasks.text_task import (
    TextTask,
    cleared,
    counted_tokens,
    find_field,
    token_metrics,
)
from training.metrics import Mean, Sum, accuracy
from training.task import Batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class HiddenTokens(TextTask):
    """Hides tokens of each row; what is made of them is a subclass's business.

    A batch holds `tokens`, int32 [B, T], and perhaps `types`, int32 [B, T]. A prepared one
    also has `masked`, int32 [B, T], what the model sees, `selected`, bool [B, T], and
    `positions`, int32 [B, P], where the selected tokens are, which `predicted`, bool [B, P],
    tells from what fills up, and `uniform`, float32 [B, T], numbers in [0, 1) that had no
    part in it. Training masks come from the step's rng;
    evaluation masks from a row's own tokens, so that they are the same in every evaluation,
    whatever the batch size, the padding and the devices.

    Args:
        select_share: of a row's ordinary tokens; rounded, at least one.
        mask_share, random_share: of the selected; become the mask, and a random token. The
            rest stays as it is.
        whole_words: hide words as a whole. Needs a tokenizer with `word_starts`, bool
            [vocab_size]: True for tokens that begin a word.
        mask_id: the mask token.
        special_ids: tokens that are never selected and never put in by chance.
        model, tokenizer, pad_id, tokens_key: as in `TextTask`; the model's, or else the
            tokenizer's, `vocab_size` bounds the random tokens.
    """

    select_share: float = 0.15
    mask_share: float = 0.8
    random_share: float = 0.1
    whole_words: bool = False
    mask_id: int = 4
    special_ids: tuple[int, ...] = (0, 1, 2, 3, 4)

    def __post_init__(self):
        if not 0 < self.select_share < 1:
            raise ValueError(
                f"select_share is {self.select_share}; it must lie between 0 and 1, both "
                "excluded"
            )
        shares = (self.mask_share, self.random_share)
        if min(shares) < 0 or sum(shares) > 1:
            raise ValueError(
                f"mask_share and random_share are {shares[0]} and {shares[1]}; they must "
                "not be negative, nor more than 1 together"
            )
        if self.whole_words and getattr(self.tokenizer, "word_starts", None) is None:
            raise ValueError(
                f"whole_words needs a tokenizer with word_starts, not "
                f"{type(self.tokenizer).__name__}; set task.tokenizer"
            )

    def check(self, batch: Batch) -> None:
        """Raises a one-line ValueError for rows that cannot be trained on."""
        super().check(batch)
        if "types" in batch:
            self._check_rows(batch, "types", np.shape(batch[self.tokens_key]))
        if self._vocab_size() is None:
            raise ValueError(
                "neither model nor tokenizer has a vocab_size; give it one"
            )
        if not 0 <= self.mask_id < self._vocab_size():
            raise ValueError(
                f"mask_id {self.mask_id} is outside [0, {self._vocab_size()}); set "
                "task.mask_id to the tokenizer's"
            )
        found = getattr(self.tokenizer, "mask_id", self.mask_id)
        if found != self.mask_id:
            raise ValueError(
                f"mask_id is {self.mask_id} for the task and {found} for the tokenizer; "
                f"set task.mask_id={found}"
            )

    def prepare(self, batch: Batch, *, rng: jax.Array, train: bool) -> Batch:
        """Adds `masked`, `selected`, `positions`, `predicted` and `uniform`."""
        tokens = batch[self.tokens_key]
        length = tokens.shape[1]
        keys = self.row_keys(tokens, rng, train)
        draws = jax.vmap(lambda key: uniform_table(key, length, 4))(keys)
        masked, selected = jax.vmap(self._hide)(draws, tokens)
        capacity = min(int(self.select_share * length) + 1, length)
        place = jnp.arange(length, dtype=jnp.int32)
        positions = jax.vmap(lambda keep: compact(place, keep, capacity, 0))(selected)
        predicted = jnp.arange(capacity) < selected.sum(1, keepdims=True)
        return {
            **batch,
            "masked": masked,
            "selected": selected,
            "positions": positions,
            "predicted": predicted,
            "uniform": draws[..., 3],
        }

    def inputs(self, batch: Batch) -> tuple:
        return self._encoder_inputs(batch["masked"], batch)

    def plain_inputs(self, batch: Batch) -> tuple:
        return self._encoder_inputs(batch[self.tokens_key], batch)

    def _hide(self, draws: jax.Array, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        """A row's numbers [T, 4] and tokens [T] -> (masked [T], selected [T])."""
        choice, action, token, _ = draws.T
        special = (*self.special_ids, self.pad_id, self.mask_id)
        eligible = ~jnp.isin(tokens, jnp.asarray(special))
        count = masking.share_of(eligible.sum(), self.select_share)
        if self.whole_words:
            starts = jnp.asarray(np.asarray(self.tokenizer.word_starts, bool))[tokens]
            selected = masking.random_words(choice, eligible, starts, count)
        else:
            selected = masking.random_tokens(choice, eligible, count)
        masked = masking.corrupt(
            action,
            token,
            tokens,
            selected,
            mask_id=self.mask_id,
            special_ids=special,
            vocab_size=self._vocab_size(),
            mask_share=self.mask_share,
            random_share=self.random_share,
        )
        return masked, selected

    def _vocab_size(self) -> int | None:
        """How many tokens there are to put in: a model's vocabulary may be padded."""
        size = getattr(self.tokenizer, "vocab_size", None)
        return find_field(self.model, "vocab_size") if size is None else size

    def _predictions(
        self, logits: jax.Array, batch: Batch
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(logits [B, P, V], labels [B, P], counted [B, P]) at the hidden places, of logits
        at all places, or at those alone."""
        positions = batch["positions"]
        counted = counted_tokens(batch["predicted"], batch)
        if logits.shape[1] != positions.shape[1]:
            logits = jnp.take_along_axis(logits, positions[..., None], axis=1)
        labels = jnp.take_along_axis(batch[self.tokens_key], positions, axis=1)
        return cleared(logits, counted), jnp.where(counted, labels, 0), counted


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedLanguageModeling(HiddenTokens):
    """Cross-entropy of hidden tokens; with `is_next` in the batch, plus that of a yes or no.

    `is_next`, int or bool [B], says whether the second part of a row followed the first in
    its text; `types` then tells the parts apart. It is class 0 of the model's two, as in
    the published weights.

    Args:
        model: a Linen module from (tokens [B, T], types or None, valid bool [B, T]) to a
            struct with `logits`, float [B, T, V], and, for `is_next`, `next_logits`, float
            [B, 2].
        gather: call the model with a fourth argument, `positions`, int32 [B, P], for
            `logits` [B, P, V] at those places only.
        The others: as in `HiddenTokens`.
    """

    gather: bool = False

    def check(self, batch: Batch) -> None:
        """Raises a one-line ValueError also for `is_next` that is no yes or no."""
        super().check(batch)
        if "is_next" not in batch:
            return
        self._check_rows(batch, "is_next", np.shape(batch[self.tokens_key])[:1])
        wrong = np.setdiff1d(np.asarray(batch["is_next"]), (0, 1))
        if wrong.size:
            raise ValueError(f"is_next holds {wrong[0]}; use 0 for no and 1 for yes")

    def inputs(self, batch: Batch) -> tuple:
        inputs = super().inputs(batch)
        return (*inputs, batch["positions"]) if self.gather else inputs

    def loss(self, outputs: Any, batch: Batch) -> tuple[jax.Array, dict[str, Mean]]:
        """Mean cross-entropy per hidden token in nats, plus that of `is_next` per row;
        metrics `loss` (the sum), `accuracy`, `perplexity` of tokens, and with `is_next`
        `token_loss`, `next_loss` and `next_accuracy`.

        Raises:
            ValueError: the batch asks what the model does not answer.
        """
        logits, labels, counted = self._predictions(outputs.logits, batch)
        losses = cross_entropy(logits, labels)
        metrics = token_metrics(losses, logits, labels, counted)
        if "is_next" in batch:
            if outputs.next_logits is None:
                raise ValueError(
                    "the batch has is_next and the model no next_logits; set "
                    "model.next_sentence, or leave is_next out of the data's keys"
                )
            label = 1 - batch["is_next"].astype(jnp.int32)
            real = counted_tokens(jnp.ones((len(label), 1), bool), batch)[:, 0]
            next_logits = cleared(outputs.next_logits, real)
            next_loss = Mean.of(cross_entropy(next_logits, label), real)
            metrics |= {
                "token_loss": metrics["loss"],
                "loss": Sum((metrics["loss"], next_loss), (1.0, 1.0)),
                "next_loss": next_loss,
                "next_accuracy": accuracy(next_logits, label, real),
            }
        return metrics["loss"].compute(), metrics
