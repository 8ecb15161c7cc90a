"""Normalisation with statistics in float32, whatever the dtype of the computation.

Parameters `scale`, `bias` [C] and BatchNorm's collection `batch_stats` {`mean`, `var`} [C]
are named and shaped as in `flax.linen`.

Papers: S. Ioffe, C. Szegedy, "Batch Normalization", 2015, https://arxiv.org/abs/1502.03167;
J. Ba, J. Kiros, G. Hinton, "Layer Normalization", 2016, https://arxiv.org/abs/1607.06450;
Y. Wu, K. He, "Group Normalization", 2018, https://arxiv.org/abs/1803.08494;
B. Zhang, R. Sennrich, "Root Mean Square Layer Normalization", 2019,
https://arxiv.org/abs/1910.07467.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

Initializer = nn.initializers.Initializer


def batch_norm(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    mask: jax.Array | None = None,
    epsilon: float = 1e-5,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Normalises every channel by its mean and variance over all other dimensions.

    Why faster: differentiating the statistics gives many reductions that each recompute
    what was fused into them; the closed form is two sums and one elementwise pass, over
    a cotangent that is computed once. Reverse-mode differentiation only.

    Args:
        x: [..., C].
        scale, bias: [C].
        mask: bool, over x's leading dimensions ([B] for examples); False rows do not count
            in the statistics, but are normalised by them.
        epsilon: added to the variance.

    Returns:
        y: [..., C], in x's dtype.
        mean, variance: [C], float32 or wider; the variance is the biased one. Zeros if no
            row counts.
        count: [], the number of values in each statistic.

    Raises:
        ValueError: the mask's shape is not that of x's leading dimensions.
    """
    rows = x.reshape(-1, x.shape[-1])
    weight = None if mask is None else _row_weights(mask, x)
    scale, bias = (p.astype(_wide(x.dtype)) for p in (scale, bias))
    y, mean, variance, count = _batch_norm(rows, scale, bias, weight, epsilon)
    return y.reshape(x.shape), mean, variance, count


def _row_weights(mask: jax.Array, x: jax.Array) -> jax.Array:
    """1 or 0 for every row of x flattened to [rows, C]: [rows, 1]."""
    if mask.ndim == x.ndim and mask.shape[-1] == 1:
        mask = mask[..., 0]  # Linen asks for masks that broadcast to x
    leading = x.shape[: mask.ndim]
    if mask.ndim >= x.ndim or any(
        m not in (1, n) for m, n in zip(mask.shape, leading, strict=True)
    ):
        raise ValueError(
            f"mask of shape {mask.shape} does not fit the leading dimensions of an "
            f"input of shape {x.shape}; give one value per example"
        )
    mask = mask.reshape(*mask.shape, *([1] * (x.ndim - 1 - mask.ndim)))
    weight = jnp.broadcast_to(mask, x.shape[:-1]).reshape(-1, 1)
    return weight.astype(_wide(x.dtype))


