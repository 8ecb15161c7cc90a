"""Dense layers whose product is one flat matrix product.

Why faster: the kernel gradient of a product over [B, T, D] contracts two dimensions, for
which XLA on CPU first writes a transposed copy of the cotangent; over [B * T, D] it need
not. Accelerators compute the same either way.

Fields, parameter names, shapes and initial values are those of `flax.linen`.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from jax import lax


def flat_dot_general(
    lhs: jax.Array,
    rhs: jax.Array,
    dimension_numbers: Any,
    precision: Any = None,
    preferred_element_type: Any = None,
    **kwargs: Any,
) -> jax.Array:
    """`jax.lax.dot_general`, computed as one product of two matrices.

    Args:
        lhs: any shape; free dimensions are flattened together.
        rhs: any shape; likewise.
        dimension_numbers: ((lhs contracting, rhs contracting), (lhs batch, rhs batch));
            with batch dimensions the call is passed on as it is.
        precision: as in `jax.lax.dot_general`, like the remaining arguments.
        preferred_element_type: dtype of the result.

    Returns:
        lhs's free dimensions, then rhs's.
    """
    (lhs_contract, rhs_contract), (lhs_batch, rhs_batch) = dimension_numbers
    options = {
        "precision": precision,
        "preferred_element_type": preferred_element_type,
        **kwargs,
    }
    if lhs_batch or rhs_batch:
        return lax.dot_general(lhs, rhs, dimension_numbers, **options)
    lhs_free = [i for i in range(lhs.ndim) if i not in lhs_contract]
    rhs_free = [i for i in range(rhs.ndim) if i not in rhs_contract]
    free_shape = [lhs.shape[i] for i in lhs_free] + [rhs.shape[i] for i in rhs_free]
    inner = math.prod(lhs.shape[i] for i in lhs_contract)
    outer = math.prod(rhs.shape[i] for i in rhs_free)
    rows = math.prod(lhs.shape[i] for i in lhs_free)
    # Both transpositions are of the identity in every layer below.
    lhs = lhs.transpose(*lhs_free, *lhs_contract).reshape(rows, inner)
    rhs = rhs.transpose(*rhs_contract, *rhs_free).reshape(inner, outer)
    product = lax.dot_general(lhs, rhs, (((1,), (0,)), ((), ())), **options)
    return product.reshape(free_shape)


class Dense(nn.Dense):
    """`flax.linen.Dense` by a flat product: [..., D] -> [..., features].

    Parameters: `kernel` [D, features], `bias` [features].
    """

    dot_general: Callable[..., jax.Array] | None = flat_dot_general


class DenseGeneral(nn.DenseGeneral):
    """`flax.linen.DenseGeneral` by a flat product.

    Parameters: `kernel` [*contracted, *features], `bias` [*features].
    """

    dot_general: Callable[..., jax.Array] | None = flat_dot_general
