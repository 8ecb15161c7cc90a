"""Colourisation: the loss by hand, rebalancing, padding, pictures, learning."""

import functools

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vision.models.colorization import Colorization as Model
from vision.ops import lab
from vision.tasks.colorization import Colorization

KEY = jax.random.key(0)
soft_encode = jax.jit(lab.soft_encode)
PRIOR = tuple(np.random.default_rng(5).dirichlet(np.full(313, 0.3)).tolist())


class Linear(nn.Module):
    """The least model: each 2x2 patch by one product."""

    @nn.compact
    def __call__(self, image, *, train=False):
        return nn.Conv(313, (2, 2), strides=(2, 2), name="head")(image)


class Patches(nn.Module):
    """The least backbone that learns: a hidden layer on each 2x2 patch."""

    @nn.compact
    def features(self, image, *, train=False):
        return nn.gelu(nn.Conv(64, (2, 2), strides=(2, 2), name="patch")(image))


@functools.partial(jax.jit, static_argnums=0)
def prepare(task, batch):
    return task.prepare(batch, rng=KEY, train=False)


@functools.partial(jax.jit, static_argnums=0)
def loss(task, logits, prepared):
    return task.loss(logits, prepared)


def coarse(prepared):
    """ab of the 2x2 grid, by numpy."""
    return np.asarray(prepared["ab"]).reshape(-1, 2, 2, 2, 2, 2).mean((2, 4))


def start(task, batch):
    """Parameters of the initial size, drawn by numpy, so that nothing compiles."""
    shapes, _ = jax.eval_shape(task.init, KEY, batch)
    rng = np.random.default_rng(3)

    def leaf(x):
        scale = (x.ndim > 1) / np.sqrt(np.prod(x.shape[:-1]))
        return rng.normal(scale=scale, size=x.shape).astype(np.float32)

    return jax.tree.map(leaf, shapes)


def make_batch(size=6, seed=0):
    rng = np.random.default_rng(seed)
    return {"image": rng.integers(0, 256, (size, 4, 4, 3), dtype=np.uint8)}


def random_logits(size=6):
    rng = np.random.default_rng(1)
    return rng.normal(size=(size, 2, 2, 313)).astype(np.float32) * 2


def test_prepare_gives_normalised_lightness_and_ab():
    batch = make_batch()
    task = Colorization(model=Linear(), mean=(0.4,), std=(0.2,))
    prepared = prepare(task, batch)
    expected = np.asarray(jax.jit(lab.rgb_to_lab)(batch["image"] / 255))
    np.testing.assert_allclose(
        prepared["lightness"], (expected[..., :1] / 100 - 0.4) / 0.2, atol=1e-5
    )
    np.testing.assert_allclose(prepared["ab"], expected[..., 1:], atol=1e-3)
    floats = {"image": (batch["image"] / 255).astype(np.float32)}
    again = prepare(task, floats)
    np.testing.assert_allclose(again["ab"], prepared["ab"], atol=1e-3)
    assert task.inputs(prepared)[0].shape == (6, 4, 4, 1)
    plain = jax.jit(task.plain_inputs)(batch)[0]
    np.testing.assert_allclose(plain, prepared["lightness"], atol=1e-6)


@pytest.mark.parametrize("prior", [None, PRIOR])
def test_loss_and_metrics_by_hand(prior):
    task = Colorization(model=Linear(), prior=prior)
    prepared = prepare(task, make_batch())
    logits = random_logits()
    scalar, metrics = loss(task, logits, prepared)
    ab = coarse(prepared)
    target = np.asarray(soft_encode(ab))
    odds = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    nearest = ((ab[..., None, :] - lab.ab_bins()) ** 2).sum(-1).argmin(-1)
    weight = np.ones(313) if prior is None else lab.class_weights(np.array(prior))
    entropy = weight[nearest] * -(target * np.log(odds)).sum(-1)
    np.testing.assert_allclose(scalar, entropy.mean(), rtol=1e-5)
    assert metrics["loss"].count == 6
    right = (logits.argmax(-1) == nearest).mean()
    np.testing.assert_allclose(metrics["accuracy"].compute(), right)
    powered = odds ** (1 / 0.38)
    guess = (powered / powered.sum(-1, keepdims=True)) @ lab.ab_bins()
    rmse = np.sqrt(((guess - ab) ** 2).sum(-1).mean((1, 2))).mean()
    np.testing.assert_allclose(metrics["ab_rmse"].compute(), rmse, rtol=1e-4)


def test_a_perfect_guess():
    task = Colorization(model=Linear())
    image = np.full((2, 4, 4, 3), 120, np.uint8)  # grey: exactly on a bin
    prepared = prepare(task, {"image": image})
    target = np.asarray(soft_encode(coarse(prepared)))
    scalar, metrics = loss(task, np.log(target + 1e-20), prepared)
    entropy = -(target * np.log(target + 1e-20)).sum(-1).mean()
    np.testing.assert_allclose(scalar, entropy, rtol=1e-4)
    assert metrics["accuracy"].compute() == 1
    assert metrics["ab_rmse"].compute() < 0.01


