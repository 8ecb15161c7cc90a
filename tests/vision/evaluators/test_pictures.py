"""Pictures of representations: what a model has is drawn right, what it lacks left out."""

import copy
import dataclasses
import functools
import importlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data.pipeline import Pipeline
from data.sources import Arrays, Digits
from training import config as configs
from training.errors import RunError
from training.run import Run
from vision import plots
from vision.evaluators import pictures
from vision.evaluators.pictures import RepresentationPictures
from vision.models.vit import ViT

TINY = dict(embed_dim=12, num_layers=2, num_heads=3, mlp_dim=16)
DIGITS = dict(type="data.sources.Digits", split="test")
PIPELINE = dict(type="data.pipeline.Pipeline", source=DIGITS)
NODE = dict(
    type="vision.evaluators.pictures.RepresentationPictures",
    data=PIPELINE,
    points=40,
    num_images=3,
)


@functools.cache
def build(name, mesh=1, **model):
    """The run of a config with other fields of the model, on `mesh` devices."""
    config = copy.deepcopy(
        importlib.import_module(f"configs.{name}").get_config().to_dict()
    )
    config["task"]["model"].update(model)
    config["evals"] = {"pictures": NODE}
    config["batch_size"] = 16
    config["mesh"] = {"data": mesh}
    return Run.from_config(config, jax.devices()[:mesh])


def vit(mesh=1, **model):
    return build(
        "vit_digits",
        mesh,
        **{**TINY, "pooling": "token", "positions": "learned", **model},
    )


@pytest.fixture(scope="module")
def tiny():
    """A ViT on one device, and its first state."""
    run = vit()
    return run, run.init()


@pytest.fixture(scope="module")
def report(tiny):
    run, state = tiny
    return run.experiment.evals["pictures"](run, state)


@pytest.fixture(scope="module")
def batch(tiny):
    return next(tiny[0].experiment.evals["pictures"]._sample.eval_batches(batch_size=8))


LOOK = functools.partial(pictures.look, count=3, show=pictures.PICTURES)


@pytest.fixture(scope="module")
def found(tiny, batch):
    run, state = tiny
    return jax.jit(functools.partial(LOOK, task=run.experiment.task))(state, batch)


def test_a_vit_has_all_pictures_by_its_config(report):
    assert report.metrics == {} and report.skipped == 0
    assert set(report.pictures) == set(pictures.PICTURES)
    for picture in report.pictures.values():
        assert picture.dtype == np.uint8 and picture.shape[-1] == 3
        assert picture.std() > 10


def test_pictures_are_those_of_the_parameters_on_any_devices(tiny, report):
    run, state = tiny
    positions = np.asarray(state.eval_params["position_embedding"])[0, 1:]
    kernel = np.asarray(state.eval_params["patch_embedding"]["kernel"])
    expected = {
        "position_similarity": plots.position_similarity(positions, (4, 4)),
        "filters": plots.filters(kernel, components=28),
    }
    run = vit(mesh=4)
    state = jax.device_put(jax.device_get(state), run.shardings)
    other = run.experiment.evals["pictures"](run, state).pictures
    for name, picture in expected.items():
        np.testing.assert_array_equal(report.pictures[name], picture)
        np.testing.assert_array_equal(other[name], picture)
    for name in ("attention", "features"):  # equal but for rounding
        assert other[name].shape == report.pictures[name].shape
        assert (other[name] != report.pictures[name]).mean() < 0.02


def test_attention_is_that_of_the_last_blocks_class_token(tiny, batch, found):
    run, state = tiny
    model = run.experiment.task.model
    image = (batch["image"][:3] / 255 - 0.3) / 0.38
    np.testing.assert_allclose(found["image"], image, rtol=1e-5, atol=1e-6)

    # By the parameters: the last block's query and key on what the first one gave.
    params = state.eval_params
    first, _ = model.apply(
        {"params": params},
        model.apply({"params": params}, image, method="embed"),
        return_intermediates=True,
        method="encode",
    )[1]
    block = params["encoder"]["block_1"]
    x = nn.LayerNorm(epsilon=1e-6).apply({"params": block["attention_norm"]}, first)
    query, key = (
        jnp.einsum("BTD,DNH->BTNH", x, block["attention"][name]["kernel"])
        + block["attention"][name]["bias"]
        for name in ("query", "key")
    )
    logits = jnp.einsum("BNH,BSNH->BNS", query[:, 0], key) / 2  # H = 4
    expected = jax.nn.softmax(logits)
    np.testing.assert_allclose(found["attention"], expected, rtol=1e-4, atol=1e-6)
    assert [m.shape for m in found["means"]] == [(3, 1, 17, 17)] * 2
    mean = expected.mean(1)
    np.testing.assert_allclose(found["means"][1][:, 0, 0], mean, rtol=1e-4, atol=1e-6)


def test_padding_rows_of_a_short_split_are_not_shown(tiny):
    source, label = Digits("test"), np.arange(2)
    images = np.stack([source[i]["image"] for i in label])
    few = Pipeline(Arrays(arrays={"image": images, "label": label}))
    run, state = tiny
    evaluator = RepresentationPictures(
        data=few, num_images=3, points=9, label_key="writer"
    )
    found = evaluator(run, state)
    one = 96 + 3  # of two rows, not four
    assert found.pictures["attention"].shape[0] == 3 + 22 + 2 * one
    assert found.skipped == 0
    # There is no such label: one colour.
    dots = found.pictures["features"].reshape(-1, 3)
    assert (dots == plots.PALETTE[0]).all(-1).any()
    assert not (dots == plots.PALETTE[1]).all(-1).any()


