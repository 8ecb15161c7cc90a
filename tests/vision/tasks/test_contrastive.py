"""Contrastive: the loss by hand, padding, devices, batches with and without views."""

import functools

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from training import state as states
from training.step import eval_step, train_step
from vision.tasks.contrastive import Contrastive, similarities, unit_length

KEY = jax.random.key(0)


class Linear(nn.Module):
    """The least model: one product over all pixels of a view."""

    dim: int = 6

    @nn.compact
    def __call__(self, views, *, train=False):
        x = views.reshape(*views.shape[:2], -1)
        return nn.Dense(self.dim, name="projection")(x)

    def represent(self, image, *, train=False):
        return image.mean((1, 2))


def make_batch(size=6, side=4, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    views = rng.integers(0, 256, (size, 2, side, side, channels), dtype=np.uint8)
    return {"views": views, "label": np.arange(size, dtype=np.int32)}


def projections(size=6, dim=5, seed=1):
    return np.random.default_rng(seed).normal(size=(size, 2, dim)).astype(np.float32)


@functools.cache
def graded(task):
    return jax.jit(jax.value_and_grad(task.loss, has_aux=True))


def run(task, outputs, mask=None):
    """Loss, metrics and gradient of outputs."""
    batch = {} if mask is None else {"mask": mask}
    (loss, metrics), gradient = jax.device_get(graded(task)(outputs, batch))
    return loss, {k: m.compute() for k, m in metrics.items()}, gradient


def naive(outputs, temperature):
    """Pair by pair in float64: the losses of all 2B views, and who finds its partner."""
    x = outputs.reshape(-1, outputs.shape[-1]).astype(np.float64)
    losses, right = [], []
    for i in range(len(x)):
        partner = i + 1 if i % 2 == 0 else i - 1
        scores = {
            j: x[i] @ x[j] / (np.linalg.norm(x[i]) * np.linalg.norm(x[j])) / temperature
            for j in range(len(x))
            if j != i
        }
        total = sum(np.exp(s) for s in scores.values())
        losses.append(-np.log(np.exp(scores[partner]) / total))
        right.append(max(scores, key=scores.get) == partner)
    return np.mean(losses), np.mean(right)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_the_loss_is_that_of_every_pair_by_itself(temperature):
    task = Contrastive(model=Linear(), temperature=temperature)
    outputs = projections(16)
    outputs[:10, 1] = outputs[:10, 0] + 0.3 * outputs[:10, 1]
    loss, metrics, _ = run(task, outputs)
    expected, right = naive(outputs, temperature)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    np.testing.assert_allclose(metrics["accuracy"], right, rtol=1e-6)
    assert 0.2 < right < 1
    unit = outputs / np.linalg.norm(outputs, axis=-1, keepdims=True)
    distance = np.square(unit[:, 0] - unit[:, 1]).sum(-1).mean()
    np.testing.assert_allclose(metrics["alignment"], distance, rtol=1e-5)


def test_two_images_by_hand():
    """Partners coincide, the other image is orthogonal: log(1 + 2 exp(-1 / t))."""
    outputs = np.array([[[3, 0], [5, 0]], [[0, 2], [0, 1]]], np.float32)
    loss, metrics, _ = run(Contrastive(model=Linear(), temperature=0.5), outputs)
    np.testing.assert_allclose(loss, np.log(1 + 2 * np.exp(-2)), rtol=1e-6)
    assert metrics["accuracy"] == 1 and metrics["alignment"] < 1e-6


@pytest.mark.parametrize("size", [2, 7])
def test_equal_features_know_nothing(size):
    outputs = np.ones((size, 2, 5), np.float32)
    loss, metrics, _ = run(Contrastive(model=Linear()), outputs)
    np.testing.assert_allclose(loss, np.log(2 * size - 1), rtol=1e-6)
    assert metrics["accuracy"] == 0


def test_lengths_and_orders_do_not_matter():
    task, outputs = Contrastive(model=Linear()), projections()
    loss, _, _ = run(task, outputs)
    scale = np.random.default_rng(2).uniform(0.1, 50, (6, 2, 1)).astype(np.float32)
    for same in (outputs * scale, outputs[::-1], outputs[:, ::-1]):
        np.testing.assert_allclose(run(task, same.copy())[0], loss, rtol=1e-5)


@pytest.mark.parametrize("junk", [0.0, 1e30, np.nan])
def test_padding_is_neither_positive_nor_negative(junk):
    task, outputs = Contrastive(model=Linear()), projections()
    plain_loss, plain, plain_gradient = run(task, outputs, np.ones(6, bool))
    padded = np.concatenate([outputs, np.full((3, 2, 5), junk, np.float32)])
    padded = padded[[6, 0, 1, 2, 7, 3, 4, 5, 8]]
    real = np.array([0, 1, 1, 1, 0, 1, 1, 1, 0], bool)
    loss, metrics, gradient = run(task, padded, real)
    np.testing.assert_allclose(loss, plain_loss, rtol=1e-6)
    for name, value in plain.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-6, err_msg=name)
    np.testing.assert_allclose(gradient[real], plain_gradient, rtol=1e-4, atol=1e-7)
    np.testing.assert_array_equal(gradient[~real], 0)


