"""Classification: losses by hand, padding without influence, checks, pictures."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision import visualize
from vision.ops.mixing import CutMix, Mixup
from vision.tasks.classification import Classification


class Linear(nn.Module):
    """The least model: one product over all pixels."""

    num_classes: int
    dtype: object = None

    @nn.compact
    def __call__(self, image, *, train=False):
        x = image.reshape(len(image), -1)
        return nn.Dense(self.num_classes, dtype=self.dtype, name="head")(x)


def make_batch(size=6, num_classes=10, image_size=4, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    shape = (size, image_size, image_size, channels)
    return {
        "image": rng.integers(0, 256, shape, dtype=np.uint8),
        "label": rng.integers(0, num_classes, size).astype(np.int32),
    }


def random_logits(size=6, num_classes=10, seed=1):
    return np.random.default_rng(seed).normal(size=(size, num_classes)) * 3


def test_softmax_loss_by_hand():
    batch, logits = make_batch(), random_logits()
    scalar, metrics = Classification(model=Linear(10)).loss(jnp.asarray(logits), batch)
    odds = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = -np.log(odds[np.arange(6), batch["label"]]).mean()
    np.testing.assert_allclose(scalar, expected, rtol=1e-6)
    np.testing.assert_allclose(metrics["loss"].compute(), expected, rtol=1e-6)
    assert metrics["loss"].count == 6
    top = logits.argsort(-1)[:, ::-1]
    hits = top == batch["label"][:, None]
    np.testing.assert_allclose(metrics["accuracy"].compute(), hits[:, 0].mean())
    top5 = hits[:, :5].any(-1).mean()
    np.testing.assert_allclose(metrics["top5_accuracy"].compute(), top5)


def test_further_heads_weigh_in_the_loss_and_not_in_the_accuracy():
    batch, logits, others = make_batch(), random_logits(), random_logits(seed=2)
    batch["mask"] = np.arange(6) < 4
    task = Classification(model=Linear(10), auxiliary_weight=0.4)
    losses = [task.loss(jnp.asarray(x), batch)[0] for x in (logits, others)]
    others[4:] = np.nan
    scalar, metrics = task.loss((jnp.asarray(logits), jnp.asarray(others)), batch)
    np.testing.assert_allclose(scalar, losses[0] + 0.4 * losses[1], rtol=1e-6)
    hits = (logits.argmax(-1) == batch["label"])[:4].mean()
    np.testing.assert_allclose(metrics["accuracy"].compute(), hits)


def test_sigmoid_loss_by_hand():
    batch, logits = make_batch(), random_logits()
    task = Classification(model=Linear(10), sigmoid=True)
    scalar, _ = task.loss(jnp.asarray(logits), batch)
    odds = 1 / (1 + np.exp(-logits))
    truth = np.eye(10)[batch["label"]]
    entropy = -(truth * np.log(odds) + (1 - truth) * np.log(1 - odds))
    np.testing.assert_allclose(scalar, entropy.sum(-1).mean(), rtol=1e-6)


def test_several_labels_per_image():
    batch = make_batch(size=3, num_classes=4)
    batch["label"] = np.array([[1, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]], np.float32)
    logits = np.array([[0, 1, 3, 0], [5, 0, 0, 1], [1, 0, 0, 0]], np.float32)
    task = Classification(model=Linear(4), sigmoid=True)
    task.check(batch)
    scalar, metrics = task.loss(jnp.asarray(logits), batch)
    odds = 1 / (1 + np.exp(-logits))
    truth = batch["label"]
    entropy = -(truth * np.log(odds) + (1 - truth) * np.log(1 - odds))
    np.testing.assert_allclose(scalar, entropy.sum(-1).mean(), rtol=1e-6)
    # Only the first guess is one of its image's labels; the third image has none.
    np.testing.assert_allclose(metrics["accuracy"].compute(), 1 / 3, rtol=1e-6)
    assert "top5_accuracy" not in metrics


def test_smoothing_by_hand_and_only_in_training():
    batch, logits = make_batch(), random_logits()
    task = Classification(model=Linear(10), label_smoothing=0.2)
    rng = jax.random.key(0)
    trained = task.prepare(batch, rng=rng, train=True)
    truth = 0.8 * np.eye(10)[batch["label"]] + 0.02
    log_odds = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = -(truth * log_odds).sum(-1).mean()
    scalar, metrics = task.loss(jnp.asarray(logits), trained)
    np.testing.assert_allclose(scalar, expected, rtol=1e-6)
    plain, plain_metrics = Classification(model=Linear(10)).loss(
        jnp.asarray(logits), batch
    )
    evaluated = task.prepare(batch, rng=rng, train=False)
    np.testing.assert_array_equal(task.loss(jnp.asarray(logits), evaluated)[0], plain)
    for name in ("accuracy", "top5_accuracy"):
        assert metrics[name].compute() == plain_metrics[name].compute()


def test_top5_only_beyond_five_classes():
    for num_classes, present in ((5, False), (6, True)):
        batch = make_batch(num_classes=num_classes)
        logits = jnp.asarray(random_logits(num_classes=num_classes))
        metrics = Classification(model=Linear(num_classes)).loss(logits, batch)[1]
        assert ("top5_accuracy" in metrics) == present


@pytest.mark.parametrize("channels", [1, 3])
def test_prepare_normalises_as_the_constants_say(channels):
    batch = make_batch(channels=channels)
    mean, std = (0.4, 0.5, 0.6)[:channels], (0.2, 0.3, 0.25)[:channels]
    task = Classification(model=Linear(10), mean=mean, std=std)
    image = task.prepare(batch, rng=jax.random.key(0), train=False)["image"]
    assert image.dtype == jnp.float32
    expected = (batch["image"] / 255 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(image, expected, rtol=1e-5, atol=1e-5)
    # Float images are taken to be in 0..1 already.
    floats = {**batch, "image": (batch["image"] / 255).astype(np.float32)}
    again = task.prepare(floats, rng=jax.random.key(0), train=False)["image"]
    np.testing.assert_allclose(again, image, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mixing", [Mixup(alpha=1.0), CutMix()])
def test_mixing_only_in_training_and_the_larger_share_is_the_label(mixing):
    batch = make_batch(size=4)
    batch["label"] = np.arange(4, dtype=np.int32)
    task = Classification(model=Linear(10), mixing=mixing, label_smoothing=0.1)
    rng = jax.random.key(2)
    trained = task.prepare(batch, rng=rng, train=True)
    np.testing.assert_allclose(trained["target"].sum(-1), np.ones(4), rtol=1e-6)
    assert "target" not in task.prepare(batch, rng=rng, train=False)
    dominant = np.asarray(trained["target"]).argmax(-1)
    logits = 9 * jnp.eye(10)[dominant]
    assert task.loss(logits, trained)[1]["accuracy"].compute() == 1


def padded(batch, rows, image, label):
    """The batch with padding rows of the given contents, and its mask."""
    size = len(batch["image"])
    images = np.full((rows, *batch["image"].shape[1:]), image, np.float32)
    return {
        "image": np.concatenate([batch["image"].astype(np.float32) / 255, images]),
        "label": np.concatenate([batch["label"], np.full(rows, label, np.int32)]),
        "mask": np.arange(size + rows) < size,
    }


@pytest.mark.parametrize("sigmoid", [False, True])
@pytest.mark.parametrize("junk", [(0.0, 0), (1e30, 77), (-3.0, -1)])
def test_padding_has_no_influence_on_loss_or_gradient(sigmoid, junk):
    task = Classification(model=Linear(10), sigmoid=sigmoid)
    batch = make_batch()
    params, collections = task.init(jax.random.key(0), batch)

    def loss(params, batch):
        outputs, batch, _ = task.apply(
            params, collections, batch, rng=jax.random.key(1), train=False
        )
        return task.loss(outputs, batch)

    grad = jax.value_and_grad(loss, has_aux=True)
    (plain, metrics), plain_grad = grad(params, padded(batch, 0, 0, 0))
    (value, padded_metrics), value_grad = grad(params, padded(batch, 3, *junk))
    np.testing.assert_allclose(value, plain, rtol=1e-6)
    for name, metric in metrics.items():
        assert metric.count == padded_metrics[name].count == 6
        np.testing.assert_allclose(
            metric.total, padded_metrics[name].total, rtol=1e-6, err_msg=name
        )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        value_grad,
        plain_grad,
    )


def test_gradient_at_padded_images_is_zero():
    task = Classification(model=Linear(10))
    batch = padded(make_batch(), 2, 0.7, 4)
    params, _ = task.init(jax.random.key(0), batch)

    def loss(image):
        logits = task.model.apply({"params": params}, image)
        return task.loss(logits, {**batch, "image": image})[0]

    gradient = np.asarray(jax.grad(loss)(jnp.asarray(batch["image"])))
    np.testing.assert_array_equal(gradient[6:], 0)
    assert (np.abs(gradient[:6]).sum((1, 2, 3)) > 0).all()


def test_a_batch_of_padding_alone_gives_zero_and_no_nan():
    task = Classification(model=Linear(10))
    batch = {**make_batch(), "mask": np.zeros(6, bool)}
    scalar, metrics = task.loss(jnp.asarray(random_logits()), batch)
    assert scalar == 0 and metrics["accuracy"].compute() == 0
    assert metrics["loss"].count == 0


def test_loss_is_float32_for_half_precision_logits():
    logits = random_logits()
    task = Classification(model=Linear(10, dtype=jnp.bfloat16))
    params, _ = task.init(jax.random.key(0), make_batch())
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}
    scalar, metrics = task.loss(jnp.asarray(logits, jnp.bfloat16), make_batch())
    assert scalar.dtype == jnp.float32 and metrics["loss"].total.dtype == jnp.float32
    exact = np.asarray(jnp.asarray(logits, jnp.bfloat16), np.float32)
    expected, _ = task.loss(jnp.asarray(exact), make_batch())
    np.testing.assert_allclose(scalar, expected, rtol=1e-6)


def broken(**changes):
    return {**make_batch(), **changes}


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (broken(label=np.array([0, 1, 12, 3, 4, 5])), r"label 12 .*\[0, 10\).*13"),
        (broken(label=np.array([0, 1, -1, 3, 4, 5])), r"label -1 .*count from 0"),
        (broken(label=np.zeros((6, 3))), "labels of 3 classes for a model of 10"),
        (broken(label=np.full((6, 10), 2.0)), "label value 2.0"),
        (broken(label=np.zeros(6, np.float32)), "labels are float32"),
        (broken(image=np.zeros((6, 4, 4), np.uint8)), r"\(6, 4, 4\)"),
        (broken(image=np.zeros((6, 4, 4, 1), np.uint8)), "3 values for images of 1"),
        ({"image": np.zeros((6, 4, 4, 3), np.uint8)}, "no 'label'.*task.label_key"),
    ],
)
def test_check_names_the_value_and_the_remedy(batch, message):
    task = Classification(model=Linear(10), mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match=message) as error:
        task.check(batch)
    assert "\n" not in str(error.value)


def test_check_accepts_good_batches_and_ignores_padding():
    task = Classification(model=Linear(10))
    task.check(make_batch())
    task.check({**make_batch(), "label": np.arange(6) + 4})
    mask = np.arange(6) < 4
    task.check(broken(label=np.array([0, 1, 9, 3, -1, 99]), mask=mask))


def test_other_names_for_image_and_label():
    batch = make_batch()
    renamed = {"x": batch["image"], "y": batch["label"]}
    plain = Classification(model=Linear(10))
    task = Classification(model=Linear(10), image_key="x", label_key="y")
    task.check(renamed)
    params, _ = plain.init(jax.random.key(0), batch)
    losses = [
        t.loss(*t.apply(params, {}, b, rng=jax.random.key(0), train=False)[:2])[0]
        for t, b in ((plain, batch), (task, renamed))
    ]
    assert losses[0] == losses[1]
    logits = random_logits()
    np.testing.assert_array_equal(
        task.pictures(logits, renamed)["predictions"],
        plain.pictures(logits, batch)["predictions"],
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0"),
        ({"label_smoothing": -0.1}, "label_smoothing is -0.1"),
        ({"std": (0.0,)}, "std is"),
    ],
)
def test_bad_fields(arguments, message):
    with pytest.raises(ValueError, match=message):
        Classification(model=Linear(10), **arguments)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("raw", [True, False])
def test_pictures_show_real_rows_with_the_right_colours(channels, raw):
    task = Classification(model=Linear(10))
    batch = {**make_batch(channels=channels), "mask": np.arange(6) < 2}
    logits = 5 * np.eye(10)[batch["label"]]
    if not raw:
        batch = jax.device_get(task.prepare(batch, rng=jax.random.key(0), train=False))
    right = task.pictures(logits, batch)["predictions"]
    wrong = task.pictures(-logits, batch)["predictions"]
    assert right.dtype == np.uint8 and right.shape[-1] == 3
    assert list(visualize.GREEN) in right.reshape(-1, 3).tolist()
    assert list(visualize.RED) in wrong.reshape(-1, 3).tolist()
    more = task.pictures(logits, {**batch, "mask": np.ones(6, bool)})["predictions"]
    assert more.size > right.size
    assert task.pictures(logits, {**batch, "mask": np.zeros(6, bool)}) == {}


def test_raw_and_prepared_images_give_the_same_picture():
    task = Classification(model=Linear(10), mean=(0.4,), std=(0.2,), sigmoid=True)
    batch = make_batch(channels=1)
    prepared = jax.device_get(task.prepare(batch, rng=jax.random.key(0), train=False))
    logits = random_logits()
    np.testing.assert_array_equal(
        task.pictures(logits, batch)["predictions"],
        task.pictures(logits, prepared)["predictions"],
    )
