"""Capsule network: vectors instead of numbers, each sent to the wholes it agrees with.

Paper: S. Sabour, N. Frosst, G. Hinton, "Dynamic Routing Between Capsules", 2017,
https://arxiv.org/abs/1710.09829. A capsule is a vector whose length says how probably
something is there, and whose direction says how it looks.

Deviation: routing logits, their softmax and the lengths are float32 whatever the dtype.
"""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from layers.activations import relu, sigmoid
from layers.convolution import Conv
from layers.dense import Dense


@flax.struct.dataclass
class Capsules:
    """What the network says of images whose classes are given.

    Args:
        lengths: float32 [B, K], in [0, 1): how probably each class is there.
        reconstruction: [B, H, W, C] in 0..1, made from the given classes' capsules; None
            without a decoder.
    """

    lengths: jax.Array
    reconstruction: jax.Array | None


class CapsNet(nn.Module):
    """Convolution, primary capsules, class capsules by routing, decoder.

    The defaults are the paper's network for 28x28 images. The number of primary capsules
    is part of the parameters, and so is the image size. Submodules: `stem_conv`,
    `primary_conv`, `class_capsules`, `decoder_<i>`, `reconstruction`.

    Args:
        num_classes: K; 0 leaves class capsules and decoder out.
        stem_width: channels of the first convolution.
        primary_types: capsules at every position of the second one's map.
        primary_dim: length of their vectors.
        class_dim: length of the class capsules' vectors.
        kernel_size: side of both convolutions' windows; none is padded.
        primary_stride: of the second.
        routing_steps: how often class capsules are computed, at least 1; with 1 every
            capsule goes to all classes alike.
        decoder_dims: hidden widths of the decoder; () for no decoder.
        dtype: of the computation; None takes the input's.
        param_dtype: of the parameters.
    """

    num_classes: int
    stem_width: int = 256
    primary_types: int = 32
    primary_dim: int = 8
    class_dim: int = 16
    kernel_size: int = 9
    primary_stride: int = 2
    routing_steps: int = 3
    decoder_dims: tuple[int, ...] = (512, 1024)
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self):
        if self.routing_steps < 1:
            raise ValueError(f"routing_steps is {self.routing_steps}; it must be >= 1")
        if self.num_classes:
            self.class_capsules = RoutedCapsules(
                self.num_classes,
                self.class_dim,
                self.routing_steps,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
            )

    @nn.compact
    def features(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """The primary capsules, position by position: [B, P, primary_dim].

        Raises:
            ValueError: the image is too small for two unpadded convolutions.
        """
        del train
        least = 2 * self.kernel_size - 1
        if min(image.shape[1:3]) < least:
            raise ValueError(
                f"image of {image.shape[1]}x{image.shape[2]} is too small for two windows "
                f"of {self.kernel_size}; it needs {least}x{least}, or choose a smaller "
                "kernel_size"
            )
        window, dtypes = (self.kernel_size,) * 2, self._dtypes()
        x = Conv(self.stem_width, window, padding="VALID", name="stem_conv", **dtypes)(
            image
        )
        x = Conv(
            self.primary_types * self.primary_dim,
            window,
            strides=self.primary_stride,
            padding="VALID",
            name="primary_conv",
            **dtypes,
        )(relu(x))
        return squash(x.reshape(len(x), -1, self.primary_dim))

    def represent(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """One vector per image, what routing sees: [B, P * primary_dim]."""
        x = self.features(image, train=train)
        return x.reshape(len(x), -1)

    def capsules(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """The class capsules: [B, K, class_dim]."""
        return self.class_capsules(self.features(image, train=train))

    def __call__(
        self,
        image: jax.Array,
        target: jax.Array | None = None,
        *,
        train: bool = False,
    ) -> jax.Array | Capsules:
        """Normalised images, float [B, H, W, C], to class scores [B, K].

        Args:
            image: float [B, H, W, C].
            target: float [B, K], 1 for each class that is there: whose capsules the
                decoder sees.
            train: changes nothing.

        Returns:
            The capsules' lengths, float32 [B, K]; with a target, `Capsules`; without
            classes, the representation.
        """
        if not self.num_classes:
            return self.represent(image, train=train)
        capsules = self.capsules(image, train=train)
        lengths = length(capsules)
        if target is None and not self.is_initializing():
            return lengths
        kept = jnp.ones_like(lengths) if target is None else target
        reconstruction = None
        if self.decoder_dims:
            reconstruction = self.decode(capsules, kept, image.shape[1:])
        return lengths if target is None else Capsules(lengths, reconstruction)

    @nn.compact
    def decode(
        self, capsules: jax.Array, target: jax.Array, shape: tuple[int, ...]
    ) -> jax.Array:
        """Images of `shape`, [B, *shape] in 0..1, from class capsules [B, K, class_dim]
        of which only those of `target`, [B, K], are seen."""
        x = capsules * target[..., None].astype(capsules.dtype)
        x = x.reshape(len(x), -1)
        for i, dim in enumerate(self.decoder_dims):
            x = relu(Dense(dim, name=f"decoder_{i}", **self._dtypes())(x))
        size = shape[0] * shape[1] * shape[2]
        x = Dense(size, name="reconstruction", **self._dtypes())(x)
        return sigmoid(x).reshape(-1, *shape)

    def _dtypes(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}


class RoutedCapsules(nn.Module):
    """Every lower capsule predicts every upper one; those predicted alike win.

    Parameters: `kernel` [P, I, K, D], a matrix for each pair of capsules.

    Args:
        num_capsules: K.
        capsule_dim: D.
        routing_steps: of `route`.
    """

    num_capsules: int
    capsule_dim: int
    routing_steps: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, capsules: jax.Array) -> jax.Array:
        """[B, P, I] -> [B, K, D]."""
        kernel = self.param(
            "kernel",
            nn.initializers.normal(0.1),
            (*capsules.shape[1:], self.num_capsules, self.capsule_dim),
            self.param_dtype,
        )
        capsules, kernel = promote_dtype(capsules, kernel, dtype=self.dtype)
        votes = jnp.einsum("BPI,PIKD->BPKD", capsules, kernel)
        return route(votes, self.routing_steps)


def route(votes: jax.Array, steps: int) -> jax.Array:
    """Dynamic routing: upper capsules as weighted sums of the votes that agree.

    Args:
        votes: [B, P, K, D]; what lower capsule p says of upper capsule k.
        steps: how often the upper capsules are computed, at least 1.

    Returns:
        [B, K, D], no vector longer than 1.
    """
    K, wide = votes.shape[2], jnp.promote_types(votes.dtype, jnp.float32)
    logits = jnp.zeros(votes.shape[:-1], wide)
    for step in range(steps):
        # Each lower capsule divides itself among the upper ones: at first equally, which
        # is written out because XLA takes long to find that a softmax of zeros is.
        share = jax.nn.softmax(logits) if step else jnp.full_like(logits, 1 / K)
        share = share.astype(votes.dtype)
        upper = squash(jnp.einsum("BPK,BPKD->BKD", share, votes))
        if step < steps - 1:
            agreement = jnp.einsum(
                "BPKD,BKD->BPK", votes, upper, preferred_element_type=wide
            )
            logits += agreement
    return upper


def length(vectors: jax.Array) -> jax.Array:
    """The Euclidean norm, [..., D] -> float32 or wider [...]; its gradient at 0 is 0."""
    wide = vectors.astype(jnp.promote_types(vectors.dtype, jnp.float32))
    square = jnp.square(wide).sum(-1)
    # Two selections: the gradient of a root at 0 is infinite even where it is not taken.
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def squash(vectors: jax.Array) -> jax.Array:
    """Vectors of the same direction and length s^2 / (1 + s^2) for s: [..., D]."""
    size = length(vectors)[..., None]
    return (vectors * (size / (1 + jnp.square(size)))).astype(vectors.dtype)