def test_padding_has_no_influence_on_loss_or_gradient():
    task = Colorization(model=Linear(), prior=PRIOR)
    image = make_batch()["image"].astype(np.float32) / 255
    params = start(task, {"image": image})

    @jax.jit
    @jax.value_and_grad
    def run(params, batch):
        outputs, batch, _ = task.apply(params, {}, batch, rng=KEY, train=True)
        return task.loss(outputs, batch)[0]

    plain, plain_grad = run(params, {"image": image})
    for junk in (0.0, 1e30, -3.0, np.nan):
        longer = {
            "image": np.concatenate([image, np.full((3, 4, 4, 3), junk, np.float32)]),
            "mask": np.arange(9) < 6,
        }
        value, grad = run(params, longer)
        np.testing.assert_allclose(value, plain, rtol=1e-5)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
            grad,
            plain_grad,
        )
    metrics = loss(task, np.zeros((9, 2, 2, 313), np.float32), prepare(task, longer))[1]
    counts = {k: float(m.count) for k, m in metrics.items()}
    assert counts == {"loss": 6, "accuracy": 24, "ab_rmse": 6}


def test_a_batch_of_padding_alone_gives_zero_and_no_nan():
    task = Colorization(model=Linear())
    batch = {**make_batch(), "mask": np.zeros(6, bool)}
    prepared = prepare(task, batch)
    logits = np.full((6, 2, 2, 313), np.nan, np.float32)
    scalar, metrics = loss(task, logits, prepared)
    assert scalar == 0 and all(m.compute() == 0 for m in metrics.values())
    assert task.pictures(logits, prepared) == {}


def test_rare_colours_weigh_more():
    grey_world = np.zeros(313)
    grey_world[np.abs(lab.ab_bins()).sum(1).argmin()] = 1
    red = np.tile(np.array([255, 0, 0], np.uint8), (1, 4, 4, 1))
    grey = np.full((1, 4, 4, 3), 90, np.uint8)
    task = Colorization(model=Linear(), prior=tuple(grey_world))
    flat = np.zeros((1, 2, 2, 313), np.float32)
    losses = [
        float(loss(task, flat, prepare(task, {"image": x}))[0]) for x in (red, grey)
    ]
    # The same entropy, log 313; only grey is common.
    assert losses[0] > 20 * losses[1] and losses[1] < np.log(313)


def test_one_device_as_many():
    task = Colorization(model=Linear(), prior=PRIOR)
    batch = make_batch(8)
    params = start(task, batch)

    @jax.jit
    def run(batch):
        outputs, prepared, _ = task.apply(params, {}, batch, rng=KEY, train=True)
        return task.loss(outputs, prepared)[0]

    mesh = Mesh(np.array(jax.devices()), "data")
    spread = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
    np.testing.assert_allclose(run(batch), run(spread), rtol=1e-5)


def test_pictures_show_true_colours_where_the_guess_is_right(monkeypatch):
    shown = {}

    def triplets(grey, guess, true):
        shown.update(grey=grey, guess=guess, true=true)
        return np.zeros((1, 1, 3), np.uint8)

    monkeypatch.setattr("vision.visualize.triplets", triplets)
    task = Colorization(model=Linear())
    # One colour near a bin's centre; a second row of padding.
    image = np.tile(np.array([193, 130, 92], np.uint8), (2, 4, 4, 1))
    batch = {"image": image, "mask": np.array([True, False])}
    prepared = prepare(task, batch)
    nearest = ((coarse(prepared)[..., None, :] - lab.ab_bins()) ** 2).sum(-1).argmin(-1)
    logits = 30 * np.eye(313, dtype=np.float32)[nearest]
    assert task.pictures(logits, jax.device_get(prepared)).keys() == {"colors"}
    assert all(x.shape == (1, 4, 4, 3) for x in shown.values())
    assert all(x.dtype == np.uint8 for x in shown.values())
    np.testing.assert_array_equal(shown["true"], image[:1])
    np.testing.assert_allclose(shown["guess"], image[:1].astype(float), atol=3)
    assert (np.ptp(shown["grey"].astype(int), axis=-1) <= 1).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prior": (1.0, 2.0)}, "give 313 numbers"),
        ({"prior": PRIOR, "uniform": 2.0}, "uniform is 2.0"),
        ({"mean": (0.1, 0.2, 0.3)}, "lightness has one channel"),
        ({"temperature": 0.0}, "temperature is 0.0"),
    ],
)
def test_wrong_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Colorization(model=Linear(), **fields)


def test_grey_images_are_refused():
    with pytest.raises(ValueError, match="images have 1 channels"):
        Colorization(model=Linear()).check({"image": np.zeros((2, 4, 4, 1), np.uint8)})


def test_a_prior_from_a_file(tmp_path):
    np.save(tmp_path / "prior.npy", np.array(PRIOR))
    task = Colorization(model=Linear(), prior=np.load(tmp_path / "prior.npy"))
    assert task.prior == PRIOR and hash(task) == hash(task)


def test_it_learns_a_handful_of_images():
    task = Colorization(model=Model(Patches()))
    batch = make_batch(4)
    params = start(task, batch)
    optimizer = optax.adam(1e-2)

    def step(carry, _):
        params, opt_state = carry

        def error(params):
            outputs, prepared, _ = task.apply(params, {}, batch, rng=KEY, train=True)
            return task.loss(outputs, prepared)

        grads, metrics = jax.grad(error, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), metrics

    train = jax.jit(lambda carry: jax.lax.scan(step, carry, length=300))
    _, metrics = train((params, optimizer.init(params)))
    accuracy = metrics["accuracy"].total / metrics["accuracy"].count
    rmse = metrics["ab_rmse"].total / metrics["ab_rmse"].count
    assert accuracy[0] < 0.2 and accuracy[-1] > 0.95
    assert rmse[-1] < 0.2 * rmse[0]
