"""Ten crops: the views by hand, the mean of their probabilities, what no crop changes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_configs import load

from data.pipeline import Pipeline
from data.sources import Arrays, Digits
from training import config as configs
from training.errors import RunError
from training.evaluation import Evaluation
from training.run import Run
from vision.evaluators.multi_crop import MultiCrop, cut, views

CROP = 8  # what the digits' LeNet sees


@pytest.fixture(scope="module")
def lenet():
    """A run, and a state whose guesses differ from image to image."""
    run = Run.from_config(load("lenet_digits"), jax.devices()[:1])
    state = run.init()
    params = jax.tree.map(lambda x: 2 * x, state.params)
    return run, dataclasses.replace(state, params=params)


def pipeline(image, label):
    arrays = {"image": image, "label": np.int32(label)}
    return Pipeline(source=Arrays(arrays=arrays), num_threads=0)


def random_images(count, height=11, width=13, channels=1):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, height, width, channels), np.uint8)


def probabilities(run, state, image):
    """float32 [N, K] of images as large as the crop."""
    task = run.experiment.task
    logits = task.model.apply(
        {"params": state.eval_params, **state.collections},
        *task.plain_inputs({"image": jnp.asarray(image)}),
        train=False,
    )
    return np.asarray(jax.nn.softmax(logits))


def ten(image):
    """The ten crops of images of at least the crop's size, by slices."""
    height, width = image.shape[1:3]
    down, right = height - CROP, width - CROP
    corners = [(0, 0), (0, right), (down, 0), (down, right), (down // 2, right // 2)]
    crops = [image[:, y : y + CROP, x : x + CROP] for y, x in corners]
    return crops + [crop[:, :, ::-1] for crop in crops]


def test_views_by_hand():
    np.testing.assert_array_equal(
        views((6, 9), 4),
        [
            (1, 1, top, left, mirrored)
            for mirrored in (0, 1)
            for top, left in ((0, 0), (0, 5), (2, 0), (2, 5), (1, 2))
        ],
    )
    np.testing.assert_array_equal(views((6, 9), 4, crops="center"), [(1, 1, 1, 2, 0)])
    # At twice the size there are 12 rows and 18 columns.
    np.testing.assert_array_equal(
        views((6, 9), 4, (12,), "five"),
        [(2, 2, y, x, 0) for y, x in ((0, 0), (0, 14), (8, 0), (8, 14), (4, 7))],
    )
    assert len(views((640, 640), 224, (224, 256, 384, 480, 640))) == 50


def test_cuts_of_an_image_as_it_is_are_its_pixels():
    image = random_images(3, channels=2).astype(np.float32)
    for view, expected in zip(views((11, 13), CROP), ten(image), strict=True):
        np.testing.assert_array_equal(cut(image, view, CROP), expected)


@pytest.mark.parametrize("size", [9, 22, 40])
def test_cuts_at_another_size_are_those_of_the_resized_image(size):
    image = random_images(2).astype(np.float32)
    table = views((11, 13), CROP, (size,))
    resized = jax.image.resize(
        image, (2, size, round(13 * size / 11), 1), "linear", precision="highest"
    )
    for view, expected in zip(table, ten(np.asarray(resized)), strict=True):
        found = cut(image, view, CROP)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-2)


@pytest.fixture(scope="module")
def by_hand(lenet):
    """Images, labels of every rank, and the probabilities' mean over ten crops."""
    source = Digits("test")
    image = np.stack([source[i]["image"] for i in range(30)])
    image = np.pad(image, ((0, 0), (1, 2), (2, 3), (0, 0)))
    mean = np.mean([probabilities(*lenet, crop) for crop in ten(image)], axis=0)
    order = np.argsort(-mean, axis=1)
    label = order[np.arange(30), np.arange(30) % 8]  # 4 of 30 first, 20 within five
    return image, label, mean


def test_accuracies_are_those_of_the_mean_probability(lenet, by_hand):
    image, label, mean = by_hand
    data = pipeline(image, label)
    report = MultiCrop(data=data, crop=CROP, batch_size=30)(*lenet)
    assert report.metrics == {
        "accuracy": pytest.approx(4 / 30),
        "top5_accuracy": pytest.approx(20 / 30),
        "views": 10,
    }
    # And not those of the middle alone.
    middle = MultiCrop(data=data, crop=CROP, crops="center", batch_size=30)(*lenet)
    guesses = probabilities(*lenet, ten(image)[4]).argmax(1)
    assert middle.metrics["accuracy"] == pytest.approx((guesses == label).mean())
    assert (guesses != mean.argmax(1)).any()


def test_batches_and_devices_do_not_matter(lenet, by_hand):
    image, label, _ = by_hand
    run, state = lenet
    expected = MultiCrop(data=pipeline(image, label), crop=CROP, batch_size=30)(
        run, state
    )
    several = Run.from_config(
        {**load("lenet_digits"), "mesh": {"data": 4}}, jax.devices()[:4]
    )
    state = jax.device_put(jax.device_get(state), several.shardings)
    found = MultiCrop(data=pipeline(image, label), crop=CROP, batch_size=8)(
        several, state
    )
    assert found.metrics == pytest.approx(expected.metrics) and found.skipped == 0


def test_where_the_crop_changes_nothing_it_is_the_plain_evaluation(lenet):
    """Pictures of one grey: every crop, at every size, is the same."""
    greys = np.arange(0, 240, 6, np.uint8)
    small, large = (
        np.broadcast_to(greys[:, None, None, None], (40, side, side, 1))
        for side in (CROP, 12)
    )
    order = np.argsort(-probabilities(*lenet, small), axis=1)
    label = order[np.arange(40), np.arange(40) % 7]
    plain = Evaluation(data=pipeline(small, label), batch_size=40, pictures=0)(*lenet)
    for sizes in ((), (8, 12, 20)):
        evaluator = MultiCrop(
            data=pipeline(large, label), crop=CROP, sizes=sizes, batch_size=40
        )
        found = evaluator(*lenet).metrics
        assert found.pop("views") == 10 * max(1, len(sizes))
        assert found == {k: plain.metrics[k] for k in found}
    assert 0 < plain.metrics["accuracy"] < plain.metrics["top5_accuracy"] < 1


def test_it_is_a_node_of_a_config():
    node = {
        "type": "vision.evaluators.multi_crop.MultiCrop",
        "data": {
            "type": "data.pipeline.Pipeline",
            "source": {"type": "data.sources.Digits", "split": "test"},
        },
        "crop": 6,
        "sizes": [6, 8],
    }
    assert configs.build(node).sizes == (6, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"crops": "nine"}, "crops is 'nine'; there are: ten, five, center"),
        ({"crop": 0}, "crop is 0"),
        ({"sizes": (6,)}, "a size of 6 has no crop of 8; take sizes"),
    ],
)
def test_bad_fields(arguments, message):
    with pytest.raises(ValueError, match=message):
        MultiCrop(**{"data": None, "crop": CROP} | arguments)


def test_bad_data(lenet):
    image = random_images(4, 7, 9)
    with pytest.raises(RunError, match="image of 7 x 9 has no crop of 8; resize"):
        MultiCrop(data=pipeline(image, np.zeros(4)), crop=CROP)(*lenet)
    several = pipeline(random_images(4), np.zeros((4, 10)))
    with pytest.raises(RunError, match="'label' is not one class per example"):
        MultiCrop(data=several, crop=CROP)(*lenet)
