"""Local response normalisation: each value over a sum of its neighbouring channels' squares.

Paper: A. Krizhevsky, I. Sutskever, G. Hinton, "ImageNet Classification with Deep
Convolutional Neural Networks", 2012, section 3.3,
https://papers.nips.cc/paper/2012/hash/c399862d3b9d6b76c8436e924a68c45b-Abstract.html.
"""

import jax
import jax.numpy as jnp


def local_response_norm(
    x: jax.Array,
    *,
    size: int = 5,
    offset: float = 2.0,
    scale: float = 1e-4,
    power: float = 0.75,
    groups: int = 1,
) -> jax.Array:
    """x / (offset + scale * sum of the squares of the nearest `size` channels) ** power.

    The defaults are the paper's k, n, alpha and beta. Caffe and torch divide their alpha
    by the window's size: theirs is `size` times `scale`.

    Args:
        x: float [..., C].
        size: channels in the window, odd, the value's own in the middle; beyond the
            first and the last there is nothing.
        offset: k.
        scale: alpha.
        power: beta.
        groups: equal parts of C that do not see each other.

    Returns:
        [..., C], computed in float32 or wider, in x's dtype.

    Raises:
        ValueError: `size` is even, or C is not a multiple of `groups`.
    """
    channels = x.shape[-1]
    if size % 2 == 0:
        raise ValueError(f"size of the window is {size}; give an odd number")
    if channels % groups:
        raise ValueError(f"{channels} channels do not divide into groups={groups}")
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    wide = wide.reshape(*x.shape[:-1], groups, channels // groups)
    half, width = size // 2, wide.shape[-1]
    squares = jnp.pad(jnp.square(wide), [(0, 0)] * (wide.ndim - 1) + [(half, half)])
    total = sum(squares[..., i : i + width] for i in range(size))
    return (wide * (offset + scale * total) ** -power).reshape(x.shape).astype(x.dtype)
