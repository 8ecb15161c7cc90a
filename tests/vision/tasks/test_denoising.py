"""Denoising: statistics of the noise, losses by hand, padding, greedy training, pictures."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from training.optimizer import with_rules
from vision.models.denoising_autoencoder import Reconstruction, StackedAutoencoder
from vision.tasks.denoising import Denoising, corruption

KEY = jax.random.key(0)
MODEL = StackedAutoencoder(widths=(8, 6))
LINEAR = StackedAutoencoder(widths=(8, 6), output="identity")


def make_batch(size=6, seed=0):
    rng = np.random.default_rng(seed)
    return {"image": rng.integers(0, 256, (size, 4, 4, 1), dtype=np.uint8)}


def start(task, batch):
    """Parameters of the initial size, drawn by numpy, so that nothing compiles."""
    shapes, _ = jax.eval_shape(task.init, KEY, batch)
    rng = np.random.default_rng(3)

    def leaf(x):
        scale = (x.ndim > 1) / np.sqrt(np.prod(x.shape[:-1]))
        return rng.normal(scale=scale, size=x.shape).astype(np.float32)

    return jax.tree.map(leaf, shapes)


def draw(noise, amount, rng=KEY, shape=(400, 100)):
    keep, add = corruption(rng, shape, noise=noise, amount=amount)
    assert keep.dtype == add.dtype == jnp.float32
    assert keep.shape == add.shape == shape
    return np.asarray(keep), np.asarray(add)


@pytest.mark.parametrize("amount", [0.0, 0.25, 1.0])
def test_masking_noise(amount):
    keep, add = draw("masking", amount)
    assert set(np.unique(keep)) <= {0, 1} and not add.any()
    # 40000 draws: five standard deviations are below 0.011.
    assert 1 - keep.mean() == pytest.approx(amount, abs=0.011 * (0 < amount < 1))
    # Every pixel and every example is hit.
    if amount == 0.25:
        assert keep.mean(0).min() > 0.6 and keep.mean(1).max() < 0.95


@pytest.mark.parametrize("amount", [0.0, 0.4, 1.0])
def test_salt_and_pepper_noise(amount):
    keep, add = draw("salt_and_pepper", amount)
    changed = 0.5 * keep + add  # of a grey image
    for value, share in ((0, amount / 2), (1, amount / 2), (0.5, 1 - amount)):
        assert (changed == value).mean() == pytest.approx(share, abs=0.013)
    assert set(np.unique(changed)) <= {0, 0.5, 1}


def test_gaussian_noise():
    keep, add = draw("gaussian", 0.3)
    assert (keep == 1).all()
    assert add.mean() == pytest.approx(0, abs=0.008)
    assert add.std() == pytest.approx(0.3, rel=0.02)


def test_noise_depends_on_the_key_alone():
    for noise in ("masking", "gaussian", "salt_and_pepper"):
        one, again, other = (
            np.concatenate(draw(noise, 0.3, jax.random.key(k))) for k in (1, 1, 2)
        )
        np.testing.assert_array_equal(one, again)
        assert (one != other).mean() > 0.1


@pytest.mark.parametrize("train", [False, True])
def test_prepare_corrupts_in_training_and_evaluation(train):
    task = Denoising(model=StackedAutoencoder(widths=(8, 6), trained_layer=1))
    prepared = task.prepare(make_batch(), rng=KEY, train=train)
    assert prepared["keep"].shape == prepared["add"].shape == (6, 8)
    assert 0 < prepared["keep"].mean() < 1
    assert len(task.inputs(prepared)) == 3
    image = prepared["image"]
    np.testing.assert_allclose(image, make_batch()["image"] / 255, atol=1e-6)
    assert len(task.plain_inputs(make_batch())) == 1


@pytest.mark.parametrize("objective", ["cross_entropy", "squared_error"])
def test_loss_by_hand(objective):
    rng = np.random.default_rng(1)
    logits = 3 * rng.normal(size=(6, 16)).astype(np.float32)
    target = rng.random((6, 16)).astype(np.float32)
    value = 1 / (1 + np.exp(-logits))
    outputs = Reconstruction(*map(jnp.asarray, (logits, value, target)), None, None)
    task = Denoising(model=MODEL, objective=objective)
    scalar, metrics = task.loss(outputs, make_batch())
    square = ((value - target) ** 2).mean()
    entropy = -(target * np.log(value) + (1 - target) * np.log(1 - value)).mean()
    expected = entropy if objective == "cross_entropy" else square
    np.testing.assert_allclose(scalar, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"].compute(), expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["squared_error"].compute(), square, rtol=1e-5)
    assert metrics["loss"].count == 6


def test_cross_entropy_is_finite_for_sure_guesses():
    logits, target = jnp.array([[1e4, -1e4]]), jnp.array([[0.0, 0.0]])
    outputs = Reconstruction(logits, jax.nn.sigmoid(logits), target, None, None)
    scalar, _ = Denoising(model=MODEL).loss(outputs, make_batch(1))
    np.testing.assert_allclose(scalar, 5e3)


@pytest.mark.parametrize(
    "task",
    [
        Denoising(model=MODEL, noise="salt_and_pepper"),
        Denoising(model=LINEAR, objective="squared_error", noise="gaussian"),
    ],
)
def test_padding_has_no_influence_on_loss_or_gradient(task):
    image = make_batch()["image"].astype(np.float32) / 255
    params = start(task, {"image": image})
    # Rows of noise are drawn for the whole batch, so the same size with other junk.
    image = np.concatenate([image, image[:3]])
    mask = np.arange(9) < 6

    @jax.jit
    @jax.value_and_grad
    def run(params, image):
        batch = {"image": image, "mask": mask}
        outputs, batch, _ = task.apply(params, {}, batch, rng=KEY, train=True)
        return task.loss(outputs, batch)[0]

    plain, plain_grad = run(params, image)
    for junk in (0.0, 1e20, -3.0):
        image[6:] = junk
        value, grad = run(params, image)
        assert value == plain
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
            grad,
            plain_grad,
        )


def test_a_batch_of_padding_alone_gives_zero_and_no_nan():
    task = Denoising(model=MODEL)
    nan = jnp.full((6, 16), jnp.nan)
    batch = {**make_batch(), "mask": np.zeros(6, bool)}
    outputs = Reconstruction(nan, nan, nan, nan, nan)
    scalar, metrics = task.loss(outputs, batch)
    assert scalar == 0 and all(m.compute() == 0 for m in metrics.values())
    assert task.pictures(outputs, batch) == {}


@pytest.mark.parametrize("noise", ["gaussian", "salt_and_pepper"])
def test_one_device_as_many(noise):
    task = Denoising(model=MODEL, noise=noise)
    batch = make_batch(8)
    params = start(task, batch)

    @jax.jit
    def run(batch):
        outputs, prepared, _ = task.apply(params, {}, batch, rng=KEY, train=True)
        return task.loss(outputs, prepared)[0], prepared["keep"], prepared["add"]

    mesh = Mesh(np.array(jax.devices()), "data")
    spread = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
    (one, *noise), (many, *same) = run(batch), run(spread)
    np.testing.assert_allclose(one, many, rtol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, noise, same)


def fit(task, optimizer, batch, params, steps=300):
    """(params, losses) of training on one batch, with new noise each step."""

    def step(carry, rng):
        params, opt_state = carry

        def loss(params):
            outputs, prepared, _ = task.apply(params, {}, batch, rng=rng, train=True)
            return task.loss(outputs, prepared)[0]

        value, grads = jax.value_and_grad(loss)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), value

    carry = params, optimizer.init(params)
    scan = jax.jit(lambda c: jax.lax.scan(step, c, jax.random.split(KEY, steps)))
    (params, _), losses = scan(carry)
    return params, np.asarray(losses)


def test_it_learns_a_handful_of_images():
    """To restore four images from three quarters of their pixels."""
    model = StackedAutoencoder(widths=(32, 16), activation="gelu")
    task = Denoising(
        model=model, noise="salt_and_pepper", amount=0.25, objective="squared_error"
    )
    batch = make_batch(4)
    params = start(task, batch)
    _, losses = fit(task, optax.adam(1e-2), batch, params)
    assert losses[0] > 0.06 and losses[-20:].mean() < 0.015


def test_greedy_training_moves_one_layer_only():
    """Also under an optimizer that would move parameters without a gradient."""
    model = StackedAutoencoder(widths=(8, 6), trained_layer=1)
    task = Denoising(model=model, noise="masking", amount=0.2)
    batch = make_batch(4)
    before = start(task, batch)
    rule = optax.adamw(3e-2, weight_decay=0.01)
    optimizer = with_rules(rule, frozen=("^(encoder|decoder)_0/",))
    after, losses = fit(task, optimizer, batch, before, steps=100)
    assert losses[-1] < losses[0] - 0.02
    for name in before:
        same = jax.tree.map(np.array_equal, before[name], after[name])
        assert set(jax.tree.leaves(same)) == {name.endswith("_0")}, name


@pytest.mark.parametrize("layer", [None, 1])
def test_pictures_show_what_was_seen_made_and_true(layer, monkeypatch):
    shown = []

    def triplets(*images):
        shown.extend(images)
        return np.zeros((1, 1, 3), np.uint8)

    monkeypatch.setattr("vision.visualize.triplets", triplets)
    model = StackedAutoencoder(widths=(8, 6), trained_layer=layer)
    task = Denoising(model=model, noise="salt_and_pepper", amount=0.5)
    batch = {**make_batch(), "mask": np.arange(6) < 4}
    params = start(task, batch)
    outputs, prepared, _ = jax.device_get(
        jax.jit(lambda p: task.apply(p, {}, batch, rng=KEY, train=False))(params)
    )
    assert task.pictures(outputs, prepared).keys() == {"reconstructions"}
    corrupted, restored, true = shown
    assert all(x.shape == (4, 4, 4, 1) and x.dtype == np.uint8 for x in shown)
    np.testing.assert_array_equal(true, batch["image"][:4])
    if layer is None:
        keep = prepared["keep"][:4].reshape(true.shape) == 1
        np.testing.assert_array_equal(corrupted[keep], true[keep])
        assert set(np.unique(corrupted[~keep])) == {0, 255}
    assert np.ptp(restored) > 0 or layer is not None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"noise": "speckle"}, "noise is 'speckle'; known: masking"),
        ({"objective": "hinge"}, "objective is 'hinge'"),
        ({"amount": 1.5}, "amount is 1.5"),
        ({"noise": "gaussian", "amount": -1.0}, "amount is -1.0"),
        ({"model": LINEAR}, "reconstruction by 'identity'"),
        ({"mean": (0.5,), "std": (0.5,)}, "keep them in 0..1"),
    ],
)
def test_wrong_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Denoising(**{"model": MODEL, **fields})
