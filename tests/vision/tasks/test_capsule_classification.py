"""Capsule classification: losses by hand, padding without influence, pictures, errors."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.models.capsnet import CapsNet, Capsules
from vision.tasks.capsule_classification import CapsuleClassification, margin_loss

MODEL = CapsNet(
    num_classes=3,
    stem_width=4,
    primary_types=2,
    primary_dim=4,
    class_dim=4,
    kernel_size=3,
    decoder_dims=(8,),
)


def make_batch(size=4):
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (size, 6, 6, 1), np.uint8),
        "label": np.arange(size) % 3,
    }


def make_outputs(size=4):
    rng = np.random.default_rng(1)
    return Capsules(
        jnp.asarray(rng.uniform(0, 1, (size, 3)), jnp.float32),
        jnp.asarray(rng.uniform(0, 1, (size, 6, 6, 1)), jnp.float32),
    )


def test_margin_loss_by_hand():
    lengths = jnp.array([[0.95, 0.05, 0.3], [0.5, 0.6, 0.0]])
    target = jnp.array([[1.0, 0, 0], [0, 1, 0]])
    # (0.3 - 0.1)^2 / 2, and (0.9 - 0.6)^2 + (0.5 - 0.1)^2 / 2.
    np.testing.assert_allclose(margin_loss(lengths, target), [0.02, 0.17], rtol=1e-5)


@pytest.mark.parametrize(("mean", "std"), [((0.0,), (1.0,)), ((0.3,), (0.5,))])
def test_loss_by_hand(mean, std):
    task = CapsuleClassification(model=MODEL, mean=mean, std=std)
    batch, outputs = make_batch(), make_outputs()
    prepared = task.prepare(batch, rng=jax.random.key(0), train=True)
    scalar, metrics = task.loss(outputs, prepared)
    lengths, truth = np.asarray(outputs.lengths), np.eye(3)[batch["label"]]
    margin = truth * np.maximum(0.9 - lengths, 0) ** 2
    margin += 0.5 * (1 - truth) * np.maximum(lengths - 0.1, 0) ** 2
    margin = margin.sum(-1).mean()
    squares = (np.asarray(outputs.reconstruction) - batch["image"] / 255) ** 2
    error = squares.sum((1, 2, 3)).mean()
    np.testing.assert_allclose(scalar, margin + 0.0005 * error, rtol=1e-5)
    np.testing.assert_allclose(metrics["margin_loss"].compute(), margin, rtol=1e-5)
    np.testing.assert_allclose(
        metrics["reconstruction_error"].compute(), error, rtol=1e-5
    )
    hits = (lengths.argmax(-1) == batch["label"]).mean()
    np.testing.assert_allclose(metrics["accuracy"].compute(), hits)
    assert metrics["loss"].count == 4


def test_without_a_decoder_the_margin_is_all():
    task = CapsuleClassification(model=MODEL.clone(decoder_dims=()))
    outputs = Capsules(make_outputs().lengths, None)
    prepared = task.prepare(make_batch(), rng=jax.random.key(0), train=True)
    scalar, metrics = task.loss(outputs, prepared)
    assert scalar == metrics["margin_loss"].compute()
    assert "reconstruction_error" not in metrics


def test_padding_has_no_influence_on_loss_or_gradient():
    task = CapsuleClassification(model=MODEL)
    batch = {**make_batch(6), "mask": np.arange(6) < 4}
    prepared = task.prepare(batch, rng=jax.random.key(0), train=False)
    outputs = jax.tree.map(lambda x: x.at[4:].set(jnp.nan), make_outputs(6))
    grad = jax.value_and_grad(lambda o: task.loss(o, prepared), has_aux=True)
    (scalar, metrics), gradient = grad(outputs)
    few = {name: x[:4] for name, x in prepared.items() if name != "mask"}
    alone, expected = task.loss(jax.tree.map(lambda x: x[:4], outputs), few)
    np.testing.assert_allclose(scalar, alone, rtol=1e-6)
    for name, metric in expected.items():
        np.testing.assert_allclose(metrics[name].total, metric.total, rtol=1e-6)
        assert metrics[name].count == metric.count == 4
    for part in jax.tree.leaves(gradient):
        np.testing.assert_array_equal(part[4:], 0)
        assert np.isfinite(part).all() and np.abs(part[:4]).max() > 0


def test_it_trains_evaluates_and_represents():
    task, batch = CapsuleClassification(model=MODEL), make_batch()

    @jax.jit
    def run():
        params, collections = task.init(jax.random.key(0), batch)

        def loss(params):
            outputs, prepared, _ = task.apply(
                params, collections, batch, rng=jax.random.key(1), train=True
            )
            return task.loss(outputs, prepared)[0]

        gradient = jax.grad(loss)(params)
        outputs, prepared, _ = task.apply(
            params, collections, batch, rng=jax.random.key(1), train=False
        )
        return gradient, outputs, prepared, task.represent(params, collections, batch)

    gradient, outputs, prepared, features = jax.device_get(run())
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, path
    assert outputs.lengths.shape == (4, 3) and features.shape == (4, 2 * 4)
    pictures = task.pictures(outputs, {**prepared, "mask": np.arange(4) < 3})
    assert set(pictures) == {"predictions", "reconstructions"}
    for picture in pictures.values():
        assert picture.dtype == np.uint8 and picture.shape[-1] == 3
    assert task.pictures(outputs, {**prepared, "mask": np.zeros(4, bool)}) == {}


def test_reconstructions_stand_below_their_images():
    task, batch = CapsuleClassification(model=MODEL), make_batch(2)
    drawn = np.stack([np.ones((6, 6, 1)), np.zeros((6, 6, 1))])
    outputs = Capsules(np.full((2, 3), 0.5), drawn)
    picture = task.pictures(outputs, batch)["reconstructions"]
    height, width = picture.shape[:2]
    below = picture[height // 2 + 10 : height - 10]
    assert (below[:, 10 : width // 2 - 10] == 255).all()
    assert (below[:, width // 2 + 10 : -10] == 0).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sigmoid": True}, "sigmoid is True; the margin loss"),
        ({"absent": 0.95}, "absent is 0.95 and present 0.9"),
        ({"reconstruction_weight": -1.0}, "reconstruction_weight is -1.0"),
    ],
)
def test_bad_fields(fields, message):
    with pytest.raises(ValueError, match=message):
        CapsuleClassification(model=types.SimpleNamespace(num_classes=3), **fields)