@pytest.mark.parametrize(
    "name, model, expected",
    [
        ("resnet_digits", {}, {"kernel": (3, 3, 1, 16)}),
        ("mixer_digits", {}, {"kernel": (2, 2, 1, 64)}),
        ("vit_digits", {"positions": "none"}, {"kernel": (2, 2, 1, 64)}),
        (
            "vit_digits",
            {"positions": "learned"},
            {"kernel": (2, 2, 1, 64), "positions": (16, 64)},
        ),
    ],
)
def test_what_a_model_lacks_is_left_out(name, model, expected):
    run = build(name, **model)
    batch = {**run.batch, "mask": jax.ShapeDtypeStruct((16,), bool)}
    look = functools.partial(LOOK, task=run.experiment.task)
    found = jax.tree.map(jnp.shape, jax.eval_shape(look, run.shapes, batch))
    assert found == {"image": (3, 8, 8, 1), "mask": (3,), **expected}


def test_a_lenet_has_filters_and_features():
    run = build("lenet_digits")
    state = run.init()
    found = run.experiment.evals["pictures"](run, state)
    assert set(found.pictures) == {"filters", "features"}
    kernel = np.asarray(state.eval_params["conv_0"]["kernel"])
    np.testing.assert_array_equal(found.pictures["filters"], plots.filters(kernel))


class Wrapper(nn.Module):
    """As the self-supervised models are."""

    backbone: nn.Module

    def represent(self, image, *, train=False):
        return self.backbone.represent(image, train=train)

    def __call__(self, image, *, train=False):
        return self.backbone(image, train=train)


def test_a_wrapped_network_is_seen_like_the_bare_one(tiny, batch, found):
    run, state = tiny
    wrapper = Wrapper(ViT(10, 2, pooling="token", positions="learned", **TINY))
    wrapped = dataclasses.replace(
        state,
        params={"backbone": state.params, "decoder": {}},
        ema={"backbone": state.ema, "decoder": {}},
    )
    task = dataclasses.replace(run.experiment.task, model=wrapper)
    same = jax.jit(functools.partial(LOOK, task=task))(wrapped, batch)
    assert {"positions", "kernel", "attention", "means"} < set(found)
    jax.tree.map(np.testing.assert_array_equal, same, found)


def test_attention_is_seen_inside_a_scan_too(batch):
    run, plain = vit(scan=True), vit()
    look = lambda run: jax.eval_shape(
        functools.partial(
            pictures.look, task=run.experiment.task, count=3, show=pictures.PICTURES
        ),
        run.shapes,
        batch,
    )
    found = look(run)
    assert jax.tree.map(lambda x: x.shape, found) == jax.tree.map(
        lambda x: x.shape, look(plain)
    )
    assert len(found["means"]) == plain.experiment.task.model.num_layers


def test_a_sample_is_random_but_always_the_same_and_names_its_records():
    source = Arrays(arrays={"label": np.repeat(np.arange(4), 50)})
    sample = pictures.Sample(source, 40, seed=1)
    labels = [int(sample[i]["label"]) for i in range(len(sample))]
    assert len(labels) == 40 and set(labels) == {0, 1, 2, 3}
    assert set(labels[:8]) != {labels[0]}  # the first few are of several classes too
    again = pictures.Sample(source, 40, seed=1)
    assert labels == [int(again[i]["label"]) for i in range(40)]
    whole = pictures.Sample(source, 1000, seed=2)
    names = {whole.describe(i) for i in range(len(whole))}
    assert names == {f"record {i}" for i in range(200)}


def test_pca_finds_the_plane_and_says_how_much_it_shows():
    rng = np.random.default_rng(0)
    plane, _ = np.linalg.qr(rng.normal(size=(6, 2)))
    where = rng.normal(size=(50, 2)) * [3, 1]
    points, title = pictures.project(where @ plane.T + 5, "pca", 0)
    distance = lambda x: np.linalg.norm(x[:, None] - x, axis=-1)
    np.testing.assert_allclose(distance(points), distance(where), atol=1e-9)
    assert title == "PCA of 50 features: 100 % of the variance"
    line, _ = pictures.project(where[:, :1], "pca", 0)
    assert line.shape == (50, 2) and (line[:, 1] == 0).all()


def test_tsne_separates_clusters_and_repeats_itself():
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(3), 20)
    values = np.eye(3, 9)[label] * 20 + rng.normal(size=(60, 9))
    points, title = pictures.project(values, "tsne", 0)
    assert title.startswith("t-SNE of 60 features") and points.shape == (60, 2)
    distance = np.linalg.norm(points[:, None] - points, axis=-1) + np.eye(60) * 1e9
    assert (label[distance.argmin(1)] == label).all()
    np.testing.assert_array_equal(pictures.project(values, "tsne", 0)[0], points)
    assert np.isfinite(pictures.project(values[:2], "tsne", 0)[0]).all()


def test_features_that_are_not_finite_are_left_out(tiny):
    run, state = tiny
    evaluator = run.experiment.evals["pictures"]
    broken = jax.tree.map(lambda x: x * jnp.nan, state.eval_params)
    found = evaluator(run, dataclasses.replace(state, params=broken, ema=broken))
    assert set(found.pictures) == {"position_similarity", "filters", "attention"}


@pytest.mark.parametrize(
    "options, message",
    [
        ({"projection": "umap"}, "projection is 'umap'; known: pca, tsne"),
        ({"show": ("filter",)}, "show is 'filter'; known: position_similarity"),
        ({"points": 0}, "points is 0; it must be positive"),
    ],
)
def test_mistakes_are_named(options, message):
    node = {**NODE, **options}
    with pytest.raises((ValueError, RunError), match=message):
        configs.build(node)
