"""Depthwise convolution, for which a CPU needs no convolution.

Each channel has a window of its own, so that the sum over the window is a sum of as many
products of the shifted image with a vector of channels, which XLA on CPU makes one pass of.
What it has for convolutions with as many groups as channels takes five times as long and
more. On other devices this is `jax.lax.conv_general_dilated`.

Dimensions: B batch, H x W image, h x w result, C channels.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
from jax import lax

from layers.grouped import Padding, convolved, explicit_padding, gradients_of

# Below this many products compiling takes longer than it saves.
_WORTH_IT = 2**18
# A sum over a window of at most so many pixels is one expression. XLA makes an expression
# again wherever its result is read, so that larger ones are made in a loop, at most so many
# rows at a time; beyond the largest that is vectorised, a sum is split in two.
_ONE_EXPRESSION = 9
_ROWS_AT_A_TIME = 8
_LARGEST = 81
# For the gradient of the kernel: rows at a time, and parts of a row.
_ROWS, _PARTS = 2, 4


def is_large_depthwise(lhs: jax.Array, rhs: jax.Array, groups: int) -> bool:
    """Whether images [B, H, W, C] meet a kernel [kh, kw, 1, C] channel by channel, and
    often enough for `depthwise_conv` to be worth its compilation."""
    if lhs.ndim != 4 or not groups == lhs.shape[-1] == rhs.shape[-1] > 1:
        return False
    return lhs.size * rhs.shape[0] * rhs.shape[1] >= _WORTH_IT


def depthwise_conv(
    image: jax.Array,
    kernel: jax.Array,
    strides: tuple[int, int],
    padding: str | Padding,
) -> jax.Array:
    """A convolution of each channel by itself, summed in float32 on a CPU.

    Has a gradient, but no derivative in forward mode.

    Args:
        image: [B, H, W, C].
        kernel: [kh, kw, 1, C].
        strides: down and right.
        padding: 'SAME', 'VALID' or (low, high) of both.

    Returns:
        [B, h, w, C], of the image's dtype.
    """
    pads = explicit_padding(image, kernel, strides, padding)
    return _depthwise(image, kernel, tuple(map(int, strides)), pads)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _depthwise(image, kernel, strides, padding):
    options = {"strides": strides, "padding": padding}
    return lax.platform_dependent(
        image,
        kernel,
        cpu=functools.partial(_shifted, **options),
        default=functools.partial(convolved, groups=image.shape[-1], **options),
    )


def _forward(image, kernel, strides, padding):
    return _depthwise(image, kernel, strides, padding), (image, kernel)


def _backward(strides, padding, residuals, gradient):
    options = {"strides": strides, "padding": padding}
    plain = functools.partial(convolved, groups=gradient.shape[-1], **options)
    return lax.platform_dependent(
        *residuals,
        gradient,
        cpu=functools.partial(_shifted_gradients, **options),
        default=gradients_of(plain),
    )


_depthwise.defvjp(_forward, _backward)


def _shifted(
    image: jax.Array, kernel: jax.Array, *, strides: tuple[int, int], padding: Padding
) -> jax.Array:
    padded = _padded(image, padding)
    return _correlated(padded, kernel[:, :, 0], strides).astype(image.dtype)


def _shifted_gradients(
    image: jax.Array,
    kernel: jax.Array,
    gradient: jax.Array,
    *,
    strides: tuple[int, int],
    padding: Padding,
) -> tuple[jax.Array, jax.Array]:
    """Of the image: the result's gradient, spread out, under the kernel upside down. Of the
    kernel: sums over images and pixels of shifted image times gradient."""
    spread = []
    for axis in (0, 1):
        size, stride, low = kernel.shape[axis], strides[axis], padding[axis][0]
        reach = (gradient.shape[1 + axis] - 1) * stride
        spread.append(
            (size - 1 - low, image.shape[1 + axis] - 1 + low - reach, stride - 1)
        )
    spread = lax.pad(
        gradient, jnp.zeros((), gradient.dtype), ((0, 0, 0), *spread, (0, 0, 0))
    )
    of_image = _correlated(spread, kernel[::-1, ::-1, 0], (1, 1))
    sums = _kernel_sums(_padded(image, padding), gradient, kernel.shape[:2], strides)
    return of_image.astype(image.dtype), sums[:, :, None].astype(kernel.dtype)


def _kernel_sums(
    padded: jax.Array,
    gradient: jax.Array,
    window: tuple[int, int],
    strides: tuple[int, int],
) -> jax.Array:
    """Sums over images and pixels of each shifted image times the gradient [B, h, w, C]:
    float32 [kh, kw, C].

    A few rows at a time, because these and the sums so far stay in the processor's cache. A
    row is cut into `parts` that are added up at once, which leaves fewer sums to keep.
    """
    (rows, columns), (down, right) = window, strides
    batch, height, width, channels = gradient.shape
    tall, parts = _divisor(height, _ROWS), _divisor(width, _PARTS)
    wide = width // parts
    reach = (wide - 1) * right + 1

    def tile(i):
        """The i-th rows of the gradient, and all rows of the image that met them."""
        span = (tall - 1) * down + rows
        return (
            lax.dynamic_slice_in_dim(padded, i * tall * down, span, 1),
            lax.dynamic_slice_in_dim(gradient, i * tall, tall, 1),
        )

    def products(column, image, part_of_gradient):
        for i, part in itertools.product(range(tall), range(parts)):
            low = column + part * wide * right
            pixels = image[:, i * down : i * down + rows, low : low + reach : right]
            pair = part_of_gradient[:, i, None, part * wide : (part + 1) * wide]
            yield _wide(pixels) * pair

    def add(i, state):
        total, *tiles = state
        new = jnp.stack([sum(products(j, *tiles)) for j in range(columns)])
        return total + new, *tile(i + 1)

    shape = (columns, batch, rows, wide, channels)
    start = jnp.zeros(shape, _wide(padded).dtype), *tile(0)
    # The next rows are part of the state, because a slice that is cut out within a sum
    # keeps that from being vectorised.
    total = lax.fori_loop(0, height // tall, add, start)[0]
    return total.sum((1, 3)).transpose(1, 0, 2)


def _correlated(
    padded: jax.Array, kernel: jax.Array, strides: tuple[int, int]
) -> jax.Array:
    """Sums over a window [kh, kw, C] wherever it fits: float32 [B, h, w, C]."""
    (down, right), (rows, columns) = strides, kernel.shape[:2]
    batch, _, _, channels = padded.shape
    height = (padded.shape[1] - rows) // down + 1
    width = (padded.shape[2] - columns) // right + 1
    reach = (width - 1) * right + 1

    def sums(image: jax.Array, tall: int) -> jax.Array:
        span = (tall - 1) * down + 1
        return sum(
            _wide(image[:, i : i + span : down, j : j + reach : right]) * kernel[i, j]
            for i, j in itertools.product(range(rows), range(columns))
        )

    if rows * columns <= _ONE_EXPRESSION:
        return sums(padded, height)
    if rows > 1 and rows * columns > _LARGEST:
        half = rows // 2
        upper = _correlated(padded[:, : half - rows], kernel[:half], strides)
        return upper + _correlated(padded[:, half:], kernel[half:], strides)
    tall = _divisor(height, min(_ROWS_AT_A_TIME, max(1, height - 1)))

    def tile(i):
        span = (tall - 1) * down + rows
        return lax.dynamic_slice_in_dim(padded, i * tall * down, span, 1)

    def fill(i, state):
        result, image = state
        new = sums(image, tall)
        result = lax.dynamic_update_slice_in_dim(result, new, i * tall, 1)
        return result, tile(i + 1)

    start = jnp.zeros((batch, height, width, channels), _wide(padded).dtype), tile(0)
    return lax.fori_loop(0, height // tall, fill, start)[0]


def _divisor(n: int, most: int) -> int:
    """The largest divisor of n up to `most`."""
    return max(d for d in range(1, most + 1) if n % d == 0)


def _padded(image: jax.Array, padding: Padding) -> jax.Array:
    """The image with its border, made once and not again in every sum that reads it."""
    (top, bottom), (left, right) = padding
    widths = ((0, 0, 0), (top, bottom, 0), (left, right, 0), (0, 0, 0))
    return lax.optimization_barrier(lax.pad(image, jnp.zeros((), image.dtype), widths))


def _wide(x: jax.Array) -> jax.Array:
    """At least float32."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
