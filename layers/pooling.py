"""Pooling over windows of any number of spatial dimensions, channels last."""

import functools
import itertools
import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

Padding = str | int | Sequence[tuple[int, int]]


def max_pool(
    x: jax.Array,
    window: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: Padding = "VALID",
) -> jax.Array:
    """The largest value in each window; padding never wins.

    Why faster: the gradient that JAX derives searches every window for its largest value
    again, with its index, in a loop that XLA on CPU does not vectorise; here the position
    is a byte that comes of comparing shifted slices, and the gradient is sums of slices.

    Of equal values the first, in row-major order, receives the gradient, as in JAX and
    torch. Reverse-mode differentiation only.

    Args:
        x: [B, *spatial, C].
        window: size per spatial dimension.
        strides: per spatial dimension; None for 1 everywhere, as in Linen.
        padding: 'VALID', 'SAME', one integer, or a (low, high) pair per spatial dimension
            (torch's ceil mode is a larger `high`).

    Returns:
        [B, *spatial out, C].
    """
    window, strides, padding = _canonical(x, window, strides, padding)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return _max_of_windows(x, window, strides, padding)
    return _max_pool(x, window, strides, padding)


def avg_pool(
    x: jax.Array,
    window: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: Padding = "VALID",
    count_include_pad: bool = False,
) -> jax.Array:
    """The mean of each window.

    Args:
        x: [B, *spatial, C].
        window: size per spatial dimension.
        strides: per spatial dimension; None for 1 everywhere, as in Linen.
        padding: as in `max_pool`.
        count_include_pad: divide by the window's size even where it holds padding
            (torchvision's Inception v3), not by the number of real values.

    Returns:
        [B, *spatial out, C].
    """
    window, strides, padding = _canonical(x, window, strides, padding)
    return nn.avg_pool(x, window, strides, padding, count_include_pad=count_include_pad)


def _canonical(
    x: jax.Array,
    window: Sequence[int],
    strides: Sequence[int] | None,
    padding: Padding,
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[tuple[int, int], ...]]:
    """(window, strides, pairs of padding) as tuples of plain integers."""
    spatial = x.shape[1:-1]
    window = tuple(window)
    if len(window) != len(spatial):
        raise ValueError(
            f"window {window} needs an input [B, {len(window)} dimensions, C], "
            f"not one of shape {x.shape}"
        )
    strides = tuple(strides) if strides is not None else (1,) * len(window)
    if isinstance(padding, str):
        pairs = lax.padtype_to_pads(spatial, window, strides, padding)
    elif isinstance(padding, int):
        pairs = [(padding, padding)] * len(window)
    else:
        pairs = padding
    return window, strides, tuple((int(low), int(high)) for low, high in pairs)


def _max_of_windows(x, window, strides, padding):
    """The largest value of each window, by XLA's own reduction."""
    return nn.max_pool(x, window, strides, padding)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _max_pool(x, window, strides, padding):
    return _max_of_windows(x, window, strides, padding)


def _max_pool_forward(x, window, strides, padding):
    """The result, and the position of each window's first maximum, as a byte."""
    phases, sizes = _split_phases(x, window, strides, padding)
    largest = position = None
    for k, offset in enumerate(_offsets(window)):
        candidate = _slice(phases, offset, strides, sizes)
        if largest is None:
            largest = candidate
            position = jnp.zeros(candidate.shape, _position_dtype(window))
        else:
            position = jnp.where(candidate > largest, position.dtype.type(k), position)
            largest = jnp.maximum(largest, candidate)
    return largest, (position, x.shape)


def _max_pool_backward(window, strides, padding, residuals, cotangent):
    """Each phase of the input sums the windows in which one of its pixels was first."""
    position, shape = residuals
    sizes = cotangent.shape[1:-1]
    lengths = _phase_lengths(window, strides, sizes)
    # Windows beyond the edges, of no gradient, so that all sums are of slices.
    reach = [length - size for length, size in zip(lengths, sizes, strict=True)]
    borders = [(0, 0, 0), *((n, n, 0) for n in reach), (0, 0, 0)]
    zero = jnp.zeros((), cotangent.dtype)
    padded = [lax.pad(x, x.dtype.type(0), borders) for x in (position, cotangent)]
    position, cotangent = lax.optimization_barrier(padded)
    phases = {}
    for k, offset in enumerate(_offsets(window)):
        index = [slice(None)]
        for o, s, n, length in zip(offset, strides, reach, lengths, strict=True):
            index.append(slice(n - o // s, n - o // s + length))
        here = tuple(index)
        chosen = jnp.where(position[here] == k, cotangent[here], zero)
        phase = tuple(o % s for o, s in zip(offset, strides, strict=True))
        phases[phase] = phases[phase] + chosen if phase in phases else chosen
    whole = _join_phases(phases, strides)
    # Cut off the padding; pixels that no window reaches get zero.
    edges = [
        (-low, low + size - length * stride, 0)
        for (low, _), size, length, stride in zip(
            padding, shape[1:-1], lengths, strides, strict=True
        )
    ]
    return (lax.pad(whole, zero, [(0, 0, 0), *edges, (0, 0, 0)]),)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def _offsets(window):
    """Positions within a window, in row-major order."""
    return itertools.product(*map(range, window))


def _position_dtype(window):
    return jnp.uint8 if math.prod(window) <= 256 else jnp.int32


def _phase_lengths(window, strides, sizes):
    """Pixels per phase and dimension: what `sizes` windows reach, in whole strides."""
    return [
        size + (w - 1) // s for w, s, size in zip(window, strides, sizes, strict=True)
    ]


def _split_phases(x, window, strides, padding):
    """x padded with -inf as [B, length, stride, length, stride, ..., C], and sizes out."""
    spatial = x.shape[1:-1]
    sizes = [
        (n + low + high - w) // s + 1
        for n, (low, high), w, s in zip(spatial, padding, window, strides, strict=True)
    ]
    lengths = _phase_lengths(window, strides, sizes)
    pads = [
        (low, length * s - low - n, 0)
        for n, (low, _), length, s in zip(
            spatial, padding, lengths, strides, strict=True
        )
    ]
    lowest = jnp.asarray(-jnp.inf, x.dtype)
    x = lax.pad(x, lowest, [(0, 0, 0), *pads, (0, 0, 0)])
    split = itertools.chain(*zip(lengths, strides, strict=True))
    return x.reshape(x.shape[0], *split, x.shape[-1]), sizes


def _slice(phases, offset, strides, sizes):
    """The pixel at `offset` of every window: [B, *sizes, C]."""
    index = [slice(None)]
    for o, s, size in zip(offset, strides, sizes, strict=True):
        index += [slice(o // s, o // s + size), o % s]
    return phases[tuple(index)]


def _join_phases(phases, strides):
    """Interleaves {phase: [B, *lengths, C]} to [B, *(length * stride), C]."""
    some = next(iter(phases.values()))
    absent = jnp.zeros_like(some)
    for axis in reversed(range(len(strides))):
        prefixes = {phase[:axis] for phase in itertools.product(*map(range, strides))}
        stacked = {}
        for prefix in prefixes:
            parts = [phases.get((*prefix, i), absent) for i in range(strides[axis])]
            stacked[prefix] = jnp.stack(parts, axis + 2)
        shape = list(absent.shape)
        shape[axis + 1] *= strides[axis]
        phases = {prefix: part.reshape(shape) for prefix, part in stacked.items()}
        absent = jnp.zeros(shape, absent.dtype)
    return phases[()]
