"""Published weights become a run folder that evaluates and trains on."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from training import evaluation, loop
from training.errors import RunError
from training.import_weights import import_weights
from training.run import Run

DATA = {
    "type": "data.pipeline.Pipeline",
    "source": {
        "type": "data.sources.Synthetic",
        "length": 12,
        "features": {
            "image": {"type": "data.features.Image", "height": 32, "width": 32},
            "label": {"type": "data.features.Label", "num_classes": 10},
        },
    },
}


def config(**model):
    return {
        "task": {
            "type": "vision.tasks.classification.Classification",
            "model": {
                "type": "vision.models.vit.ViT",
                "num_classes": 10,
                "patch_size": 8,
                "embed_dim": 32,
                "num_layers": 3,
                "num_heads": 4,
                "mlp_dim": 128,
                **model,
            },
        },
        "optimizer": {"type": "optax.adamw", "learning_rate": 1e-3},
        "data": DATA,
        "evals": {"eval": {"type": "training.evaluation.Evaluation", "data": DATA}},
        "batch_size": 8,
        "total_steps": 2,
        "ema_decay": 0.9,
    }


@pytest.fixture
def weights(parity, tmp_path):
    path = tmp_path / "vit.safetensors"
    save_file(parity("vit_timm_cls")[0], path)
    return path


def test_the_folder_evaluates_to_the_reference_and_trains_on(tmp_path, parity, weights):
    workdir = tmp_path / "run"
    assert import_weights(config(), weights, workdir) == 45_258
    assert json.loads((workdir / "config.json").read_text())["total_steps"] == 2
    run = Run.from_config(config())
    state = evaluation.restore(workdir, run, "last").state
    _, arrays = parity("vit_timm_cls")
    logits = run.experiment.task.model.apply(
        {"params": jax.device_get(state.eval_params)}, arrays["in_x_nhwc"]
    )
    reference = arrays["out_logits"]
    assert np.abs(logits - reference).max() <= 1e-5 * np.abs(reference).max()
    assert evaluation.evaluate(workdir)["eval/loss"] > 0
    assert loop.train(config(), workdir) == 0
    assert evaluation.restore(workdir, run, "last").step == 2


def test_what_does_not_fit_is_one_line_and_leaves_no_folder(tmp_path, weights):
    workdir = tmp_path / "run"
    with pytest.raises(RunError) as caught:
        import_weights(config(embed_dim=64), weights, workdir)
    assert "wrong shape" in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(RunError, match="no weight file"):
        import_weights(config(), tmp_path / "none.safetensors", workdir)
    assert not workdir.exists()


def test_a_folder_that_holds_a_run_is_not_overwritten(tmp_path, weights):
    import_weights(config(), weights, tmp_path / "run")
    with pytest.raises(RunError, match="already holds a run"):
        import_weights(config(), weights, tmp_path / "run")
