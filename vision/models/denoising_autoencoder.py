"""Stacked denoising autoencoder: dense layers that restore what noise took from their input.

Papers: P. Vincent, H. Larochelle, I. Lajoie, Y. Bengio, P.-A. Manzagol, "Stacked Denoising
Autoencoders", 2010, http://www.jmlr.org/papers/v11/vincent10a.html. Trained one layer after
the other, then fine-tuned by labels, as deep networks first were: G. E. Hinton,
S. Osindero, Y.-W. Teh, "A Fast Learning Algorithm for Deep Belief Nets", 2006,
https://www.cs.toronto.edu/~hinton/absps/fastnc.pdf; Y. Bengio, P. Lamblin, D. Popovici,
H. Larochelle, "Greedy Layer-Wise Training of Deep Networks", 2006,
https://papers.nips.cc/paper/3048-greedy-layer-wise-training-of-deep-networks.

Deviation: a decoder has its own weights, not the transposed ones of its encoder.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers.activations import activation_function
from layers.dense import Dense


class Reconstruction(NamedTuple):
    """What is made of the corrupted input of the trained layer, D values wide.

    Args:
        logits: float [B, D]; in front of the decoder's activation.
        value: float [B, D]; behind it.
        target: float [B, D]; the input before it was corrupted.
        image: float [B, H, W, C]; `value` led down to pixels by the decoders below.
        corrupted: float [B, H, W, C]; the corrupted input, likewise.
    """

    logits: jax.Array
    value: jax.Array
    target: jax.Array
    image: jax.Array
    corrupted: jax.Array


class StackedAutoencoder(nn.Module):
    """Dense encoders on flattened images, and a decoder for each; or a classifier.

    Three uses of the same encoders: with `trained_layer=k` only the autoencoder of layer k
    learns, from clean codes of the layers below, which get no gradient and should be
    `frozen` in the optimizer too; with None all of it learns end to end; with
    `num_classes` a linear head stands on the last code and there are no decoders.

    Parameters: `encoder_<i>`, `decoder_<i>` (back to the input of encoder i), `head`.

    Args:
        widths: of the codes, from the image upwards.
        num_classes: K; 0 for an autoencoder.
        trained_layer: k; layers above it are left out. None for all.
        activation: of the encoders, and of the decoders of codes.
        output: activation of the decoder of pixels.
        init_scale: kernels start uniform in +-init_scale / sqrt(their inputs), as in
            the papers at 1.
        dtype: of the computation; None takes the input's.
        param_dtype: of the parameters.
    """

    widths: tuple[int, ...]
    num_classes: int = 0
    trained_layer: int | None = None
    activation: str = "sigmoid"
    output: str = "sigmoid"
    init_scale: float = 1.0
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def __post_init__(self):
        layer = self.trained_layer
        if layer is not None and not 0 <= layer < len(self.widths):
            raise ValueError(
                f"trained_layer is {layer}; {len(self.widths)} layers count from 0"
            )
        if layer is not None and self.num_classes:
            raise ValueError(
                f"trained_layer is {layer} and num_classes {self.num_classes}; a "
                "classifier trains all layers, set trained_layer=None"
            )
        super().__post_init__()

    def setup(self):
        if self.num_classes:
            self.head = self._dense(self.num_classes, None)

    def _dense(self, features: int, name: str | None) -> Dense:
        return Dense(
            features,
            kernel_init=nn.initializers.variance_scaling(
                self.init_scale**2 / 3, "fan_in", "uniform"
            ),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name=name,
        )

    @property
    def reconstruction_activation(self) -> str:
        """The name of the activation that makes `value` of `logits`."""
        return self.activation if self.trained_layer else self.output

    def input_dim(self, image_shape: tuple[int, ...]) -> int:
        """D of the input that is corrupted, for images (B, H, W, C)."""
        _, H, W, C = image_shape
        return self.widths[self.trained_layer - 1] if self.trained_layer else H * W * C

    @nn.compact
    def _read(
        self,
        image: jax.Array,
        keep: jax.Array | None = None,
        add: jax.Array | None = None,
        *,
        decode: bool,
    ) -> jax.Array | Reconstruction:
        """The code of the last layer there is, or what is restored from it."""
        layer = self.trained_layer or 0
        depth = len(self.widths) if self.trained_layer is None else layer + 1
        activation = activation_function(self.activation)
        x = image.reshape(len(image), -1)
        dims = (x.shape[-1], *self.widths)
        for i in range(depth):
            if i == layer:
                x = target = jax.lax.stop_gradient(x) if layer else x
                x = corrupted = x if keep is None else x * keep + add
            x = activation(self._dense(dims[i + 1], f"encoder_{i}")(x))
        if not decode:
            return x
        for i in reversed(range(layer, depth)):
            logits = self._dense(dims[i], f"decoder_{i}")(x)
            x = activation(logits) if i else activation_function(self.output)(logits)
        # The decoders below only show; nothing is learned from what they make.
        pair = jax.lax.stop_gradient(jnp.concatenate([x, corrupted]))
        for i in reversed(range(layer)):
            pair = self._dense(dims[i], f"decoder_{i}")(pair)
            pair = activation(pair) if i else activation_function(self.output)(pair)
        shown, seen = jax.lax.stop_gradient(pair).reshape(2, *image.shape)
        return Reconstruction(logits, x, target, shown, seen)

    def represent(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """The last code of clean images: [B, D]."""
        del train
        return self._read(image, decode=False)

    def __call__(
        self,
        image: jax.Array,
        keep: jax.Array | None = None,
        add: jax.Array | None = None,
        *,
        train: bool = False,
    ) -> jax.Array | Reconstruction:
        """Logits [B, K] of a classifier, or a `Reconstruction`.

        Args:
            image: float [B, H, W, C]; in 0..1 if `output` is 'sigmoid'.
            keep, add: float [B, D], D as `input_dim` says; the trained layer (or the
                whole) sees keep * input + add. None leaves its input clean.
        """
        if self.num_classes:
            return self.head(self.represent(image, train=train))
        return self._read(image, keep, add, decode=True)
