"""Rotation: turns exact and by hand, rows and masks, devices, pictures, learning."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from training import state as states
from training.step import eval_step, train_step
from vision import visualize
from vision.tasks.rotation import Rotation, all_rotations, rotate


class Linear(nn.Module):
    """The least model: one product over all pixels."""

    num_classes: int = 4

    @nn.compact
    def __call__(self, image, *, train=False):
        return nn.Dense(self.num_classes, name="head")(image.reshape(len(image), -1))

    def represent(self, image, *, train=False):
        return image.mean((1, 2))


def make_batch(size=6, side=5, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (size, side, side, channels), dtype=np.uint8)
    return {"image": image, "label": np.arange(size, dtype=np.int32)}


KEY = jax.random.key(0)


@functools.cache
def preparation(task, train):
    """Compiled as one program: much faster here than operation by operation."""
    return jax.jit(lambda batch, rng: task.prepare(batch, rng=rng, train=train))


def prepare(task, batch, *, rng=KEY, train=False):
    return preparation(task, train)(batch, rng)


@functools.cache
def metrics_of(task):
    return jax.jit(lambda outputs, batch: task.loss(outputs, batch)[1])


def measure(task, outputs, batch):
    """Metrics of outputs, by value."""
    metrics = jax.device_get(metrics_of(task)(outputs, batch))
    return {name: metric.compute() for name, metric in metrics.items()}


def test_turns_by_hand():
    image = np.array([[1, 2], [3, 4]], np.uint8)[None, :, :, None]
    turned = np.asarray(all_rotations(jnp.asarray(image)))[..., 0]
    expected = [[[1, 2], [3, 4]], [[2, 4], [1, 3]], [[4, 3], [2, 1]], [[3, 1], [4, 2]]]
    np.testing.assert_array_equal(turned, expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("side", [4, 5])
def test_turns_are_those_of_numpy_to_the_last_bit(dtype, side):
    image = make_batch(8, side)["image"].astype(dtype) / dtype(3)
    image = image.astype(dtype)
    turns = np.array([0, 1, 2, 3, 3, 2, 1, 0])
    found = np.asarray(jax.jit(rotate)(image, turns))
    expected = np.stack([np.rot90(x, k) for x, k in zip(image, turns, strict=True)])
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, expected)
    every = np.asarray(jax.jit(all_rotations)(image)).reshape(8, 4, *image.shape[1:])
    for k in range(4):
        np.testing.assert_array_equal(every[:, k], np.rot90(image, k, axes=(1, 2)))


@pytest.mark.parametrize("copies", ["all", "random"])
@pytest.mark.parametrize("train", [False, True])
def test_rows_of_a_prepared_batch(copies, train):
    task = Rotation(model=Linear(), copies=copies, mean=(0.1, 0.2, 0.3), std=(0.5,))
    batch = {**make_batch(), "mask": np.arange(6) != 2}
    found = prepare(task, batch, train=train)
    times = 1 if train and copies == "random" else 4
    assert {k: len(v) for k, v in found.items()} == dict.fromkeys(
        ("image", "label", "mask", "rotation"), 6 * times
    )
    np.testing.assert_array_equal(found["label"], np.repeat(batch["label"], times))
    np.testing.assert_array_equal(found["mask"], np.repeat(batch["mask"], times))
    assert found["image"].dtype == jnp.float32
    plain = np.asarray(task.normalize(batch["image"]))
    for row, turns in enumerate(np.asarray(found["rotation"])):
        expected = np.rot90(plain[row // times], turns)
        np.testing.assert_allclose(found["image"][row], expected, atol=1e-6)
    if times == 4:
        np.testing.assert_array_equal(found["rotation"], [0, 1, 2, 3] * 6)


def test_floats_and_integers_are_turned_alike():
    batch = make_batch()
    floats = {**batch, "image": (batch["image"] / 255).astype(np.float32)}
    task = Rotation(model=Linear(), copies="random")
    one, other = (prepare(task, b, train=True) for b in (batch, floats))
    np.testing.assert_array_equal(one["rotation"], other["rotation"])
    np.testing.assert_allclose(one["image"], other["image"], atol=1e-6)


def test_random_turns_are_equally_frequent_and_follow_the_rng():
    task = Rotation(model=Linear(), copies="random")
    batch = make_batch(4000, 1, 1)
    first, again, other = (
        np.asarray(prepare(task, batch, rng=jax.random.key(k), train=True)["rotation"])
        for k in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.6
    # Within five standard deviations of 1000.
    assert np.abs(np.bincount(first, minlength=4) - 1000).max() < 140


def test_evaluation_does_not_depend_on_the_rng():
    task = Rotation(model=Linear(), copies="random")
    one, other = (prepare(task, make_batch(), rng=jax.random.key(k)) for k in (1, 2))
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_model_without_preference_is_at_chance():
    task = Rotation(model=Linear())
    batch = prepare(task, make_batch())
    np.testing.assert_allclose(
        measure(task, np.zeros((24, 4)), batch)["loss"], np.log(4), rtol=1e-6
    )
    always = np.tile(np.eye(4)[1], (24, 1))
    assert measure(task, always, batch)["accuracy"] == 0.25


def test_loss_by_hand():
    task = Rotation(model=Linear())
    batch = prepare(task, make_batch(2))
    logits = np.random.default_rng(1).normal(size=(8, 4)).astype(np.float32)
    odds = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    found = measure(task, logits, batch)
    expected = -np.log(odds[np.arange(8), [0, 1, 2, 3] * 2]).mean()
    np.testing.assert_allclose(found["loss"], expected, rtol=1e-6)
    hits = (logits.argmax(-1) == [0, 1, 2, 3] * 2).mean()
    np.testing.assert_allclose(found["accuracy"], hits)


def test_padding_has_no_influence_on_loss_or_gradient():
    task = Rotation(model=Linear())
    image = make_batch()["image"].astype(np.float32) / 255
    params = {"head": {"kernel": np.full((75, 4), 0.1), "bias": np.arange(4) / 9}}

    @jax.jit
    def run(params, batch):
        def loss(params):
            outputs, prepared, _ = task.apply(params, {}, batch, rng=KEY, train=False)
            return task.loss(outputs, prepared)

        return jax.value_and_grad(loss, has_aux=True)(params)

    (plain, metrics), gradient = run(params, {"image": image, "mask": np.ones(6, bool)})
    assert metrics["loss"].count == 24
    for junk in (0.0, 1e30):
        padding = np.full((2, 5, 5, 3), junk, np.float32)
        batch = {"image": np.concatenate([image, padding]), "mask": np.arange(8) < 6}
        (value, padded_metrics), padded_gradient = run(params, batch)
        np.testing.assert_allclose(value, plain, rtol=1e-6)
        assert padded_metrics["accuracy"].count == metrics["accuracy"].count == 24
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
            padded_gradient,
            gradient,
        )
    (value, _), _ = run(params, {**batch, "mask": np.zeros(8, bool)})
    assert value == 0


@pytest.mark.parametrize("copies", ["all", "random"])
def test_eight_devices_turn_and_learn_like_one(copies):
    task = Rotation(model=Linear(), copies=copies)
    batch = make_batch(16)
    kernel = np.random.default_rng(0).normal(0, 0.1, (75, 4))
    params = {"head": {"kernel": kernel, "bias": np.zeros(4)}}

    def run(params, batch):
        def loss(params):
            outputs, prepared, _ = task.apply(params, {}, batch, rng=KEY, train=True)
            return task.loss(outputs, prepared)[0], prepared["rotation"]

        return jax.value_and_grad(loss, has_aux=True)(params)

    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    whole = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec("data"))
    (one, turns), gradient = jax.jit(run)(params, batch)
    spread = jax.jit(run, in_shardings=(whole, split), out_shardings=whole)
    (eight, spread_turns), spread_gradient = spread(params, batch)
    np.testing.assert_array_equal(turns, spread_turns)
    np.testing.assert_allclose(one, eight, rtol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        gradient,
        spread_gradient,
    )


def start(task, batch, optimizer):
    return jax.jit(lambda: states.create(task, optimizer, batch, seed=0, ema=False))()


def compiled_step(task, optimizer, **options):
    return jax.jit(
        lambda state, batch: train_step(
            state, batch, task=task, optimizer=optimizer, **options
        )
    )


def test_accumulation_of_all_copies_equals_the_full_batch():
    task, optimizer = Rotation(model=Linear()), optax.sgd(0.1)
    batch = {**make_batch(8), "mask": np.arange(8) != 3}
    state = start(task, batch, optimizer)
    (whole, metrics), (parts, part_metrics) = (
        compiled_step(task, optimizer, accumulation_steps=k)(state, batch)
        for k in (1, 4)
    )
    one, other = (jax.device_get(m["loss"]) for m in (metrics, part_metrics))
    assert one.count == other.count == 28
    np.testing.assert_allclose(one.total, other.total, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        whole.params,
        parts.params,
    )


@pytest.mark.parametrize(
    "copies", ["all", pytest.param("random", marks=pytest.mark.slow)]
)
def test_it_learns_which_side_is_up(copies):
    """Pictures that are brighter at the top than below."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(160, 40, 5)[:, None, None]
    noise = rng.integers(0, 60, (32, 5, 5, 1))
    batch = {"image": (ramp + noise).astype(np.uint8)}
    task, optimizer = Rotation(model=Linear(), copies=copies), optax.adam(0.03)
    state = start(task, batch, optimizer)
    step = compiled_step(task, optimizer)
    for _ in range(100):
        state, _ = step(state, batch)
    found = jax.jit(lambda s, b: eval_step(s, b, task=task))(state, batch)
    assert jax.device_get(found["accuracy"]).compute() > 0.98


