"""SimMIM: hidden patches are hidden, visible ones are not, one linear head."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.models.simmim import SimMIM
from vision.models.vit import ViT

IMAGE = np.random.default_rng(0).normal(size=(2, 8, 12, 3)).astype(np.float32)
MASK = np.array([[1, 0, 0, 1, 0, 0], [0, 1, 1, 0, 1, 0]], bool)


def tiny(**fields):
    sizes = {"embed_dim": 8, "num_layers": 2, "num_heads": 2, "mlp_dim": 16}
    return SimMIM(ViT(num_classes=0, patch_size=4, **sizes, **fields))


@pytest.fixture(scope="module")
def filled():
    """(model, variables without zeros)."""
    model = tiny(positions="sincos2d_mae")
    shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGE, MASK)
    rng = np.random.default_rng(1)
    draw = lambda x: rng.normal(size=x.shape, scale=0.3).astype(np.float32)
    return model, jax.tree.map(draw, shapes)


def where(mask, inside, outside):
    """Images that are `inside` on the mask's patches and `outside` elsewhere."""
    pixels = mask.reshape(2, 2, 3, 1).repeat(4, 1).repeat(4, 2)
    return np.where(pixels, inside, outside)


@pytest.mark.parametrize("pooling", ["token", "average"])
def test_shapes_and_parameter_paths(pooling):
    model = tiny(pooling=pooling)
    variables = jax.eval_shape(model.init, jax.random.key(0), IMAGE, MASK)
    output = jax.eval_shape(model.apply, variables, IMAGE, MASK)
    assert output.prediction.shape == (2, 6, 48) and output.mask.shape == (2, 6)
    params = variables["params"]
    assert set(params) == {"backbone", "mask_token", "head"}
    assert params["mask_token"].shape == (1, 1, 8)
    alone = jax.eval_shape(model.backbone.init, jax.random.key(0), IMAGE)["params"]
    assert jax.tree.map(jnp.shape, params["backbone"]) == jax.tree.map(jnp.shape, alone)


def test_hidden_pixels_change_nothing_and_visible_ones_everything(filled, run):
    model, variables = filled
    apply = jax.jit(lambda image, mask: run(model, variables, image, mask).prediction)
    plain = apply(IMAGE, MASK)
    np.testing.assert_array_equal(apply(where(MASK, 1e3, IMAGE), MASK), plain)
    changed = apply(where(MASK, IMAGE, IMAGE + 1), MASK)
    assert (np.abs(changed - plain).max(-1) > 1e-4).all()


def test_no_gradient_reaches_hidden_pixels(filled, run):
    model, variables = filled
    loss = lambda image: (run(model, variables, image, MASK).prediction ** 2).sum()
    gradient = np.abs(jax.grad(loss)(IMAGE))
    assert where(MASK, gradient, 0).max() == 0
    assert where(MASK, 1, gradient).min() > 0


def test_hidden_patches_are_told_apart_by_position_alone(filled, run):
    """The token goes in before positions are added: else all guesses would be equal."""
    model, variables = filled
    everything = np.ones_like(MASK)
    guess = run(model, variables, IMAGE, everything).prediction
    np.testing.assert_array_equal(guess[0], guess[1])
    assert len(np.unique(np.round(guess[0, :, 0], 5))) == 6
    without = SimMIM(model.backbone.copy(positions="none"))
    guess = np.asarray(run(without, variables, IMAGE, everything).prediction)
    np.testing.assert_allclose(
        guess, guess[:1, :1].repeat(2, 0).repeat(6, 1), rtol=1e-4
    )


def test_with_nothing_hidden_it_is_the_backbone_and_a_linear_layer(filled, run):
    model, variables = filled
    params = variables["params"]
    backbone = {"params": params["backbone"]}
    tokens = run(model.backbone, backbone, IMAGE, method="features")[:, 1:]
    expected = tokens @ params["head"]["kernel"] + params["head"]["bias"]
    guess = run(model, variables, IMAGE, np.zeros_like(MASK)).prediction
    np.testing.assert_allclose(guess, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(
        run(model, variables, IMAGE, method="represent"),
        run(model.backbone, backbone, IMAGE, method="represent"),
    )


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((2, 5), bool), r"bool of shape \(2, 5\).*\(2, 6\)"),
        (np.zeros((2, 6), np.float32), "float32"),
    ],
)
def test_wrong_masks_are_named(mask, message):
    with pytest.raises(ValueError, match=message) as error:
        jax.eval_shape(tiny().init, jax.random.key(0), IMAGE, mask)
    assert "\n" not in str(error.value)


def test_dropping_only_in_training(filled, run):
    model, variables = filled
    dropping = SimMIM(model.backbone.copy(dropout_rate=0.5))
    plain = run(model, variables, IMAGE, MASK).prediction
    calm = run(dropping, variables, IMAGE, MASK, train=False).prediction
    rngs = {"dropout": jax.random.key(0)}
    wild = run(dropping, variables, IMAGE, MASK, train=True, rngs=rngs).prediction
    np.testing.assert_array_equal(plain, calm)
    assert np.abs(wild - plain).max() > 1e-3
