"""Dense convolution whose kernel's gradient, on a CPU, reads the image as it lies in memory.

XLA on CPU computes that gradient from a transposed copy of the image, and fuses into the
copy whatever the image was made by (`layers.memory`): in a ResNet all normalisations and
sums of the blocks before, element by element in the order that suits memory least. A copy
of what has been computed takes a few hundredths of that time. Value and gradients are
XLA's, bit for bit.

Dimensions: B batch, H x W image, h x w result, C channels.
"""

import functools

import jax
from jax import lax

from layers.grouped import Padding, convolved, explicit_padding, gradients_of
from layers.memory import held, is_large


def is_large_dense(lhs: jax.Array, rhs: jax.Array, groups: int) -> bool:
    """Whether images [B, H, W, C] meet a kernel [kh, kw, C, features], and are large enough
    for `dense_conv` to be worth its compilation."""
    return lhs.ndim == 4 and groups == 1 and is_large(lhs)


def dense_conv(
    image: jax.Array,
    kernel: jax.Array,
    strides: tuple[int, int],
    padding: str | Padding,
) -> jax.Array:
    """A convolution of all channels with all.

    Has a gradient, but no derivative in forward mode.

    Args:
        image: [B, H, W, C].
        kernel: [kh, kw, C, features].
        strides: down and right.
        padding: 'SAME', 'VALID' or (low, high) of both.

    Returns:
        [B, h, w, features].
    """
    pads = explicit_padding(image, kernel, strides, padding)
    return _dense(image, kernel, tuple(map(int, strides)), pads)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _dense(image, kernel, strides, padding):
    return convolved(image, kernel, strides, padding, groups=1)


def _forward(image, kernel, strides, padding):
    return _dense(image, kernel, strides, padding), (image, kernel)


def _backward(strides, padding, residuals, gradient):
    options = {"strides": strides, "padding": padding, "groups": 1}
    gradients = gradients_of(functools.partial(convolved, **options))

    def of_image_in_memory(image, kernel, gradient):
        return gradients(held(image, kernel[(0,) * kernel.ndim]), kernel, gradient)

    return lax.platform_dependent(
        *residuals, gradient, cpu=of_image_in_memory, default=gradients
    )


_dense.defvjp(_forward, _backward)
