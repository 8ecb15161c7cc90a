"""Linear probe: one linear layer on the representation of a backbone that stays as it is.

The measure of a representation, in the form of K. He et al., "Masked Autoencoders Are
Scalable Vision Learners", 2021, https://arxiv.org/abs/2111.06377, appendix A.1: a BatchNorm
without parameters before the layer puts the features of any backbone on one scale.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers.dense import Dense
from layers.normalization import BatchNorm


class LinearProbe(nn.Module):
    """Frozen backbone, normalisation, linear head.

    The backbone runs as in evaluation and passes no gradient on, so that neither its
    parameters nor its statistics change; freeze `^backbone/` in the optimizer as well
    (`training.optimizer.with_rules`), which else would decay it. Parameters: `backbone`,
    `head`; statistics of its own: `norm`.

    Args:
        backbone: a module with `represent(image, train=)`.
        num_classes: K.
        normalize: whether to normalise features by their batch.
        dtype: of the head's computation; None takes the features'.
        param_dtype: of the parameters.
    """

    backbone: nn.Module
    num_classes: int
    normalize: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def represent(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """The frozen vector of each image: [B, H, W, C] -> [B, D]."""
        del train
        return jax.lax.stop_gradient(self.backbone.represent(image, train=False))

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits [B, K] of normalised images, float [B, H, W, C]."""
        x = self.represent(image)
        if self.normalize:
            x = BatchNorm(
                use_running_average=not train,
                momentum=0.9,
                epsilon=1e-6,
                use_scale=False,
                use_bias=False,
                dtype=self.dtype,
                name="norm",
            )(x)
        return Dense(
            self.num_classes,
            kernel_init=nn.initializers.truncated_normal(0.01),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="head",
        )(x)
