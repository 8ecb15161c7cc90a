"""Grouped convolution, as a CPU does it best: dense convolutions of some groups each.

What XLA on CPU has for the gradients of convolutions in groups takes a hundred times as
long as a dense convolution. So several groups become one dense convolution whose kernel is
zero between different groups: more products, but all of them fast ones. On other devices
this is `jax.lax.conv_general_dilated`.

Dimensions: B batch, H x W image, h x w result, G groups, c and d channels of a group.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

Padding = tuple[tuple[int, int], tuple[int, int]]
# Below this many products compiling takes longer than it saves.
_WORTH_IT = 2**18
# Channels of one dense convolution: fewer do not keep a core busy, more are mostly zeros. No
# more than so many convolutions: each takes its time to compile.
_CHANNELS, _CONVOLUTIONS = 64, 8


def is_large_grouped(lhs: jax.Array, rhs: jax.Array, groups: int) -> bool:
    """Whether images [B, H, W, G * c] meet a kernel [kh, kw, c, G * d] in several groups,
    and often enough for `grouped_conv` to be worth its compilation."""
    if lhs.ndim != 4 or groups == 1:
        return False
    return lhs.size * rhs.shape[0] * rhs.shape[1] * rhs.shape[3] >= _WORTH_IT * groups


def grouped_conv(
    image: jax.Array,
    kernel: jax.Array,
    strides: tuple[int, int],
    padding: str | Padding,
    groups: int,
) -> jax.Array:
    """A convolution of each group of channels by itself.

    Has a gradient, but no derivative in forward mode.

    Args:
        image: [B, H, W, G * c].
        kernel: [kh, kw, c, G * d].
        strides: down and right.
        padding: 'SAME', 'VALID' or (low, high) of both.
        groups: G.

    Returns:
        [B, h, w, G * d].
    """
    pads = explicit_padding(image, kernel, strides, padding)
    return _grouped(image, kernel, tuple(map(int, strides)), pads, groups)


def explicit_padding(
    image: jax.Array,
    kernel: jax.Array,
    strides: tuple[int, int],
    padding: str | Padding,
) -> Padding:
    """(low, high) of height and width, for 'SAME' and 'VALID' too."""
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(
            image.shape[1:3], kernel.shape[:2], strides, padding
        )
    (top, bottom), (left, right) = padding
    return (int(top), int(bottom)), (int(left), int(right))


def convolved(
    image: jax.Array,
    kernel: jax.Array,
    strides: tuple[int, int],
    padding: str | Padding,
    groups: int,
) -> jax.Array:
    """XLA's own convolution; arguments as for `grouped_conv`."""
    return lax.conv_general_dilated(
        image,
        kernel,
        strides,
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def gradients_of(convolution: Callable) -> Callable:
    """(image, kernel, the result's gradient) -> theirs; a convolution is linear in both."""

    def gradients(image, kernel, gradient):
        of_image = jax.linear_transpose(lambda x: convolution(x, kernel), image)
        of_kernel = jax.linear_transpose(lambda x: convolution(image, x), kernel)
        return (*of_image(gradient), *of_kernel(gradient))

    return gradients


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _grouped(image, kernel, strides, padding, groups):
    options = {"strides": strides, "padding": padding, "groups": groups}
    return lax.platform_dependent(
        image,
        kernel,
        cpu=functools.partial(_dense, **options),
        default=functools.partial(convolved, **options),
    )


def _forward(image, kernel, strides, padding, groups):
    return _grouped(image, kernel, strides, padding, groups), (image, kernel)


def _backward(strides, padding, groups, residuals, gradient):
    options = {"strides": strides, "padding": padding, "groups": groups}
    return lax.platform_dependent(
        *residuals,
        gradient,
        cpu=gradients_of(functools.partial(_dense, **options)),
        default=gradients_of(functools.partial(convolved, **options)),
    )


_grouped.defvjp(_forward, _backward)


def _dense(
    image: jax.Array,
    kernel: jax.Array,
    *,
    strides: tuple[int, int],
    padding: Padding,
    groups: int,
) -> jax.Array:
    """The same by dense convolutions of `joined` groups."""
    joined = _joined(groups, kernel.shape[2])
    own = jnp.eye(joined, dtype=bool)[:, None, :, None]

    def together(image: jax.Array, kernel: jax.Array) -> jax.Array:
        split = kernel.reshape(*kernel.shape[:3], joined, -1)
        # [kh, kw, joined, c, joined, d]: from each group to each, zero but for its own.
        full = jnp.where(own, split[:, :, None], 0)
        full = full.reshape(*kernel.shape[:2], image.shape[-1], kernel.shape[-1])
        return convolved(image, full, strides=strides, padding=padding, groups=1)

    count = groups // joined
    parts = zip(*(jnp.split(x, count, axis=-1) for x in (image, kernel)), strict=True)
    return jnp.concatenate([together(*part) for part in parts], axis=-1)


def _joined(groups: int, channels: int) -> int:
    """How many groups make one dense convolution: enough for `_CHANNELS`, or for no more
    than `_CONVOLUTIONS` of them."""
    enough = max(1, _CHANNELS // channels, -(-groups // _CONVOLUTIONS))
    return next(
        n for n in range(1, groups + 1) if groups % n == 0 and n >= min(enough, groups)
    )
