"""Convolutions that become what they are: products, sums of shifted images, dense ones.

Why faster: a 1x1 convolution is a product of [B * H * W, C] with the kernel, whose
gradients XLA on CPU computes several times faster as products than as convolutions; for
those of each channel by itself see `layers.depthwise`, for those in groups `layers.grouped`,
for the others `layers.dense_convolution`.

Fields, parameter names, shapes and initial values are those of `flax.linen.Conv`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
from jax import lax

from layers.dense import flat_dot_general
from layers.dense_convolution import dense_conv, is_large_dense
from layers.depthwise import depthwise_conv, is_large_depthwise
from layers.grouped import grouped_conv, is_large_grouped

# He's: torch initialises its ResNets so, by the outputs that an input reaches, where
# `nn.initializers.he_normal` counts the inputs of an output.
he_normal_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def product_conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    *,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: Any = None,
    **kwargs: Any,
) -> jax.Array:
    """`jax.lax.conv_general_dilated`; a kernel of one pixel becomes a flat product, other
    convolutions what the files named above make of them on a CPU.

    Args:
        lhs: [B, *spatial, C], channels last.
        rhs: [*window, C / groups, features].
        window_strides: per spatial dimension; the others as in `jax.lax`.

    Returns:
        [B, *spatial out, features].
    """
    spatial = rhs.shape[:-2]
    unpadded = isinstance(padding, str) or not any(map(any, padding))
    undilated = lhs_dilation is None or all(d == 1 for d in lhs_dilation)
    one_pixel = all(size == 1 for size in spatial)
    if one_pixel and unpadded and undilated and feature_group_count == 1 and not kwargs:
        # With one pixel 'SAME' pads nothing, and a stride only leaves pixels out.
        if any(stride > 1 for stride in window_strides):
            lhs = lhs[(slice(None), *(slice(None, None, s) for s in window_strides))]
        return flat_dot_general(
            lhs,
            rhs.reshape(rhs.shape[-2:]),
            (((lhs.ndim - 1,), (0,)), ((), ())),
            precision=precision,
        )
    undilated &= rhs_dilation is None or all(d == 1 for d in rhs_dilation)
    plain = undilated and precision is None and not kwargs
    strides = tuple(window_strides)
    if plain and is_large_depthwise(lhs, rhs, feature_group_count):
        return depthwise_conv(lhs, rhs, strides, padding)
    if plain and is_large_grouped(lhs, rhs, feature_group_count):
        return grouped_conv(lhs, rhs, strides, padding, feature_group_count)
    if plain and is_large_dense(lhs, rhs, feature_group_count):
        return dense_conv(lhs, rhs, strides, padding)
    return lax.conv_general_dilated(
        lhs,
        rhs,
        window_strides,
        padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        feature_group_count=feature_group_count,
        precision=precision,
        **kwargs,
    )


class Conv(nn.Conv):
    """`flax.linen.Conv`; 1x1 convolutions are flat products.

    [B, *spatial, C] -> [B, *spatial out, features], channels last. `padding` is 'SAME'
    (TensorFlow's: uneven where the stride asks for it), 'VALID', one integer for every
    side, or a (low, high) pair per spatial dimension.

    Parameters: `kernel` [*window, C / groups, features], `bias` [features].
    """

    conv_general_dilated: Callable[..., jax.Array] | None = product_conv_general_dilated
