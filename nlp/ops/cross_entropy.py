"""Cross-entropy between logits over a vocabulary and token ids, with label smoothing.

Label smoothing: C. Szegedy, V. Vanhoucke, S. Ioffe, J. Shlens, Z. Wojna, "Rethinking the
Inception Architecture for Computer Vision", 2015, https://arxiv.org/abs/1512.00567.

Deviation: nothing is spread on the padding token, which is never a target.
"""

import jax
import jax.numpy as jnp


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """-log softmax(logits)[label].

    Args:
        logits: float [..., V]; computed in float32.
        labels: int32 [...], in [0, V).

    Returns:
        float32 [...], in nats.
    """
    logits = logits.astype(jnp.float32)
    # A comparison instead of indexing: no scatter in the gradient, and a vocabulary
    # that is split over devices stays where it is.
    own = jnp.where(_is(labels[..., None], logits), logits, 0).sum(-1)
    return jax.nn.logsumexp(logits, axis=-1) - own


def smoothed_cross_entropy(
    logits: jax.Array, labels: jax.Array, smoothing: float, pad_id: int
) -> jax.Array:
    """Cross-entropy with (1 - smoothing) on the label and the rest spread evenly over all
    tokens but padding, the label among them.

    Args:
        logits: float [..., V]; computed in float32.
        labels: int32 [...], in [0, V), not `pad_id`.
        smoothing: in [0, 1).
        pad_id: the token that gets nothing.

    Returns:
        float32 [...], in nats.
    """
    logits = logits.astype(jnp.float32)
    others = jnp.where(_is(pad_id, logits), 0, logits).sum(-1) / (logits.shape[-1] - 1)
    uniform = jax.nn.logsumexp(logits, axis=-1) - others
    return (1 - smoothing) * cross_entropy(logits, labels) + smoothing * uniform


def _is(tokens: jax.Array | int, logits: jax.Array) -> jax.Array:
    """bool [..., V]: True at a token's own place."""
    return jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1) == tokens
