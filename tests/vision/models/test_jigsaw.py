"""Context-free network: tiles alone, order, whole images, shapes, learning."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vision.models.jigsaw import ContextFreeNetwork
from vision.models.resnet import ResNet
from vision.models.vit import ViT

TILES = jnp.asarray(np.random.default_rng(3).normal(size=(3, 4, 8, 8, 3)), jnp.float32)
IMAGE = jnp.asarray(np.random.default_rng(4).normal(size=(3, 16, 24, 3)), jnp.float32)


class Linear(nn.Module):
    """The least backbone."""

    @nn.compact
    def represent(self, image, *, train=False):
        return nn.Dense(5, name="layer")(image.reshape(len(image), -1))


def vit(**fields):
    fields = {"positions": "sincos2d", "pooling": "average", **fields}
    return ViT(
        num_classes=0,
        patch_size=4,
        embed_dim=16,
        num_layers=1,
        num_heads=2,
        mlp_dim=24,
        **fields,
    )


def resnet():
    return ResNet(0, (1,), (8,), block="basic", stem="small", stem_width=8)


def network(backbone, **fields):
    return ContextFreeNetwork(
        backbone, **{"num_permutations": 6, "tile_dim": 7, "hidden_dim": 9, **fields}
    )


@pytest.mark.parametrize(("backbone", "dim"), [(vit(), 16), (resnet(), 8)])
def test_any_backbone_and_the_shapes_and_paths(backbone, dim, random_variables):
    model = network(backbone)
    variables = random_variables(model, TILES)
    params = variables["params"]
    assert set(params) == {"backbone", "tile_projection", "head"}
    assert params["tile_projection"]["kernel"].shape == (dim, 7)
    assert params["head"]["up"]["kernel"].shape == (4 * 7, 9)
    assert params["head"]["down"]["kernel"].shape == (9, 6)

    @jax.jit
    def run(variables):
        collections = {
            k: v["backbone"] for k, v in variables.items() if "backbone" in v
        }
        return (
            model.apply(variables, TILES),
            model.apply(variables, IMAGE, method="represent"),
            backbone.apply(collections, IMAGE, method="represent"),
        )

    logits, whole, alone = run(variables)
    assert logits.shape == (3, 6) and whole.shape == (3, dim)
    np.testing.assert_allclose(whole, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tile_dim", [0, 7])
def test_by_hand(tile_dim, random_variables):
    model = network(Linear(), tile_dim=tile_dim)
    variables = random_variables(model, TILES)
    params = variables["params"]
    assert ("tile_projection" in params) == bool(tile_dim)

    def dense(x, layer):
        return x @ layer["kernel"] + layer["bias"]

    x = dense(np.asarray(TILES).reshape(3, 4, -1), params["backbone"]["layer"])
    if tile_dim:
        x = np.maximum(dense(x, params["tile_projection"]), 0)
    x = np.maximum(dense(x.reshape(3, -1), params["head"]["up"]), 0)
    expected = dense(x, params["head"]["down"])
    found = jax.jit(model.apply)(variables, TILES)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_features_of_a_tile_follow_it_and_know_no_other(random_variables):
    model = network(vit())
    variables = random_variables(model, TILES)

    @jax.jit
    def run(tiles):
        features = model.apply(variables, tiles, method="tile_features")
        return features, model.apply(variables, tiles)

    features, logits = run(TILES)
    order = jnp.array([2, 0, 3, 1])
    moved, moved_logits = run(TILES[:, order])
    np.testing.assert_allclose(moved, features[:, order], rtol=1e-4, atol=1e-5)
    assert not np.allclose(moved_logits, logits, atol=1e-3)
    changed, _ = run(TILES.at[:, 1].add(1.0))
    rest = np.array([0, 2, 3])
    np.testing.assert_allclose(changed[:, rest], features[:, rest], atol=1e-5)
    assert not np.allclose(changed[:, 1], features[:, 1], atol=1e-3)


def test_learned_positions_fit_tiles_only(random_variables):
    model = network(vit(positions="learned"))
    variables = random_variables(model, TILES)
    assert jax.eval_shape(model.apply, variables, TILES).shape == (3, 6)
    with pytest.raises(Exception, match="position_embedding"):
        jax.eval_shape(lambda: model.apply(variables, IMAGE, method="represent"))


def test_half_precision_keeps_float32_parameters(assert_half_precision):
    model = network(vit(dtype="bfloat16"), dtype="bfloat16")
    assert_half_precision(model, TILES)


def test_it_learns_the_orders_of_a_handful_of_puzzles():
    model = network(Linear(), tile_dim=16, hidden_dim=32)
    rng = np.random.default_rng(0)
    label = np.arange(12) % 6
    orders = np.array([rng.permutation(4) for _ in range(6)])
    base = rng.normal(size=(4, 8, 8, 3))
    tiles = base[orders[label]] + 0.1 * rng.normal(size=(12, 4, 8, 8, 3))
    params = jax.jit(model.init)(jax.random.key(0), tiles)
    optimizer = optax.adam(1e-2)

    @jax.jit
    def step(params, state):
        def loss(params):
            logits = model.apply(params, tiles, train=True)
            return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, value

    state, losses = optimizer.init(params), []
    for _ in range(60):
        params, state, value = step(params, state)
        losses.append(float(value))
    assert losses[0] > 1 and losses[-1] < 0.1