def test_a_batch_of_padding_alone_and_one_image_alone():
    task, outputs = Contrastive(model=Linear()), projections()
    for count in (0, 1):
        loss, metrics, gradient = run(task, outputs, np.arange(6) < count)
        assert loss == 0 and np.isfinite(gradient).all()
        assert metrics["accuracy"] == count  # nobody else to be mistaken for


def test_the_loss_counts_images():
    metrics = jax.jit(lambda o: Contrastive(model=Linear()).loss(o, {})[1])(
        projections()
    )
    assert metrics["loss"].count == 6 and metrics["accuracy"].count == 12


def test_sharp_temperatures_and_zero_vectors_stay_finite():
    outputs = projections()
    outputs[0] = 0
    loss, _, gradient = run(Contrastive(model=Linear(), temperature=1e-3), outputs)
    assert np.isfinite(loss) and np.isfinite(gradient).all()
    assert jax.jit(unit_length)(np.zeros((2, 3), np.float32)).tolist() == [[0] * 3] * 2


def test_half_precision_outputs_are_judged_in_float32():
    outputs = projections().astype("bfloat16")
    task = Contrastive(model=Linear())
    loss, _ = jax.jit(task.loss)(outputs, {})
    assert loss.dtype == np.float32
    exact, _, _ = run(task, outputs.astype(np.float32))
    np.testing.assert_allclose(loss, exact, rtol=1e-6)


def test_the_positive_pulls_and_negatives_push():
    outputs = projections()
    _, _, gradient = run(Contrastive(model=Linear(), temperature=0.5), outputs)
    closer = outputs - 0.05 * gradient
    before, after = (np.asarray(similarities(x, 1.0)) for x in (outputs, closer))
    rows = np.arange(12)
    assert (after - before)[rows, rows ^ 1].mean() > 0
    others = ~np.eye(12, dtype=bool)
    others[rows, rows ^ 1] = False
    assert (after - before)[others].mean() < 0


@pytest.mark.parametrize("padding", [False, True])
def test_eight_devices_compare_all_views_like_one(padding):
    task = Contrastive(model=Linear())
    batch = {**make_batch(16), "mask": np.arange(16) < (11 if padding else 16)}
    kernel = np.random.default_rng(0).normal(0, 0.1, (48, 6))
    params = {"projection": {"kernel": kernel, "bias": np.zeros(6)}}

    def learn(params, batch):
        def loss(params):
            outputs, prepared, _ = task.apply(params, {}, batch, rng=KEY, train=True)
            return task.loss(outputs, prepared)

        return jax.value_and_grad(loss, has_aux=True)(params)

    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    whole = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec("data"))
    spread = jax.jit(learn, in_shardings=(whole, split), out_shardings=whole)
    one, eight = jax.jit(learn)(params, batch), spread(params, batch)
    assert float(one[0][0]) > 1
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), one, eight
    )


def test_accumulation_shrinks_the_pool_of_negatives():
    """As documented: k = 4 micro-batches of equal features lose log(2B / 4 - 1)."""
    task, optimizer = Contrastive(model=Linear()), optax.sgd(0.1)
    batch = make_batch(8)
    batch["views"][:] = 7
    state = jax.jit(lambda: states.create(task, optimizer, batch, seed=0, ema=False))()
    for k, size in ((1, 8), (4, 2)):
        step = jax.jit(
            lambda s, b, k=k: train_step(
                s, b, task=task, optimizer=optimizer, accumulation_steps=k
            )[1]
        )
        loss = jax.device_get(step(state, batch)["loss"])
        assert loss.count == 8
        np.testing.assert_allclose(loss.compute(), np.log(2 * size - 1), rtol=1e-5)


