"""SimCLR: views share the backbone, layers by hand, statistics of the global batch."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vision.models.resnet import ResNet
from vision.models.simclr import SimCLR
from vision.models.vit import ViT

VIEWS = jnp.asarray(np.random.default_rng(3).normal(size=(8, 2, 8, 8, 3)), jnp.float32)


class Linear(nn.Module):
    """The least backbone."""

    @nn.compact
    def represent(self, image, *, train=False):
        return nn.Dense(5, name="layer")(image.reshape(len(image), -1))


def vit():
    return ViT(
        num_classes=0, patch_size=4, embed_dim=16, num_layers=1, num_heads=2, mlp_dim=24
    )


def resnet():
    return ResNet(0, (1,), (8,), block="basic", stem="small", stem_width=8)


@pytest.mark.parametrize(("backbone", "dim"), [(vit(), 16), (resnet(), 8)])
def test_any_backbone_and_the_shapes_and_paths(backbone, dim, random_variables):
    model = SimCLR(backbone, projection_dim=12, hidden_dim=10)
    variables = random_variables(model, VIEWS)
    assert set(variables["params"]) == {
        "backbone",
        "projection_0",
        "projection_norm_0",
        "projection_1",
        "projection_norm_1",
    }
    assert variables["params"]["projection_0"]["kernel"].shape == (dim, 10)
    assert set(variables["params"]["projection_1"]) == {"kernel"}
    assert set(variables["params"]["projection_norm_1"]) == {"scale"}

    @jax.jit
    def run(variables):
        whole = model.apply(variables, VIEWS)
        image = VIEWS[:, 1]
        vector = model.apply(variables, image, method="represent")
        collections = {
            k: v["backbone"] for k, v in variables.items() if "backbone" in v
        }
        alone = backbone.apply(collections, image, method="represent")
        again = model.apply(variables, vector, method="project")
        return whole, vector, alone, again

    whole, vector, alone, again = run(variables)
    assert whole.shape == (8, 2, 12) and vector.shape == (8, dim)
    np.testing.assert_allclose(vector, alone, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(whole[:, 1], again, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("num_layers", "hidden_dim"), [(1, None), (2, None), (3, 7)])
def test_projection_by_hand(num_layers, hidden_dim, random_variables):
    model = SimCLR(
        Linear(), 4, hidden_dim=hidden_dim, num_layers=num_layers, norm="none"
    )
    variables = random_variables(model, VIEWS)
    assert set(variables) == {"params"}
    params = variables["params"]
    x = np.asarray(VIEWS).reshape(16, -1)
    x = x @ params["backbone"]["layer"]["kernel"] + params["backbone"]["layer"]["bias"]
    widths = [hidden_dim or 5] * (num_layers - 1) + [4]
    for i, width in enumerate(widths):
        layer = params[f"projection_{i}"]
        assert layer["kernel"].shape[1] == width
        x = x @ layer["kernel"] + layer["bias"]
        x = np.maximum(x, 0) if i < num_layers - 1 else x
    found = jax.jit(model.apply)(variables, VIEWS)
    np.testing.assert_allclose(found, x.reshape(8, 2, 4), rtol=1e-4, atol=1e-5)


def test_batch_norm_by_hand_and_its_statistics_over_all_views(random_variables):
    model = SimCLR(Linear(), 4, num_layers=1)
    variables = random_variables(model, VIEWS)
    params = variables["params"]
    run = jax.jit(lambda v: model.apply(v, VIEWS, train=True, mutable=["batch_stats"]))
    found, updated = run(variables)
    x = np.asarray(VIEWS).reshape(16, -1)
    x = x @ params["backbone"]["layer"]["kernel"] + params["backbone"]["layer"]["bias"]
    x = x @ params["projection_0"]["kernel"]
    scale = params["projection_norm_0"]["scale"]
    expected = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) * scale
    np.testing.assert_allclose(found.reshape(16, 4), expected, rtol=1e-3, atol=1e-4)
    old = variables["batch_stats"]["projection_norm_0"]["mean"]
    new = updated["batch_stats"]["projection_norm_0"]["mean"]
    np.testing.assert_allclose(new, 0.9 * old + 0.1 * x.mean(0), rtol=1e-4, atol=1e-5)


def test_eight_devices_share_their_statistics(random_variables):
    model = SimCLR(Linear(), 4)
    variables = random_variables(model, VIEWS)

    def run(variables, views):
        return model.apply(variables, views, train=True, mutable=["batch_stats"])

    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    whole = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec("data"))
    views = np.asarray(VIEWS)
    one = jax.jit(run)(variables, views)
    spread = jax.jit(run, in_shardings=(whole, split), out_shardings=whole)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        one,
        spread(variables, views),
    )


def test_order_of_views_follows(random_variables):
    model = SimCLR(Linear(), 4)
    variables = random_variables(model, VIEWS)
    run = jax.jit(model.apply)
    np.testing.assert_allclose(
        run(variables, VIEWS[:, ::-1]), run(variables, VIEWS)[:, ::-1], atol=1e-5
    )


def test_half_precision_keeps_float32_parameters(assert_half_precision):
    model = SimCLR(vit(), 4, dtype="bfloat16")
    assert_half_precision(model, VIEWS, statistics=True)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"norm": "layer"}, "norm is 'layer'; known: batch, none"),
        ({"num_layers": 0}, "num_layers is 0"),
    ],
)
def test_errors_name_the_value(fields, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(SimCLR(Linear(), **fields).init, jax.random.key(0), VIEWS)
