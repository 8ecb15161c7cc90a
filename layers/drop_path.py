"""Stochastic depth: a residual branch is left out for whole examples.

G. Huang, Y. Sun, Z. Liu, D. Sedra, K. Weinberger, "Deep Networks with Stochastic Depth",
2016, https://arxiv.org/abs/1603.09382. Deviation: kept branches are scaled up while
training, rather than scaled down in evaluation.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp


class DropPath(nn.Module):
    """Zeroes `x` for a random share of the examples and scales up the others.

    Draws from the 'dropout' stream, one number per example.

    Args:
        rate: probability of leaving the branch out, in [0, 1).
    """

    rate: float = 0.0

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, rate: jax.Array | None = None
    ) -> jax.Array:
        """The branch [B, ...] as it is to be added.

        Args:
            x: [B, ...], the branch's output.
            train: False returns `x`.
            rate: float [], instead of the field, for layers that are scanned over.
        """
        if not 0.0 <= self.rate < 1.0:
            raise ValueError(f"drop path rate {self.rate} is not in [0, 1)")
        if not train or (rate is None and self.rate == 0.0):
            return x
        keep = 1.0 - (self.rate if rate is None else rate)
        shape = (x.shape[0], *([1] * (x.ndim - 1)))
        kept = jax.random.bernoulli(self.make_rng("dropout"), keep, shape)
        return jnp.where(kept, x / jnp.asarray(keep, x.dtype), jnp.zeros_like(x))
