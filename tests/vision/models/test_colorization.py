"""Colourisation's model: what the backbone sees, the grid, what a probe gets."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.models.colorization import Colorization
from vision.models.vit import ViT

LIGHTNESS = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype(np.float32)


class Patches(nn.Module):
    """The least backbone: the mean of every 4x4 patch as a map, or as tokens."""

    tokens: bool = False

    def features(self, image, *, train=False):
        B, H, W, C = image.shape
        x = image.reshape(B, H // 4, 4, W // 4, 4, C).mean((2, 4))
        return x.reshape(B, -1, C) if self.tokens else x

    def represent(self, image, *, train=False):
        return image.mean((1, 2))


def vit(pooling):
    sizes = {"embed_dim": 16, "num_layers": 1, "num_heads": 2, "mlp_dim": 16}
    return ViT(num_classes=0, patch_size=4, pooling=pooling, **sizes)


@pytest.mark.parametrize("pooling", ["token", "average"])
def test_shapes_and_parameter_paths(pooling):
    model = Colorization(vit(pooling))
    variables = jax.eval_shape(model.init, jax.random.key(0), LIGHTNESS)
    logits = jax.eval_shape(model.apply, variables, LIGHTNESS)
    assert logits.shape == (2, 2, 2, 313)
    params = variables["params"]
    assert set(params) == {"backbone", "head"}
    assert params["head"]["kernel"].shape == (16, 313)
    # The backbone is that of colour images.
    alone = jax.eval_shape(
        model.backbone.init, jax.random.key(0), jnp.zeros((2, 8, 8, 3))
    )["params"]
    assert jax.tree.map(jnp.shape, params["backbone"]) == jax.tree.map(jnp.shape, alone)


@pytest.mark.parametrize("tokens", [False, True])
def test_places_keep_their_order(tokens):
    model = Colorization(Patches(tokens=tokens), num_bins=5)
    variables = model.init(jax.random.key(0), LIGHTNESS)
    head = variables["params"]["head"]
    means = LIGHTNESS.reshape(2, 2, 4, 2, 4, 1).mean((2, 4))
    expected = means @ head["kernel"].sum(0, keepdims=True) + head["bias"]
    logits = model.apply(variables, LIGHTNESS)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_the_class_token_is_left_out(random_variables):
    model = Colorization(vit("token"))
    variables = random_variables(model, LIGHTNESS)
    logits = jax.jit(model.apply)(variables, LIGHTNESS)
    tokens = model.apply(variables, LIGHTNESS, method="features")
    head = variables["params"]["head"]
    expected = (tokens[:, 1:] @ head["kernel"] + head["bias"]).reshape(2, 2, 2, 313)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_represent_sees_grey():
    model = Colorization(Patches())
    grey = np.repeat(LIGHTNESS, 3, axis=-1)
    one, three = (model.apply({}, x, method="represent") for x in (LIGHTNESS, grey))
    assert one.shape == (2, 3)
    np.testing.assert_allclose(one, three, rtol=1e-5, atol=1e-6)
    green = np.zeros_like(grey)
    green[..., 1] = 1
    np.testing.assert_allclose(
        model.apply({}, green, method="represent"), 0.587, rtol=1e-5
    )


def test_what_is_no_grid_or_no_image_is_refused():
    model = Colorization(Patches(tokens=True))
    with pytest.raises(ValueError, match="6 tokens are no square grid"):
        model.init(jax.random.key(0), jnp.zeros((1, 8, 12, 1)))
    with pytest.raises(ValueError, match="image has 4 channels"):
        model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 4)))
