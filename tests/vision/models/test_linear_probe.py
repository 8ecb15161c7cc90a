"""Linear probes: frozen means frozen, and the head learns what can be read off."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_configs import load

from training import config as configs
from training import evaluation, loop
from training.run import Run

RESNET = {
    "type": "vision.models.resnet.ResNet",
    "num_classes": 0,
    "stage_sizes": [1, 1],
    "stage_widths": [8, 16],
    "block": "basic",
    "stem": "small",
    "stem_width": 8,
}
VIT = {
    "type": "vision.models.vit.ViT",
    "num_classes": 0,
    "patch_size": 4,
    "embed_dim": 16,
    "num_layers": 1,
    "num_heads": 2,
    "mlp_dim": 16,
    "dropout_rate": 0.5,
}


def config(backbone, **changes):
    found = load("linear_probe_digits") | {"init_from": None, "total_steps": 6}
    found |= {"batch_size": 16, "evals": {}, "checkpoint_steps": 3} | changes
    found["task"]["model"]["backbone"] = backbone
    found["optimizer"]["rule"]["weight_decay"] = 0.1  # would move what is not frozen
    return found


@pytest.mark.parametrize(
    "backbone",
    [
        pytest.param(RESNET, id="resnet"),
        pytest.param(VIT, id="vit", marks=pytest.mark.slow),
    ],
)
def test_the_backbone_is_bit_identical_and_the_head_is_not(backbone, tmp_path):
    plain = config(backbone)
    run = Run.from_config(plain)
    before = jax.device_get(run.init())
    assert loop.train(plain, tmp_path) == 0
    after = jax.device_get(evaluation.restore(tmp_path, run, "last").state)

    same = lambda a, b: jax.tree.map(np.testing.assert_array_equal, a, b)
    same(before.params["backbone"], after.params["backbone"])
    statistics = [x.collections["batch_stats"] for x in (before, after)]
    if "backbone" in statistics[0]:
        same(statistics[0]["backbone"], statistics[1]["backbone"])
    assert ("backbone" in statistics[0]) == (backbone is RESNET)
    assert (before.params["head"]["kernel"] != after.params["head"]["kernel"]).any()
    assert (statistics[0]["norm"]["mean"] != statistics[1]["norm"]["mean"]).any()


def test_the_optimizer_holds_no_state_for_the_backbone():
    run = Run.from_config(config(VIT))
    held = sum(x.size for x in jax.tree.leaves(run.shapes.opt_state))
    head = sum(x.size for x in jax.tree.leaves(run.shapes.params["head"]))
    assert held == head + 1  # momentum of the head, and a counter


def test_gradients_of_the_backbone_are_exactly_zero(random_variables):
    model = configs.build(config(VIT)["task"]["model"])
    image = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8, 8, 1)), jnp.float32)
    variables = random_variables(model, image)

    def total(params):
        found = model.apply(
            {**variables, "params": params}, image, train=True, mutable=["batch_stats"]
        )
        return (found[0] ** 2).sum()

    grads = jax.jit(jax.grad(total))(variables["params"])
    assert all((x == 0).all() for x in jax.tree.leaves(grads["backbone"]))
    assert (grads["head"]["kernel"] != 0).any()


def test_the_backbone_runs_as_in_evaluation(random_variables):
    """No dropout, no batch statistics of its own, whatever the probe does."""
    model = configs.build(config(VIT)["task"]["model"])
    image = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8, 8, 1)), jnp.float32)
    variables = random_variables(model, image)
    represent = lambda train: model.apply(
        variables, image, train=train, method="represent"
    )
    np.testing.assert_array_equal(represent(True), represent(False))


def test_features_are_normalised_by_their_batch(random_variables):
    model = configs.build(config(VIT)["task"]["model"])
    image = 100 * jnp.asarray(
        np.random.default_rng(0).normal(size=(64, 8, 8, 1)), jnp.float32
    )
    variables = random_variables(model, image)
    params = dict(variables["params"])
    kernel = jnp.eye(16)[:, :10]
    params["head"] = {"kernel": kernel, "bias": jnp.zeros(10)}
    logits, _ = model.apply(
        {**variables, "params": params}, image, train=True, mutable=["batch_stats"]
    )
    np.testing.assert_allclose(logits.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(logits.std(0), 1, atol=1e-2)
    assert "norm" not in variables["params"]
