"""Depthwise convolution, for which a CPU needs no convolution.

Each channel has a window of its own, so that the sum over the window is a sum of as many
products of the shifted image with a vector of channels, which XLA on CPU makes one pass of.
What it has for convolutions with as many groups as channels takes five times as long and
more. On other devices this is `jax.lax.conv_general_dilated`.

Dimensions: B batch, H x W image, h x w result, C channels.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

Padding = tuple[tuple[int, int], tuple[int, int]]
# Below this many products compiling takes longer than it saves.
_WORTH_IT = 2**18
# Sums over windows up to this size are written out; over larger ones they are loops over
# rows, which compile sooner.
_WRITTEN_OUT = 9


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
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(
            image.shape[1:3], kernel.shape[:2], strides, padding
        )
    (top, bottom), (left, right) = padding
    pads = (int(top), int(bottom)), (int(left), int(right))
    return _depthwise(image, kernel, tuple(map(int, strides)), pads)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _depthwise(image, kernel, strides, padding):
    return lax.platform_dependent(
        image,
        kernel,
        cpu=functools.partial(_shifted, strides=strides, padding=padding),
        default=functools.partial(_convolved, strides=strides, padding=padding),
    )


def _forward(image, kernel, strides, padding):
    return _depthwise(image, kernel, strides, padding), (image, kernel)


def _backward(strides, padding, residuals, gradient):
    options = {"strides": strides, "padding": padding}
    return lax.platform_dependent(
        *residuals,
        gradient,
        cpu=functools.partial(_shifted_gradients, **options),
        default=functools.partial(_convolved_gradients, **options),
    )


_depthwise.defvjp(_forward, _backward)


def _convolved(
    image: jax.Array, kernel: jax.Array, *, strides: tuple[int, int], padding: Padding
) -> jax.Array:
    return lax.conv_general_dilated(
        image,
        kernel,
        strides,
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=image.shape[-1],
    )


def _convolved_gradients(
    image: jax.Array, kernel: jax.Array, gradient: jax.Array, **options
) -> tuple[jax.Array, jax.Array]:
    """A convolution is linear in both."""
    of_image = jax.linear_transpose(lambda x: _convolved(x, kernel, **options), image)
    of_kernel = jax.linear_transpose(lambda x: _convolved(image, x, **options), kernel)
    return (*of_image(gradient), *of_kernel(gradient))


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
    padded = _padded(image, padding)
    down, right = strides
    height, width, channels = gradient.shape[1:]

    def of_row(row: jax.Array) -> jax.Array:
        """float32 [kw, C], of images [B, h, W, C] at one row of the window."""
        shifts = _shifts(row, kernel.shape[1], right, width)
        sums = [(_wide(x) * gradient).reshape(-1, channels).sum(0) for x in shifts]
        return jnp.stack(sums)

    rows = lax.map(
        lambda i: of_row(_rows_from(padded, i, down, height)),
        jnp.arange(kernel.shape[0]),
    )
    of_kernel = rows[:, :, None].astype(kernel.dtype)
    return of_image.astype(image.dtype), of_kernel


def _correlated(
    padded: jax.Array, kernel: jax.Array, strides: tuple[int, int]
) -> jax.Array:
    """Sums over a window [kh, kw, C] wherever it fits: float32 [B, h, w, C]."""
    (down, right), (rows, columns) = strides, kernel.shape[:2]
    height = (padded.shape[1] - rows) // down + 1
    width = (padded.shape[2] - columns) // right + 1

    def of_row(row: jax.Array, weights: jax.Array) -> jax.Array:
        shifts = _shifts(row, columns, right, width)
        return sum(_wide(x) * weights[j] for j, x in enumerate(shifts))

    if rows * columns <= _WRITTEN_OUT:
        return sum(
            of_row(_rows_from(padded, i, down, height), kernel[i]) for i in range(rows)
        )

    def add(i, total):
        return total + of_row(_rows_from(padded, i, down, height), kernel[i])

    shape = (padded.shape[0], height, width, padded.shape[3])
    return lax.fori_loop(0, rows, add, jnp.zeros(shape, _wide(padded).dtype))


def _rows_from(padded: jax.Array, first: int, stride: int, height: int) -> jax.Array:
    """[B, h, W, C]: every `stride`-th row from `first` on."""
    span = (height - 1) * stride + 1
    return lax.dynamic_slice_in_dim(padded, first, span, 1)[:, ::stride]


def _shifts(row: jax.Array, columns: int, stride: int, width: int) -> list[jax.Array]:
    """[B, h, w, C] for each column of the window."""
    span = (width - 1) * stride + 1
    return [row[:, :, j : j + span : stride] for j in range(columns)]


def _padded(image: jax.Array, padding: Padding) -> jax.Array:
    """The image with its border, made once and not again in every sum that reads it."""
    (top, bottom), (left, right) = padding
    widths = ((0, 0, 0), (top, bottom, 0), (left, right, 0), (0, 0, 0))
    return lax.optimization_barrier(lax.pad(image, jnp.zeros((), image.dtype), widths))


def _wide(x: jax.Array) -> jax.Array:
    """At least float32."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