def _wide(dtype: Any) -> Any:
    return jnp.promote_types(dtype, jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _batch_norm(x, scale, bias, weight, epsilon):
    return _batch_norm_forward(x, scale, bias, weight, epsilon)[0]


def _batch_norm_forward(x, scale, bias, weight, epsilon):
    """x: [rows, C]; weight: [rows, 1] or None."""
    wide = x.astype(_wide(x.dtype))
    if weight is None:
        count = jnp.asarray(x.shape[0], wide.dtype)
        counted = wide
    else:
        count = weight.sum()
        counted = wide * weight
    at_least_one = jnp.maximum(count, 1)
    mean = counted.sum(0) / at_least_one
    square = (counted * wide).sum(0) / at_least_one
    variance = jnp.maximum(square - mean * mean, 0)  # rounding may go below zero
    inverse = lax.rsqrt(variance + epsilon)
    # As one product and sum, for `wide - mean` would be written out for the gradient.
    y = wide * (inverse * scale) + (bias - mean * inverse * scale)
    residuals = (x, scale, weight, mean, inverse, at_least_one)
    return (y.astype(x.dtype), mean, variance, count), residuals


def _batch_norm_backward(epsilon, residuals, cotangents):
    del epsilon
    x, scale, weight, mean, inverse, count = residuals
    dy, dmean, dvariance, _ = cotangents
    # Without the barrier each sum below may compute both anew.
    dy, x = lax.optimization_barrier((dy, x))
    dy, wide = dy.astype(mean.dtype), x.astype(mean.dtype)
    dbias = dy.sum(0)
    projection = (dy * wide).sum(0) - mean * dbias
    # What the statistics pass on to each row that counts: shift + slope * centered.
    shift = (dmean - scale * inverse * dbias) / count
    slope = (2 * dvariance - scale * inverse**3 * projection) / count
    through_statistics = shift + slope * (wide - mean)
    if weight is not None:
        through_statistics *= weight
    dx = scale * inverse * dy + through_statistics
    dweight = None if weight is None else jnp.zeros_like(weight)
    return dx.astype(x.dtype), projection * inverse, dbias, dweight


_batch_norm.defvjp(_batch_norm_forward, _batch_norm_backward)


class BatchNorm(nn.Module):
    """Batch normalisation over all dimensions but the last.

    Under jit over a mesh the statistics are those of the whole batch, whatever its
    sharding. Initialisation leaves the running statistics at 0 and 1; a batch in which no
    row counts leaves them unchanged.

    Args:
        use_running_average: normalise by the running statistics and leave them alone;
            here or in the call.
        momentum: weight of the old running statistics.
        epsilon: added to the variance.
        unbiased_running_variance: store n / (n - 1) times the variance, as torch does;
            the batch itself is normalised by the biased one either way.
        dtype: of the result; None for that of input and parameters together.
        param_dtype: of the parameters; running statistics are float32 or wider.
    """

    use_running_average: bool | None = None
    momentum: float = 0.9
    epsilon: float = 1e-5
    use_scale: bool = True
    use_bias: bool = True
    scale_init: Initializer = nn.initializers.ones
    bias_init: Initializer = nn.initializers.zeros
    unbiased_running_variance: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        use_running_average: bool | None = None,
        *,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """x [..., C] normalised per channel; `mask` as in `batch_norm`."""
        use_running_average = nn.merge_param(
            "use_running_average", self.use_running_average, use_running_average
        )
        channels = (x.shape[-1],)
        stats_dtype = _wide(self.param_dtype)
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels, stats_dtype)
        var = self.variable("batch_stats", "var", jnp.ones, channels, stats_dtype)
        scale, bias = _scale_and_bias(self, channels)
        dtype = nn.dtypes.canonicalize_dtype(x, scale, bias, dtype=self.dtype)
        x = x.astype(jnp.promote_types(x.dtype, dtype))
        scale = jnp.ones(channels, stats_dtype) if scale is None else scale
        bias = jnp.zeros(channels, stats_dtype) if bias is None else bias
        if use_running_average:
            multiplier = lax.rsqrt(var.value + self.epsilon) * scale
            y = (x.astype(_wide(x.dtype)) - mean.value) * multiplier + bias
            return y.astype(dtype)
        y, batch_mean, batch_var, count = batch_norm(x, scale, bias, mask, self.epsilon)
        if not self.is_initializing():
            if self.unbiased_running_variance:
                batch_var = batch_var * (count / jnp.maximum(count - 1, 1))
            share = jnp.where(count > 0, 1 - self.momentum, 0)
            for stored, new in ((mean, batch_mean), (var, batch_var)):
                updated = stored.value + share * (new - stored.value)
                stored.value = updated.astype(stats_dtype)
        return y.astype(dtype)


def layer_norm(
    x: jax.Array, scale: jax.Array | None, bias: jax.Array | None, epsilon: float
) -> jax.Array:
    """Normalises over the last dimension.

    Why faster: the closed form keeps the input and two numbers a position, where autodiff
    keeps and reads float32 copies of it. Reverse-mode differentiation only.

    Args:
        x: [..., D].
        scale, bias: [D], or None for ones and zeros.
        epsilon: added to the variance.

    Returns:
        [..., D], float32 or wider.
    """
    return _layer_norm(x, scale, bias, epsilon)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _layer_norm(x, scale, bias, epsilon):
    return _layer_norm_forward(x, scale, bias, epsilon)[0]


def _layer_norm_forward(x, scale, bias, epsilon):
    wide = x.astype(_wide(x.dtype))
    mean = wide.mean(-1, keepdims=True)
    centered = wide - mean
    inverse = lax.rsqrt(jnp.square(centered).mean(-1, keepdims=True) + epsilon)
    y = _affine(centered * inverse, scale, bias)
    return y, (x, scale, bias, mean, inverse)