def test_it_learns_which_views_belong_together():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 200, (24, 1, 4, 4, 1))
    noise = rng.integers(0, 56, (24, 2, 4, 4, 1))
    batch = {"views": (image + noise).astype(np.uint8)}
    task, optimizer = Contrastive(model=Linear(4)), optax.adam(0.03)
    state = jax.jit(lambda: states.create(task, optimizer, batch, seed=0, ema=False))()
    step = jax.jit(lambda s, b: train_step(s, b, task=task, optimizer=optimizer))
    evaluate = jax.jit(lambda s, b: eval_step(s, b, task=task))
    before = jax.device_get(evaluate(state, batch))
    for _ in range(60):
        state, _ = step(state, batch)
    after = jax.device_get(evaluate(state, batch))
    assert after["accuracy"].compute() > 0.95 > before["accuracy"].compute()
    assert after["loss"].compute() < 0.5 * before["loss"].compute()


# Batches of training hold `views`; those of evaluators and probes `image`; or both.


def test_a_batch_of_views():
    task, batch = Contrastive(model=Linear(), mean=(0.2,), std=(0.3,)), make_batch()
    task.check(batch)
    prepared = task.prepare(batch, rng=KEY, train=True)
    assert set(prepared) == {"views", "label"}
    expected = (batch["views"] / 255 - 0.2) / 0.3
    np.testing.assert_allclose(prepared["views"], expected, rtol=1e-5, atol=1e-5)
    (views,) = task.inputs(prepared)
    assert views is prepared["views"]
    (image,) = task.plain_inputs(batch)
    np.testing.assert_allclose(image, expected[:, 0], rtol=1e-5, atol=1e-5)
    shapes = jax.eval_shape(task.init, KEY, batch)
    assert shapes[0]["projection"]["kernel"].shape == (48, 6)


def test_a_batch_of_images_can_be_represented_but_has_no_loss():
    task = Contrastive(model=Linear())
    batch = {"image": make_batch()["views"][:, 0], "mask": np.ones(6, bool)}
    task.check(batch)
    prepared = task.prepare(batch, rng=KEY, train=False)
    expected = batch["image"] / 127.5 - 1
    np.testing.assert_allclose(prepared["image"], expected, rtol=1e-5, atol=1e-5)
    found = jax.jit(lambda b: task.represent({}, {}, b))(batch)
    np.testing.assert_allclose(found, expected.mean((1, 2)), atol=1e-5)
    with pytest.raises(ValueError, match="no 'views', only .*TwoViews") as error:
        task.inputs(prepared)
    assert "\n" not in str(error.value)


def test_a_batch_of_both_is_represented_by_its_images():
    task, batch = Contrastive(model=Linear()), make_batch()
    batch["image"] = 255 - batch["views"][:, 1]
    task.check(batch)
    prepared = task.prepare(batch, rng=KEY, train=False)
    assert prepared["views"].dtype == prepared["image"].dtype == np.float32
    (image,) = task.plain_inputs(batch)
    np.testing.assert_allclose(image, batch["image"] / 127.5 - 1, atol=1e-5)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"label": np.zeros(2)}, "no 'views', only .*task.views_key"),
        (
            {"views": np.zeros((2, 3, 4, 4, 3), np.uint8)},
            r"\(2, 3, 4, 4, 3\).*TwoViews",
        ),
        ({"views": np.zeros((2, 4, 4, 3), np.uint8)}, r"\(2, 4, 4, 3\)"),
        ({"views": np.zeros((2, 2, 4, 4, 1), np.uint8)}, "3 values for images of 1"),
        ({"image": np.zeros((2, 4, 4), np.uint8)}, r"image has shape \(2, 4, 4\)"),
    ],
)
def test_check_names_the_value_and_the_remedy(batch, message):
    task = Contrastive(model=Linear(), mean=(0.1, 0.2, 0.3))
    with pytest.raises(ValueError, match=message) as error:
        task.check(batch)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_bad_temperatures(temperature):
    with pytest.raises(ValueError, match="temperature is"):
        Contrastive(model=Linear(), temperature=temperature)


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_show_pairs_of_real_rows(channels):
    task = Contrastive(model=Linear())
    batch = {**make_batch(channels=channels), "mask": np.arange(6) < 2}
    few = task.pictures(projections(), batch)["views"]
    more = task.pictures(projections(), {**batch, "mask": np.ones(6, bool)})["views"]
    assert few.dtype == np.uint8 and few.shape[-1] == 3 and more.size > few.size
    assert task.pictures(projections(), {**batch, "mask": np.zeros(6, bool)}) == {}
    # The left half of the first pair is the first view, enlarged.
    corner = np.broadcast_to(batch["views"][0, 0, 0, 0], 3)
    np.testing.assert_array_equal(few[4 + 5, 4 + 5], corner)
    corner = np.broadcast_to(batch["views"][0, 1, 0, 0], 3)
    np.testing.assert_array_equal(few[4 + 5, 4 + 112 + 5], corner)
