"""gMLP: parity, published counts, the gate, learning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.models import gmlp
from vision.models.gmlp import GMlp

FIXTURE = GMlp(num_classes=10, patch_size=8, embed_dim=32, num_layers=3, mlp_dim=192)


def test_parity(parity, imported, assert_parity, tap_error):
    variables = imported(FIXTURE, "gmlp_timm")
    arrays = parity("gmlp_timm")[1]

    @jax.jit
    def run(image):
        logits, captured = FIXTURE.apply(
            variables,
            image,
            capture_intermediates=lambda module, method: (
                method == "features" or module.name == "block_0"
            ),
            mutable="intermediates",
        )
        return logits, captured["intermediates"]

    logits, captured = run(arrays["in_x_nhwc"])
    assert_parity("gmlp_timm", "logits", logits)
    assert_parity("gmlp_timm", "features", captured["features"][0])
    block = captured["block_0"]["__call__"][0]
    assert tap_error("gmlp_timm", "blocks.0", block) < 1e-5


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (gmlp.GMlp_Ti16, 5_867_328),
        pytest.param(gmlp.GMlp_S16, 19_422_656, marks=pytest.mark.slow),
        pytest.param(gmlp.GMlp_B16, 73_075_392, marks=pytest.mark.slow),
    ],
)
def test_published_parameter_counts(make, expected, count_parameters):
    assert count_parameters(make(num_classes=1000), (1, 224, 224, 3)) == expected


IMAGE = jnp.asarray(np.random.default_rng(3).normal(size=(5, 8, 8, 3)), jnp.float32)


def tiny(**fields):
    fields = {"mlp_dim": 24, "num_layers": 2, **fields}
    return GMlp(num_classes=4, patch_size=2, embed_dim=16, **fields)


def support_of_first_token(model, variables):
    def first_token(image):
        return model.apply(variables, image, method="features")[:, 0].sum()

    return np.abs(jax.jit(jax.grad(first_token))(IMAGE)).sum((0, 3))


def test_patches_hear_of_each_other_through_the_gate_alone(random_variables):
    model = tiny()
    variables = random_variables(model, IMAGE)
    assert (support_of_first_token(model, variables) > 0).all()
    for i in range(2):
        gate = variables["params"][f"block_{i}"]["gate"]
        gate["kernel"] = np.zeros_like(gate["kernel"])
    support = support_of_first_token(model, variables)
    assert (support[:2, :2] > 0).all()
    support[:2, :2] = 0
    np.testing.assert_array_equal(support, 0)


def test_gates_start_open():
    """At the start a block is a plain MLP of one half: the gate is 1 everywhere."""
    model = tiny(num_layers=1)

    @jax.jit
    def run(rng):
        variables = model.init(rng, IMAGE)
        _, captured = model.apply(
            variables,
            IMAGE,
            capture_intermediates=lambda module, _: module.name == "gate",
            mutable="intermediates",
        )
        return captured["intermediates"]["block_0"]["gate"]["__call__"][0]

    np.testing.assert_allclose(run(jax.random.key(0)), 1, atol=1e-4)


def test_drop_path_acts_in_training_alone(assert_drop_path_in_training_only):
    assert_drop_path_in_training_only(tiny(), tiny(drop_path_rate=0.9), IMAGE)


def test_half_precision_keeps_float32_parameters(assert_half_precision):
    assert_half_precision(tiny(dtype="bfloat16"), IMAGE)


def test_without_a_head_it_gives_its_representation():
    model = tiny().clone(num_classes=0)
    shape = jax.eval_shape(model.init_with_output, jax.random.key(0), IMAGE)[0].shape
    assert shape == (5, 16)


@pytest.mark.slow
def test_it_learns_a_handful_of_images(overfit):
    losses = overfit(tiny(), IMAGE, steps=40, learning_rate=1e-2)
    assert losses[0] > 1 and losses[-1] < 0.1


def test_errors_name_the_value():
    with pytest.raises(ValueError, match="mlp_dim is 25; it must be even"):
        jax.eval_shape(tiny(mlp_dim=25).init, jax.random.key(0), IMAGE)
    with pytest.raises(ValueError, match="8x8 cannot be cut into patches of 3x3"):
        jax.eval_shape(tiny().clone(patch_size=3).init, jax.random.key(0), IMAGE)
