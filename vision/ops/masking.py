"""Random orders of tokens, and how to go through them and back."""

import jax
import jax.numpy as jnp


def shuffling(noise: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The order that sorts the noise, and the order that undoes it.

    Args:
        noise: float [B, T].

    Returns:
        (order, restore), int32 [B, T]: x[order][restore] is x.
    """
    order = jnp.argsort(noise, axis=1)
    return order, jnp.argsort(order, axis=1)


@jax.custom_vjp
def permute(x: jax.Array, order: jax.Array, restore: jax.Array) -> jax.Array:
    """Row t of the result is row order[t]: [B, T, D] -> [B, T, D].

    Why not by indexing alone: its gradient would be a scatter, row after row on CPU;
    that of a permutation is another permutation.

    Args:
        x: [B, T, D].
        order, restore: int32 [B, T], the inverse of each other, from `shuffling`.
    """
    del restore
    return _take(x, order)


def _take(x: jax.Array, order: jax.Array) -> jax.Array:
    return jnp.take_along_axis(x, order[..., None], axis=1, mode="promise_in_bounds")


def _permute_forward(x, order, restore):
    return _take(x, order), restore


def _permute_backward(restore, cotangent):
    return _take(cotangent, restore), None, None


permute.defvjp(_permute_forward, _permute_backward)


def num_kept(length: int, mask_ratio: float) -> int:
    """How many of `length` tokens stay visible: int(length * (1 - mask_ratio)).

    Raises:
        ValueError: none or all of them.
    """
    kept = int(length * (1 - mask_ratio))
    if not (0 < mask_ratio < 1 and 0 < kept < length):
        raise ValueError(
            f"mask_ratio {mask_ratio} of {length} patches leaves {kept} visible; choose "
            "one between 0 and 1 that hides some and leaves some"
        )
    return kept
