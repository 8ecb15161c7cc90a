"""ResMLP: parity, published counts, linearity across patches, learning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.models import resmlp
from vision.models.resmlp import ResMlp

FIXTURE = ResMlp(num_classes=10, patch_size=8, embed_dim=32, num_layers=3, mlp_dim=128)


def test_parity(parity, imported, assert_parity, tap_error):
    variables = imported(FIXTURE, "resmlp_timm")
    arrays = parity("resmlp_timm")[1]

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
    assert_parity("resmlp_timm", "logits", logits)
    assert_parity("resmlp_timm", "features", captured["features"][0])
    block = captured["block_0"]["__call__"][0]
    assert tap_error("resmlp_timm", "blocks.0", block) < 1e-5


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (resmlp.ResMlp_S12, 15_350_872),
        pytest.param(resmlp.ResMlp_S24, 30_020_680, marks=pytest.mark.slow),
        pytest.param(resmlp.ResMlp_S36, 44_690_488, marks=pytest.mark.slow),
        pytest.param(resmlp.ResMlp_B24, 129_138_280, marks=pytest.mark.slow),
    ],
)
def test_published_parameter_counts(make, expected, count_parameters):
    assert count_parameters(make(num_classes=1000), (1, 224, 224, 3)) == expected


IMAGE = jnp.asarray(np.random.default_rng(3).normal(size=(5, 8, 8, 3)), jnp.float32)


def tiny(**fields):
    return ResMlp(
        num_classes=4, patch_size=2, embed_dim=16, num_layers=2, mlp_dim=24, **fields
    )


def test_without_its_channel_mlps_it_is_affine_in_the_image(random_variables):
    """Nothing normalises and the layer across patches has no activation."""
    model = tiny()
    variables = random_variables(model, IMAGE)

    def second_difference(variables):
        def run(image):
            return model.apply(variables, image)

        zero = run(jnp.zeros_like(IMAGE))
        return run(2 * IMAGE) - 2 * run(IMAGE) + zero, run(IMAGE) - zero

    run = jax.jit(second_difference)
    bent, slope = run(variables)
    assert np.abs(bent).max() > 0.05 * np.abs(slope).max()
    for i in range(2):
        block = variables["params"][f"block_{i}"]
        block["channel_scale"] = np.zeros_like(block["channel_scale"])
    bent, slope = run(variables)
    assert np.abs(slope).max() > 0.1
    np.testing.assert_allclose(bent, 0, atol=1e-5 * np.abs(slope).max() + 1e-6)


def test_every_token_hears_of_every_patch(random_variables):
    model = tiny()
    variables = random_variables(model, IMAGE)

    def first_token(image):
        return model.apply(variables, image, method="features")[:, 0].sum()

    support = np.abs(jax.jit(jax.grad(first_token))(IMAGE)).sum((0, 3))
    assert (support > 0).all()


def test_deeper_networks_start_with_smaller_branches():
    starts = []
    for make in (resmlp.ResMlp_S12, resmlp.ResMlp_S24, resmlp.ResMlp_S36):
        model = make(num_classes=0, embed_dim=4, mlp_dim=4, num_layers=1, patch_size=4)
        params = model.init(jax.random.key(0), IMAGE)["params"]["block_0"]
        for name in ("token_scale", "channel_scale"):
            assert np.ptp(params[name]) == 0
        starts.append(float(params["token_scale"][0]))
    np.testing.assert_allclose(starts, (0.1, 1e-5, 1e-6), rtol=1e-6)


def test_drop_path_acts_in_training_alone(assert_drop_path_in_training_only):
    assert_drop_path_in_training_only(tiny(), tiny(drop_path_rate=0.9), IMAGE)


def test_half_precision_keeps_float32_parameters(assert_half_precision):
    assert_half_precision(tiny(dtype="bfloat16"), IMAGE)


@pytest.mark.slow
def test_it_learns_a_handful_of_images(overfit):
    losses = overfit(tiny(), IMAGE, steps=50, learning_rate=1e-2)
    assert losses[0] > 1 and losses[-1] < 0.1


def test_patches_must_tile_the_image():
    with pytest.raises(ValueError, match="8x8 cannot be cut into patches of 3x3"):
        jax.eval_shape(tiny().clone(patch_size=3).init, jax.random.key(0), IMAGE)
