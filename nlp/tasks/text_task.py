"""What every objective on text shares: where a batch holds tokens, which of them can be
trained on, and how losses are counted by the token."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nlp.ops.row_keys import content_keys
from training.metrics import Mean, Perplexity, accuracy
from training.task import Batch, Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextTask(Task):
    """A batch holds token ids, int32 [B, T], and perhaps a `mask`, bool [B], False for rows
    of padding.

    Args:
        model: a Linen module whose first argument is tokens. Its fields `vocab_size`,
            `max_length` and `pad_id`, or those of a module it holds, are what batches are
            checked against, where it has them.
        tokenizer: what made the tokens: for checks, pictures, samples and generation.
        pad_id: the token that marks padding.
        tokens_key: where a batch holds them.
    """

    tokenizer: Any = None
    pad_id: int = 0
    tokens_key: str = "tokens"

    def check(self, batch: Batch) -> None:
        """Raises a one-line ValueError for tokens that cannot be trained on."""
        self._check_tokenizer()
        self._check_tokens(batch, "tokens_key")

    def inputs(self, batch: Batch) -> tuple:
        return (batch[self.tokens_key],)

    def row_keys(self, tokens: jax.Array, rng: jax.Array, train: bool) -> jax.Array:
        """PRNG keys [B] for what is drawn for each row: new ones every step in training,
        the row's own in evaluation."""
        if train:
            return jax.random.split(rng, len(tokens))
        return content_keys(tokens, self.pad_id)

    def _check_tokenizer(self) -> None:
        model_pad = find_field(self.model, "pad_id")
        for owner, found in (
            ("the model", model_pad),
            ("the tokenizer", getattr(self.tokenizer, "pad_id", None)),
        ):
            if found not in (None, self.pad_id):
                raise ValueError(
                    f"pad_id is {self.pad_id} for the task and {found} for {owner}; "
                    f"set both alike"
                )
        known, size = (
            find_field(x, "vocab_size") for x in (self.model, self.tokenizer)
        )
        if known is not None and size is not None and size > known:
            raise ValueError(
                f"the tokenizer has {size} tokens, the model {known}; set "
                f"model.vocab_size to at least {size}"
            )

    def _check_tokens(self, batch: Batch, field: str, shift: int = 0) -> None:
        """Raises ValueError unless what `field` names are the model's token ids, in rows
        it has positions for.

        Args:
            batch: of numpy arrays.
            field: which of the task's fields names the key.
            shift: how much longer a row is than what the model sees of it.
        """
        self._require(batch, field)
        key = getattr(self, field)
        tokens = np.asarray(batch[key])
        if tokens.ndim != 2 or tokens.dtype.kind not in "iu":
            raise ValueError(
                f"{key} are {tokens.dtype} of shape {tokens.shape}; expected integers "
                "[batch, length]"
            )
        if tokens.shape[1] <= shift:
            raise ValueError(
                f"{key} have shape {tokens.shape}; a row needs at least {shift + 1} tokens"
            )
        longest = find_field(self.model, "max_length")
        if longest is not None and tokens.shape[1] - shift > longest:
            raise ValueError(
                f"{key} of length {tokens.shape[1] - shift} for a model with max_length="
                f"{longest}; cut the rows, or set model.max_length"
            )
        tokens = tokens[real_rows(batch, len(tokens))]
        if not tokens.size:
            return
        if tokens.min() < 0:
            raise ValueError(
                f"token {tokens.min()} in {key!r} is negative; ids count from 0, and "
                f"padding is {self.pad_id}"
            )
        vocab_size = find_field(self.model, "vocab_size")
        if vocab_size is not None and tokens.max() >= vocab_size:
            raise ValueError(
                f"token {tokens.max()} in {key!r} is outside [0, {vocab_size}); set "
                f"model.vocab_size to at least {tokens.max() + 1}"
            )

    def _check_rows(self, batch: Batch, key: str, shape: tuple[int, ...]) -> None:
        """Raises ValueError if what accompanies the tokens has another shape."""
        if np.shape(batch[key]) != shape:
            raise ValueError(
                f"{key} has shape {np.shape(batch[key])}; expected {shape}, like the tokens"
            )

    def _require(self, batch: Batch, field: str) -> None:
        """Raises ValueError if the batch lacks what `field` names."""
        key = getattr(self, field)
        if key not in batch:
            raise ValueError(
                f"the batch has no {key!r}, only {sorted(batch)}; set task.{field}"
            )

    def _encoder_inputs(self, tokens: jax.Array, batch: Batch) -> tuple:
        """(tokens, types or None, valid): what models of the BERT family take."""
        valid = batch[self.tokens_key] != self.pad_id
        return tokens, batch.get("types"), valid


def find_field(module: Any, name: str) -> Any:
    """A field of a module or, if it has none, of the first module held by it; else None."""
    found = getattr(module, name, None)
    if found is not None or not dataclasses.is_dataclass(module):
        return found
    for field in dataclasses.fields(module):
        part = getattr(module, field.name, None)
        if field.name != "parent" and dataclasses.is_dataclass(part):
            found = find_field(part, name)
            if found is not None:
                return found
    return None


def real_rows(batch: Batch, size: int) -> np.ndarray:
    """bool [B], on the host: the rows that are examples."""
    return np.asarray(batch.get("mask", np.ones(size, bool))).astype(bool)


def counted_tokens(counted: jax.Array, batch: Batch) -> jax.Array:
    """bool [B, T]: those of `counted` that lie in real rows."""
    mask = batch.get("mask")
    return counted if mask is None else counted & mask.astype(bool)[:, None]


def cleared(logits: jax.Array, counted: jax.Array) -> jax.Array:
    """float32 [..., V], zero where nothing counts: so the gradient there is exactly zero,
    even of logits that are not finite."""
    return jnp.where(counted[..., None], logits.astype(jnp.float32), 0)


def token_metrics(
    losses: jax.Array, logits: jax.Array, labels: jax.Array, counted: jax.Array
) -> dict[str, Mean]:
    """What every prediction of tokens reports.

    Args:
        losses: float32 [...], in nats.
        logits: float32 [..., V].
        labels: int32 [...].
        counted: bool [...].

    Returns:
        `loss`, `accuracy` and `perplexity`, all per counted token.
    """
    return {
        "loss": Mean.of(losses, counted),
        "accuracy": accuracy(logits, labels, counted),
        "perplexity": Perplexity.of(losses, counted),
    }