def test_represent_sees_images_as_they_are():
    task = Rotation(model=Linear())
    batch = make_batch()
    found = task.represent({}, {}, batch)
    np.testing.assert_allclose(found, task.normalize(batch["image"]).mean((1, 2)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": Linear(10)}, "num_classes=10 for 4 rotations.*num_classes=4"),
        ({"model": nn.Dense(4)}, "num_classes=None"),
        ({"model": Linear(), "copies": "some"}, "copies is 'some'; known: all, random"),
        ({"model": Linear(), "std": (0.0,)}, "std is"),
    ],
)
def test_bad_fields(fields, message):
    with pytest.raises(ValueError, match=message) as error:
        Rotation(**fields)
    assert "\n" not in str(error.value)


def test_images_have_to_be_square():
    task = Rotation(model=Linear())
    batch = {"image": np.zeros((2, 4, 5, 3), np.uint8)}
    for call in (task.check, lambda b: task.prepare(b, rng=KEY, train=True)):
        with pytest.raises(ValueError, match="4x5.*square"):
            call(batch)
    with pytest.raises(ValueError, match="no 'image'"):
        task.check({"label": np.zeros(2)})
    task.check(make_batch())


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_green_where_right_and_red_where_wrong(channels):
    task = Rotation(model=Linear())
    batch = {**make_batch(channels=channels), "mask": np.arange(6) < 2}
    batch = jax.device_get(prepare(task, batch))
    logits = 5 * np.eye(4)[batch["rotation"]]
    right = task.pictures(logits, batch)["rotations"]
    wrong = task.pictures(-logits, batch)["rotations"]
    assert right.dtype == np.uint8 and right.shape[-1] == 3
    for picture, color in ((right, visualize.GREEN), (wrong, visualize.RED)):
        assert list(color) in picture.reshape(-1, 3).tolist()
    assert list(visualize.RED) not in right.reshape(-1, 3).tolist()
    assert task.pictures(logits, {**batch, "mask": np.zeros(24, bool)}) == {}
