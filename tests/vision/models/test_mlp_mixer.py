"""MLP-Mixer: parity, published counts, properties, learning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.models import mlp_mixer
from vision.models.mlp_mixer import MlpMixer

FIXTURE = MlpMixer(
    num_classes=10,
    patch_size=8,
    embed_dim=32,
    num_layers=3,
    token_mlp_dim=16,
    channel_mlp_dim=128,
)


def test_parity(parity, imported, assert_parity):
    variables = imported(FIXTURE, "mixer_timm")

    @jax.jit
    def run(image):
        logits, captured = FIXTURE.apply(
            variables,
            image,
            capture_intermediates=lambda _, method: method == "features",
            mutable="intermediates",
        )
        return logits, captured["intermediates"]["features"][0]

    logits, features = run(parity("mixer_timm")[1]["in_x_nhwc"])
    assert_parity("mixer_timm", "logits", logits)
    assert_parity("mixer_timm", "features", features)


@pytest.mark.parametrize("fields", [{"scan": True}, {"scan": True, "remat": "dots"}])
def test_parity_of_other_ways_to_compute_it(fields, parity, imported, assert_parity):
    model = FIXTURE.clone(**fields)
    variables = imported(model, "mixer_timm")
    assert "blocks" in variables["params"]
    logits = jax.jit(model.apply)(variables, parity("mixer_timm")[1]["in_x_nhwc"])
    assert_parity("mixer_timm", "logits", logits)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (mlp_mixer.MlpMixer_S32, 19_104_624),
        pytest.param(mlp_mixer.MlpMixer_S16, 18_528_264, marks=pytest.mark.slow),
        pytest.param(mlp_mixer.MlpMixer_B32, 60_293_428, marks=pytest.mark.slow),
        (mlp_mixer.MlpMixer_B16, 59_880_472),
        pytest.param(mlp_mixer.MlpMixer_L16, 208_196_168, marks=pytest.mark.slow),
    ],
)
def test_published_parameter_counts(make, expected, count_parameters):
    assert count_parameters(make(num_classes=1000), (1, 224, 224, 3)) == expected


@pytest.mark.parametrize(
    ("make", "sizes", "millions"),
    [
        # (L, P, D, D_S, D_C) and the size of the paper's table 1.
        pytest.param(
            mlp_mixer.MlpMixer_L32,
            (24, 32, 1024, 512, 4096),
            206,
            marks=pytest.mark.slow,
        ),
        pytest.param(
            mlp_mixer.MlpMixer_H14,
            (32, 14, 1280, 640, 5120),
            431,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_parameter_counts_by_hand(make, sizes, millions, count_parameters):
    L, P, D, D_S, D_C = sizes
    T = (224 // P) ** 2
    block = 4 * D + (2 * T * D_S + D_S + T) + (2 * D * D_C + D_C + D)
    expected = (3 * P * P + 1) * D + L * block + 2 * D + 1000 * (D + 1)
    count = count_parameters(make(num_classes=1000), (1, 224, 224, 3))
    assert count == expected
    assert abs(count / 1e6 - millions) < 2


IMAGE = jnp.asarray(np.random.default_rng(3).normal(size=(5, 8, 8, 3)), jnp.float32)


def tiny(**fields):
    return MlpMixer(
        num_classes=4,
        patch_size=2,
        embed_dim=16,
        num_layers=2,
        token_mlp_dim=12,
        channel_mlp_dim=24,
        **fields,
    )


def test_every_token_hears_of_every_patch_by_mixing_tokens(random_variables):
    model = tiny()
    variables = random_variables(model, IMAGE)

    def first_token(image):
        return model.apply(variables, image, method="features")[:, 0].sum()

    support = np.abs(jax.jit(jax.grad(first_token))(IMAGE)).sum((0, 3))
    assert (support > 0).all()


def test_drop_path_and_dropout_act_in_training_alone(random_variables):
    variables = random_variables(tiny(), IMAGE)

    models = [tiny(), tiny(drop_path_rate=0.6), tiny(dropout_rate=0.5)]

    @jax.jit
    def run(image):
        rngs = {"dropout": jax.random.key(0)}
        return [
            [
                m.apply(variables, image, train=t, rngs=rngs, method="represent")
                for m in models
            ]
            for t in (False, True)
        ]

    (plain, *evaluated), (trained, *dropped) = run(IMAGE)
    np.testing.assert_allclose(trained, plain, rtol=1e-5, atol=1e-6)
    for same in evaluated:
        np.testing.assert_allclose(same, plain, rtol=1e-5, atol=1e-6)
    for other in dropped:
        assert not np.allclose(other, plain, atol=1e-3)


def test_drop_path_grows_with_depth_and_works_in_a_scan(random_variables):
    rngs = {"dropout": jax.random.key(4)}
    model = tiny(drop_path_rate=0.9)
    variables = random_variables(model, IMAGE)

    @jax.jit
    def run(variables):
        return [
            tiny(drop_path_rate=rate, scan=True).apply(
                variables, IMAGE, train=True, rngs=rngs, method="represent"
            )
            for rate in (0.0, 0.9)
        ]

    stacked = jax.tree.map(
        lambda *x: jnp.stack(x), *(variables["params"][f"block_{i}"] for i in (0, 1))
    )
    params = {k: v for k, v in variables["params"].items() if "block" not in k}
    plain, dropped = run({"params": {**params, "blocks": stacked}})
    assert not np.allclose(plain, dropped, atol=1e-3)
    # Two branches dropped with 0.9 for 5 images, the first block always kept.
    kept_all = np.isclose(plain, dropped, atol=1e-3).all(-1).sum()
    assert kept_all < 4


def test_half_precision_keeps_float32_parameters(assert_half_precision):
    assert_half_precision(tiny(dtype="bfloat16"), IMAGE)


def test_it_learns_a_handful_of_images(overfit):
    losses = overfit(tiny(), IMAGE, steps=40, learning_rate=1e-2)
    assert losses[0] > 1 and losses[-1] < 0.1
