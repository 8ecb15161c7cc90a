"""Masked autoencoding: masks by the step's key, losses on hidden patches, pictures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vision import visualize
from vision.layers.patches import patch_moments
from vision.models.mae import MAE, MAEOutput
from vision.models.vit import ViT
from vision.tasks.masked_autoencoding import MaskedAutoencoding

BACKBONE = ViT(
    num_classes=0, patch_size=4, embed_dim=8, num_layers=1, num_heads=2, mlp_dim=8
)
MODEL = MAE(
    backbone=BACKBONE,
    decoder_embed_dim=8,
    decoder_num_layers=1,
    decoder_num_heads=2,
    decoder_mlp_dim=8,
)
AUTO = (AxisType.Auto,)
TASK = MaskedAutoencoding(model=MODEL, mean=(0.0,), std=(1.0,))


def outputs(prediction, hidden):
    return MAEOutput(jnp.asarray(prediction), jnp.asarray(hidden), None)


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return {"image": rng.integers(0, 256, (2, 8, 8, 3), np.uint8)}


def test_the_loss_is_that_of_hidden_patches(batch):
    prepared = TASK.prepare(batch, rng=jax.random.key(0), train=True)
    target = TASK._patches(prepared["image"])
    hidden = np.array([[True, False, False, True], [False, True, True, False]])
    wrong = np.where(hidden[..., None], target + 2.0, target - 100.0)
    loss, metrics = TASK.loss(outputs(wrong, hidden), prepared)
    np.testing.assert_allclose(loss, 4.0, rtol=1e-6)
    assert metrics["loss"].count == 2


def test_normalized_targets_have_mean_0_and_unbiased_variance_1(batch):
    task = MaskedAutoencoding(model=MODEL, normalize_target=True)
    image = task.prepare(batch, rng=jax.random.key(0), train=True)["image"]
    patches = task._patches(image)
    mean, std = patch_moments(patches)
    target = np.asarray((patches - mean) / std)
    np.testing.assert_allclose(target.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(target.var(-1, ddof=1), 1, atol=1e-3)
    loss, _ = task.loss(outputs(target, np.ones((2, 4), bool)), {"image": image})
    assert loss < 1e-10


def test_a_flat_patch_is_no_division_by_zero():
    task = MaskedAutoencoding(model=MODEL, normalize_target=True)
    image = jnp.full((2, 8, 8, 3), 0.3)
    guess = outputs(jnp.zeros((2, 4, 48)), np.ones((2, 4), bool))
    loss, _ = task.loss(guess, {"image": image})
    assert jnp.isfinite(loss) and loss < 1e-6


def test_padding_does_not_count_even_if_it_is_nan(batch):
    prepared = TASK.prepare(batch, rng=jax.random.key(0), train=True)
    hidden = np.ones((2, 4), bool)
    guess = np.zeros((2, 4, 48), np.float32)
    alone = TASK.loss(outputs(guess[:1], hidden[:1]), {"image": prepared["image"][:1]})[
        0
    ]
    guess[1] = np.nan

    def loss(guess):
        masked = {**prepared, "mask": jnp.array([True, False])}
        return TASK.loss(outputs(guess, hidden), masked)[0]

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(guess))
    np.testing.assert_allclose(value, alone, rtol=1e-6)
    assert (np.asarray(gradient)[1] == 0).all()


def test_masks_differ_between_images_and_steps_and_repeat(batch):
    draw = lambda seed: TASK.prepare(batch, rng=jax.random.key(seed), train=True)[
        "noise"
    ]
    assert (draw(0) == draw(0)).all()
    assert (draw(0) != draw(1)).all()
    assert (draw(0)[0] != draw(0)[1]).all()


def test_pictures_show_what_was_hidden_guessed_and_true(batch):
    image = np.asarray(TASK.normalize(batch["image"]))
    target = np.asarray(TASK._patches(image))
    hidden = np.array([[True, False, False, False], [False, False, False, True]])
    guess = np.zeros_like(target)

    def shown(**options):
        task = MaskedAutoencoding(model=MODEL, mean=(0.0,), std=(1.0,), **options)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(visualize, "triplets", lambda *parts: parts)
            found = task.pictures(MAEOutput(guess, hidden, None), {"image": image})
        return found["reconstructions"]

    masked, plain, original = shown()
    np.testing.assert_array_equal(original, batch["image"])
    assert (masked[0, :4, :4] == visualize.GREY).all() and (
        masked[1, 4:, 4:] == visualize.GREY
    ).all()
    np.testing.assert_array_equal(masked[0, 4:], batch["image"][0, 4:])
    assert (plain == 0).all()
    pasted = shown(paste_visible=True)[1]
    assert (pasted[0, :4, :4] == 0).all()
    np.testing.assert_array_equal(pasted[0, 4:], batch["image"][0, 4:])


def test_the_picture_is_there(batch):
    prepared = TASK.prepare(batch, rng=jax.random.key(0), train=False)
    variables = MODEL.init(jax.random.key(0), *TASK.inputs(prepared))
    found = MODEL.apply(variables, *TASK.inputs(prepared))
    picture = TASK.pictures(jax.device_get(found), jax.device_get(prepared))
    assert picture["reconstructions"].dtype == np.uint8
    assert picture["reconstructions"].ndim == 3


def test_masks_do_not_depend_on_the_devices():
    def noise(devices):
        mesh = jax.make_mesh(
            (devices,), ("data",), devices=jax.devices()[:devices], axis_types=AUTO
        )
        rows = NamedSharding(mesh, PartitionSpec("data"))
        image = jax.device_put(np.zeros((16, 8, 8, 3), np.uint8), rows)

        @jax.jit
        def draw(image):
            return TASK.prepare({"image": image}, rng=jax.random.key(5), train=True)

        return np.asarray(draw(image)["noise"])

    np.testing.assert_array_equal(noise(1), noise(8))
