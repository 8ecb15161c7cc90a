"""Replaced token detection: a small generator fills hidden places, and a discriminator says
of every token whether it was put in.

Paper: K. Clark, M.-T. Luong, Q. V. Le, C. D. Manning, "ELECTRA: Pre-training Text Encoders
as Discriminators Rather Than Generators", 2020, https://arxiv.org/abs/2003.10555.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from nlp.ops.cross_entropy import cross_entropy
from nlp.tasks.masked_language_modeling import HiddenTokens
from nlp.tasks.text_task import cleared, counted_tokens, token_metrics
from training.metrics import Mean, Sum
from training.task import Batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplacedTokenDetection(HiddenTokens):
    """The generator's cross-entropy at hidden tokens plus the discriminator's at all tokens.

    The model draws the replacements between its two halves, by one uniform number per
    place: replacement = the first token at which the generator's cumulative probability
    exceeds it. Those numbers come with the batch, from the step's rng in training and from
    the row's own tokens in evaluation, so that the model needs no random stream, and an
    evaluation is the same every time. No gradient passes through the draw.

    Args:
        model: a Linen module from (tokens int32 [B, T], masked int32 [B, T], selected bool
            [B, T], uniform float32 [B, T] in [0, 1), types int32 [B, T] or None, valid bool
            [B, T]) to a struct with
                `generator_logits`, float [B, T, V]: for `masked`;
                `corrupted`, int32 [B, T]: `tokens`, and where `selected` a draw from the
                    generator;
                `logits`, float [B, T]: the discriminator's for `corrupted`, positive where
                    it takes a token for a replaced one.
            Its `represent` takes (tokens, types or None, valid).
        generator_weight, discriminator_weight: of the two losses.
        The others: as in `HiddenTokens`. As in the paper, every selected token becomes the
            mask.
    """

    mask_share: float = 1.0
    random_share: float = 0.0
    generator_weight: float = 1.0
    discriminator_weight: float = 50.0

    def inputs(self, batch: Batch) -> tuple:
        masked, types, valid = super().inputs(batch)
        tokens = batch[self.tokens_key]
        return tokens, masked, batch["selected"], batch["uniform"], types, valid

    def loss(self, outputs: Any, batch: Batch) -> tuple[jax.Array, dict[str, Mean]]:
        """The weighted sum; metrics `loss` (the sum), the generator's `generator_loss`,
        `generator_accuracy` and `perplexity`, the discriminator's `discriminator_loss` and
        `accuracy` over all tokens, and `recall`: the share of replaced tokens it found."""
        logits, labels, hidden = self._predictions(outputs.generator_logits, batch)
        losses = cross_entropy(logits, labels)
        generator = token_metrics(losses, logits, labels, hidden)
        tokens = batch[self.tokens_key]
        counted = counted_tokens(tokens != self.pad_id, batch)
        # A draw that hits the truth is no replacement.
        replaced = outputs.corrupted != tokens
        score = cleared(outputs.logits[..., None], counted)[..., 0]
        wrong = jax.nn.softplus(jnp.where(replaced, -score, score))
        discriminator = Mean.of(wrong, counted)
        weights = (self.discriminator_weight, self.generator_weight)
        loss = Sum((discriminator, generator["loss"]), weights)
        right = (score > 0) == replaced
        metrics = {
            "loss": loss,
            "generator_loss": generator["loss"],
            "generator_accuracy": generator["accuracy"],
            "perplexity": generator["perplexity"],
            "discriminator_loss": discriminator,
            "accuracy": Mean.of(right, counted),
            "recall": Mean.of(right, counted & replaced),
        }
        return loss.compute(), metrics
