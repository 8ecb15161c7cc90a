"""Robustness curves: the warps by hand, accuracy under them, what no warp changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_configs import load

from data.pipeline import Pipeline
from data.sources import Arrays, Digits
from training import config as configs
from training.errors import RunError
from training.run import Run
from vision.evaluators.robustness import Robustness, warp, warps
from vision.geometric_transforms import Affine


@pytest.fixture(scope="module")
def lenet():
    run = Run.from_config(load("lenet_digits"), jax.devices()[:1])
    return run, run.init()


@pytest.fixture(scope="module")
def digits():
    source = Digits("test")
    return np.stack([source[i]["image"] for i in range(60)])


def pipeline(image, label):
    arrays = {"image": image, "label": np.int32(label)}
    return Pipeline(source=Arrays(arrays=arrays), num_threads=0)


def guesses(run, state, image):
    task = run.experiment.task
    variables = {"params": state.eval_params, **state.collections}
    inputs = task.plain_inputs({"image": jnp.asarray(image)})
    return np.array(task.model.apply(variables, *inputs, train=False).argmax(-1))


def noise(height=8, width=8, channels=2):
    rng = np.random.default_rng(0)
    return rng.uniform(size=(3, height, width, channels)).astype(np.float32)


def test_shifts_are_those_of_pixels_and_fill_what_they_leave():
    image, found = noise(), []
    for inverse in warps("shift", 0.25, (8, 8)):
        found.append(np.asarray(warp(image, inverse, 0.5)))
    expected = np.full((4, *image.shape), 0.5, np.float32)
    expected[0][:, :, 2:] = image[:, :, :-2]
    expected[1][:, :, :-2] = image[:, :, 2:]
    expected[2][:, 2:] = image[:, :-2]
    expected[3][:, :-2] = image[:, 2:]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_quarter_turns_are_both_of_them_and_half_turns_one():
    image = noise()
    turned = [np.asarray(warp(image, w, 0.0)) for w in warps("rotation", 90, (8, 8))]
    expected = [np.rot90(image, k, axes=(1, 2)) for k in (1, 3)]
    np.testing.assert_allclose(turned, expected, atol=1e-5)
    (half,) = warps("rotation", 180, (8, 8))
    np.testing.assert_allclose(warp(image, half, 0.0), image[:, ::-1, ::-1], atol=1e-5)


@pytest.mark.parametrize("kind, value", [("rotation", 0), ("scale", 1), ("shift", 0)])
def test_the_amount_that_changes_nothing(kind, value):
    (inverse,) = warps(kind, value, (8, 9))
    image = noise(8, 9)
    np.testing.assert_array_equal(warp(image, inverse, 0.3), image)


@pytest.mark.parametrize(
    ("kind", "value", "affine"),
    [
        ("rotation", 30, Affine(rotation=30)),
        ("scale", 0.75, Affine(scale=0.75)),
        ("scale", 1.5, Affine(scale=1.5)),
        ("shift", 0.1, Affine(right=2.4)),
    ],
)
def test_warps_are_those_of_the_hosts_transform(kind, value, affine):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (6, 6, 1), np.uint8)
    image = np.kron(image, np.ones((4, 4, 1))).astype(np.uint8)  # smooth enough
    expected = affine({"image": image}, rng)["image"].astype(np.float32)
    found = warp(image[None] / 255.0, warps(kind, value, (24, 24))[0], 0.0)[0] * 255
    inner = slice(2, -2)  # OpenCV's borders differ
    np.testing.assert_allclose(found[inner, inner], expected[inner, inner], atol=12)
    assert np.abs(found - expected).mean() < 3


def test_accuracy_is_the_mean_over_the_ways_of_an_amount(lenet, digits):
    run, state = lenet
    label = guesses(run, state, digits)  # right as they are, wrong perhaps elsewhere
    evaluator = Robustness(
        data=pipeline(digits, label),
        rotations=(0, 90, 180),
        scales=(1,),
        shifts=(0, 0.125),
        batch_size=25,
    )
    report = evaluator(run, state)
    shifted = []
    for axis, step in ((2, 1), (2, -1), (1, 1), (1, -1)):
        moved = np.roll(digits, step, axis)
        edge = [slice(None)] * 4
        edge[axis] = 0 if step == 1 else -1
        moved[tuple(edge)] = 0
        shifted.append(moved)
    turned = [np.rot90(digits, k, axes=(1, 2)) for k in (1, 3)]
    right = lambda images: np.mean([guesses(run, state, i) == label for i in images])
    expected = {
        "rotation_0": 1.0,
        "rotation_90": right(turned),
        "rotation_180": right([digits[:, ::-1, ::-1]]),
        "scale_1": 1.0,
        "shift_0": 1.0,
        "shift_0.125": right(shifted),
    }
    assert expected["rotation_90"] < 1 and expected["shift_0.125"] < 1
    expected["rotation"] = np.mean([expected[f"rotation_{a}"] for a in (0, 90, 180)])
    expected["scale"] = 1.0
    expected["shift"] = (1 + expected["shift_0.125"]) / 2
    # Turned pixels are equal but for rounding, and so is, here and there, a guess.
    assert report.metrics == pytest.approx(expected, abs=1 / 60)
    assert list(report.pictures) == ["robustness"]
    picture = report.pictures["robustness"]
    assert picture.dtype == np.uint8 and picture.shape == (300, 3 * 420, 3)
    again = evaluator(run, state)
    assert again.metrics == report.metrics
    np.testing.assert_array_equal(again.pictures["robustness"], picture)


def test_images_that_turning_does_not_change_keep_their_accuracy(lenet, digits):
    run, state = lenet
    quarters = [np.rot90(digits.astype(int), k, axes=(1, 2)) for k in range(4)]
    image = (sum(quarters) // 4).astype(np.uint8)
    label = guesses(run, state, image)
    label[::3] = (label[::3] + 1) % 10
    evaluator = Robustness(
        data=pipeline(image, label), rotations=(0, 90, 180), scales=(), shifts=()
    )
    found = evaluator(run, state)
    assert found.metrics == pytest.approx(
        dict.fromkeys(("rotation_0", "rotation_90", "rotation_180", "rotation"), 2 / 3),
        abs=1e-6,
    )
    assert found.pictures["robustness"].shape == (300, 420, 3)


def test_batches_and_devices_do_not_matter(lenet, digits):
    run, state = lenet
    data = pipeline(digits, guesses(run, state, digits))
    options = dict(rotations=(20,), scales=(0.8,), shifts=(0.1,))
    expected = Robustness(data=data, batch_size=60, **options)(run, state)
    config = {**load("lenet_digits"), "mesh": {"data": 4}}
    several = Run.from_config(config, jax.devices()[:4])
    state = jax.device_put(jax.device_get(state), several.shardings)
    found = Robustness(data=data, batch_size=16, **options)(several, state)
    assert found.metrics == pytest.approx(expected.metrics, abs=1e-6)


def test_mistakes_are_named(lenet, digits):
    node = {
        "type": "vision.evaluators.robustness.Robustness",
        "data": {
            "type": "data.pipeline.Pipeline",
            "source": {"type": "data.sources.Digits", "split": "test"},
        },
    }
    assert set(configs.build(node).amounts) == {"rotation", "scale", "shift"}
    with pytest.raises(RunError, match="no rotations, scales or shifts"):
        configs.build({**node, "rotations": [], "scales": [], "shifts": []})
    with pytest.raises(RunError, match="a scale is 0; it must be positive"):
        configs.build({**node, "scales": [0]})
    with pytest.raises(RunError, match="'label' is not one class per example"):
        Robustness(data=pipeline(digits[:4], np.zeros((4, 10))))(*lenet)