def _layer_norm_backward(epsilon, residuals, dy):
    del epsilon
    x, scale, bias, mean, inverse = residuals
    normalized = (x.astype(mean.dtype) - mean) * inverse
    rows = tuple(range(x.ndim - 1))
    dscale = None if scale is None else (dy * normalized).sum(rows).astype(scale.dtype)
    dbias = None if bias is None else dy.sum(rows).astype(bias.dtype)
    dy = _affine(dy, scale, None)
    along = (dy * normalized).mean(-1, keepdims=True)
    dx = inverse * (dy - dy.mean(-1, keepdims=True) - normalized * along)
    return dx.astype(x.dtype), dscale, dbias


_layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


class LayerNorm(nn.Module):
    """Normalises each position over its last dimension.

    Args:
        epsilon: added to the variance.
        dtype: of the result; None for that of input and parameters together.
    """

    epsilon: float = 1e-6
    use_scale: bool = True
    use_bias: bool = True
    scale_init: Initializer = nn.initializers.ones
    bias_init: Initializer = nn.initializers.zeros
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [..., D] -> [..., D]."""
        scale, bias = _scale_and_bias(self, (x.shape[-1],))
        dtype = nn.dtypes.canonicalize_dtype(x, scale, bias, dtype=self.dtype)
        return layer_norm(x, scale, bias, self.epsilon).astype(dtype)


class RMSNorm(nn.Module):
    """Divides each position by the root mean square of its last dimension.

    Args:
        epsilon: added to the mean square.
        dtype: of the result; None for that of input and parameters together.
    """

    epsilon: float = 1e-6
    use_scale: bool = True
    scale_init: Initializer = nn.initializers.ones
    dtype: Any = None
    param_dtype: Any = jnp.float32

    use_bias = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [..., D] -> [..., D]."""
        scale, _ = _scale_and_bias(self, (x.shape[-1],))
        dtype = nn.dtypes.canonicalize_dtype(x, scale, dtype=self.dtype)
        wide = x.astype(_wide(x.dtype))
        y = wide * lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + self.epsilon)
        return _affine(y, scale, None).astype(dtype)


class GroupNorm(nn.Module):
    """Normalises each example over its positions and a group of its channels.

    Args:
        num_groups: C must be a multiple of it.
        epsilon: added to the variance.
        dtype: of the result; None for that of input and parameters together.
    """

    num_groups: int = 32
    epsilon: float = 1e-6
    use_scale: bool = True
    use_bias: bool = True
    scale_init: Initializer = nn.initializers.ones
    bias_init: Initializer = nn.initializers.zeros
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [B, ..., C] -> [B, ..., C].

        Raises:
            ValueError: C is not a multiple of `num_groups`.
        """
        channels = x.shape[-1]
        if channels % self.num_groups:
            raise ValueError(
                f"{channels} channels do not divide into num_groups={self.num_groups}"
            )
        scale, bias = _scale_and_bias(self, (channels,))
        dtype = nn.dtypes.canonicalize_dtype(x, scale, bias, dtype=self.dtype)
        groups = x.reshape(x.shape[0], -1, self.num_groups, channels // self.num_groups)
        wide = groups.astype(_wide(x.dtype))
        centered = wide - wide.mean((1, 3), keepdims=True)
        variance = jnp.square(centered).mean((1, 3), keepdims=True)
        y = centered * lax.rsqrt(variance + self.epsilon)
        return _affine(y.reshape(x.shape), scale, bias).astype(dtype)


def _scale_and_bias(
    module: nn.Module, shape: tuple[int, ...]
) -> tuple[jax.Array | None, jax.Array | None]:
    """The module's parameters, or None where it has none."""
    scale = bias = None
    if module.use_scale:
        scale = module.param("scale", module.scale_init, shape, module.param_dtype)
    if module.use_bias:
        bias = module.param("bias", module.bias_init, shape, module.param_dtype)
    return scale, bias


def _affine(y: jax.Array, scale: jax.Array | None, bias: jax.Array | None) -> jax.Array:
    if scale is not None:
        y = y * scale
    return y if bias is None else y + bias
