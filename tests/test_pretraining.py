"""Every way of pretraining resumes to the last bit and does not depend on the devices."""

import jax
import numpy as np
import pytest
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


def follow(run, state, first, steps):
    losses = []
    with run.experiment.data.train_batches(
        batch_size=16, seed=0, start_step=first
    ) as batches:
        for _ in range(steps):
            state, metrics = run.update(state, run.layout.put(next(batches)))
            losses.append(float(metrics["loss"].compute()))
    return losses, state


@pytest.fixture(scope="module")
def unbroken():
    """unbroken(name): the run on one device, its losses of six steps, its last state."""
    cache = {}

    def followed(name):
        if name not in cache:
            run = Run.from_config(config(name), jax.devices()[:1])
            losses, state = follow(run, run.init(), 0, 6)
            cache[name] = run, losses, jax.device_get(state)
        return cache[name]

    return followed


@pytest.mark.parametrize("name", NAMES)
def test_resumed_it_ends_where_an_unbroken_run_does(name, unbroken, tmp_path):
    run, losses, last = unbroken(name)
    start, state = follow(run, run.init(), 0, 3)
    keeper = checkpoint.Checkpointer(tmp_path)
    keeper.save(3, state)
    keeper.wait()
    restored = keeper.restore(run.target).state
    keeper.close()
    rest, end = follow(run, restored, 3, 3)
    assert start + rest == losses
    jax.tree.map(np.testing.assert_array_equal, last, jax.device_get(end))


@pytest.mark.parametrize("name", NAMES)
def test_eight_devices_follow_one(name, unbroken):
    run = Run.from_config(config(name, mesh={"data": 8}))
    losses, _ = follow(run, run.init(), 0, 6)
    np.testing.assert_allclose(losses, unbroken(name)[1], rtol=2e-5)


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
