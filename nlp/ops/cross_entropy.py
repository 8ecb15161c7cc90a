"""Cross-entropy between logits over a vocabulary and token ids, with label smoothing.

Label smoothing: C. Szegedy, V. Vanhoucke, S. Ioffe, J. Shlens, Z. Wojna, "Rethinking the
Inception Architecture for Computer Vision", 2015, https://arxiv.org/abs/1512.00567.

Deviation: nothing is spread on the padding token, which is never a target.
"""

import functools

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
    logits: jax.Array, labels: jax.Array, smoothing: jax.Array | float, pad_id: int
) -> jax.Array:
    """Cross-entropy with (1 - smoothing) on the label and the rest spread evenly over all
    tokens but padding, the label among them.

    Args:
        logits: float [..., V]; computed in float32.
        labels: int32 [...], in [0, V), not `pad_id`.
        smoothing: in [0, 1); float32 [] or of a shape that broadcasts to the labels'. A
            constant: it has no gradient.
        pad_id: the token that gets nothing.

    Returns:
        float32 [...], in nats.
    """
    return _smoothed(logits, labels, jnp.asarray(smoothing, jnp.float32), pad_id)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _smoothed(logits, labels, smoothing, pad_id):
    return _smoothed_forward(logits, labels, smoothing, pad_id)[0]


def _smoothed_forward(logits, labels, smoothing, pad_id):
    wide = logits.astype(jnp.float32)
    total = jax.nn.logsumexp(wide, axis=-1)
    own = jnp.where(_is(labels[..., None], wide), wide, 0).sum(-1)
    others = jnp.where(_is(pad_id, wide), 0, wide).sum(-1) / (wide.shape[-1] - 1)
    loss = (1 - smoothing) * (total - own) + smoothing * (total - others)
    return loss, (logits, labels, smoothing, total)


def _smoothed_backward(pad_id, residuals, cotangent):
    """softmax minus the target, in one pass over the logits; autodiff takes several."""
    logits, labels, smoothing, total = residuals
    wide = logits.astype(jnp.float32)
    smoothing = jnp.broadcast_to(smoothing, labels.shape)[..., None]
    spread = jnp.where(_is(pad_id, wide), 0, smoothing / (wide.shape[-1] - 1))
    target = spread + jnp.where(_is(labels[..., None], wide), 1 - smoothing, 0)
    gradient = (jnp.exp(wide - total[..., None]) - target) * cotangent[..., None]
    return gradient.astype(logits.dtype), None, None


_smoothed.defvjp(_smoothed_forward, _smoothed_backward)


def _is(tokens: jax.Array | int, logits: jax.Array) -> jax.Array:
    """bool [..., V]: True at a token's own place."""
    return jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1) == tokens
