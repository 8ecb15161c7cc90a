"""What lies in memory on a CPU, so that nothing computes it anew.

XLA on CPU fuses into an operation whatever its inputs were made by, also when they are in
memory already for another's sake. Along the shortcuts of a ResNet a block's gradients would
recompute the sums of all blocks before it, and read all of theirs.
"""

import jax
import jax.numpy as jnp
from jax import lax

# Numbers in an array; with fewer there is nothing to gain.
_WORTH_IT = 2**16


def is_large(x: jax.Array) -> bool:
    """Whether x has so many numbers that computing it anew would take longer than the
    functions below do."""
    return x.size >= _WORTH_IT


def held(x: jax.Array, witness: jax.Array | None = None) -> jax.Array:
    """x, with which XLA on CPU fuses nothing.

    There an `optimization_barrier` is gone before operations are fused, but what a branch
    returns has to lie in memory. Both branches return x. That either may be taken depends
    on a number that is known only when the program runs, and that the barrier stands in
    one keeps them from being made one.

    Args:
        x: float [...].
        witness: that number, float []; the first of x if None. On several devices all
            need it: better one that all have.
    """
    if witness is None:
        witness = x[(0,) * x.ndim]
    return lax.cond(jnp.isnan(witness), lax.optimization_barrier, lambda x: x, x)


@jax.custom_vjp
def _relu_in_memory(x: jax.Array) -> jax.Array:
    return jnp.maximum(x, 0)


def _relu_forward(x):
    y = lax.platform_dependent(jnp.maximum(x, 0), cpu=held, default=lambda y: y)
    return y, y


def _relu_backward(y, gradient):
    return (jnp.where(y > 0, gradient, 0),)


_relu_in_memory.defvjp(_relu_forward, _relu_backward)


def relu_in_memory(x: jax.Array) -> jax.Array:
    """`jax.nn.relu`; where a gradient is taken its result is computed once, and tells the
    gradient.

    Has a gradient, but no derivative in forward mode.

    Args:
        x: float [...].
    """
    return _relu_in_memory(x) if is_large(x) else jax.nn.relu(x)
