"""Every way of pretraining resumes to the last bit and does not depend on the devices."""

import functools

import jax
import numpy as np
import pytest
import repeatability
from test_configs import load

from training import checkpoint, evaluation, loop
from training import config as configs
from training.errors import RunError
from training.run import Run
from training.writer import read_metrics

VIT = {
    "type": "vision.models.vit.ViT",
    "num_classes": 0,
    "patch_size": 2,
    "embed_dim": 16,
    "num_layers": 1,
    "num_heads": 2,
    "mlp_dim": 16,
    "positions": "sincos2d_mae",
}
SIMMIM = {
    "type": "vision.tasks.masked_image_modeling.MaskedImageModeling",
    "model": {"type": "vision.models.simmim.SimMIM", "backbone": VIT},
    "mask_ratio": 0.5,
}
QUICK = ("mae",)
SLOW = ("simclr", "simmim", "rotation", "denoising")
NAMES = (*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW))


def config(name, **changes):
    found = load(f"{name}_digits" if name != "simmim" else "mae_digits")
    found |= {"batch_size": 16, "evals": {}, "best_metric": None} | changes
    if name == "simmim":
        found["task"] = SIMMIM
    model = found["task"]["model"]
    for network in (model, model.get("backbone", {})):
        if network.get("type", "").endswith(".ViT"):
            network |= {**VIT, "num_classes": network.get("num_classes", 0)}
    return found


@pytest.fixture(scope="module")
def whole():
    """whole(name): the unbroken run of six steps."""
    return functools.cache(lambda name: repeatability.unbroken(config(name)))


@pytest.mark.parametrize("name", NAMES)
def test_resumed_it_ends_where_an_unbroken_run_does(name, whole, tmp_path):
    repeatability.assert_resumes(whole(name), tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_eight_devices_follow_one(name, whole):
    wide = config(name, mesh={"data": 8})
    repeatability.assert_devices_agree(wide, whole(name), rtol=2e-5)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A run folder of MAE at its first step."""
    workdir = tmp_path_factory.mktemp("mae")
    plain = config("mae")
    plain["task"]["model"]["backbone"] = {**VIT, "positions": "learned"}
    run = Run.from_config(plain, jax.devices()[:1])
    loop.prepare_workdir(plain, workdir)
    keeper = checkpoint.Checkpointer(workdir)
    keeper.save(0, run.init())
    keeper.close()
    return workdir


def probe(path, **backbone):
    found = load("linear_probe_digits") | {"evals": {}}
    found["init_from"]["path"] = str(path)
    found["task"]["model"]["backbone"] = {**VIT, "positions": "learned", **backbone}
    return found


def begin(plain):
    run = Run.from_config(plain, jax.devices()[:1])
    return run.experiment.init_from(run, run.init())[0]


def test_a_probe_starts_from_what_was_pretrained(pretrained):
    state = begin(probe(pretrained))
    run = Run.from_config(configs.read(pretrained), jax.devices()[:1])
    source = evaluation.restore(pretrained, run, "last").state.params["backbone"]
    for path, value in jax.tree_util.tree_leaves_with_path(state.params["backbone"]):
        found = source
        for key in path:
            found = found[key.key]
        np.testing.assert_array_equal(value, found)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"patch_size": 4},
            r"patch_embedding/kernel is \(2, 2, 1, 16\) there and \(4, 4",
        ),
        ({"num_layers": 2}, r"nothing for .*encoder/block_1"),
        ({"embed_dim": 32}, r"of another size"),
    ],
)
def test_another_architecture_or_patch_size_is_refused(pretrained, changes, message):
    with pytest.raises(RunError, match=message):
        begin(probe(pretrained, **changes))


def test_positions_of_other_pictures_are_resized_on_request_only(pretrained):
    plain = probe(pretrained)
    image = {"type": "data.features.Image", "height": 12, "width": 12, "channels": 1}
    label = {"type": "data.features.Label", "num_classes": 10}
    plain["data"]["source"] = {
        "type": "data.sources.Synthetic",
        "features": {"image": image, "label": label},
        "length": 8,
    }
    with pytest.raises(RunError, match=r"position_embedding is \(1, 17, 16\) there"):
        begin(plain)
    plain["init_from"]["adapters"] = [{"type": "layers.positions.ResizePositions"}]
    table = begin(plain).params["backbone"]["position_embedding"]
    assert table.shape == (1, 37, 16) and np.abs(table).sum() > 0


@pytest.mark.slow
def test_the_two_linear_probes_agree_on_digits(tmp_path):
    """Within one point, on what MAE learned of them."""
    pretraining = load("mae_digits") | {"evals": {}}
    assert loop.train(pretraining, tmp_path / "mae") == 0
    plain = load("linear_probe_digits")
    plain["init_from"]["path"] = str(tmp_path / "mae")
    del plain["evals"]["pictures"]
    heads = plain["evals"]["representation"]["heads"]
    plain["evals"]["representation"]["heads"] = {"logistic": heads["logistic"]}
    assert loop.train(plain, tmp_path / "probe") == 0
    last = read_metrics(tmp_path / "probe")[-1]
    trained, closed = last["eval/accuracy"], last["representation/logistic_accuracy"]
    assert abs(trained - closed) <= 0.01
