"""The zoo's table: who is in it, what is counted, and that a failure is a row."""

import argparse
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import zoo, zoo_report
from vision.models.mlp_mixer import MlpMixer

DOCSTRING = """A small Mixer, of which the paper says nothing.

The abstract has 12.5 % top-1.

Command: python train.py --config=configs/small_imagenet.py
Other sizes: --config=configs/small_imagenet.py:24 (16 24 nonsense).

Result: untested; paper: 76.4 % top-1
"""
CONFIG = '''"""{docstring}"""
from ml_collections import ConfigDict


def get_config(size="16"):
    config = ConfigDict()
    config.task = dict(
        type="vision.tasks.classification.Classification",
        model=dict(
            type="vision.models.mlp_mixer.MlpMixer",
            num_classes=10,
            patch_size=8,
            embed_dim=int(size),
            num_layers=1,
            token_mlp_dim=8,
            channel_mlp_dim=8,
            dtype="bfloat16",
        ),
    )
    image = dict(type="data.features.Image", height=16, width=16)
    source = dict(
        type="data.sources.Synthetic", length=3, features=dict(image=image)
    )
    config.evals = dict(
        eval=dict(
            type="training.evaluation.Evaluation",
            data=dict(type="data.pipeline.Pipeline", source=source),
        )
    )
    {more}
    return config
'''


@pytest.fixture
def folder(tmp_path):
    """Configs of a classifier, of one that is fine-tuned, and of a pretraining."""
    write = lambda name, **parts: (tmp_path / f"{name}_imagenet.py").write_text(
        CONFIG.format(**{"docstring": DOCSTRING, "more": ""} | parts)
    )
    write("small")
    write("tuned", more='config.init_from = dict(type="x.y")')
    write("pretrained", more="config.task.model.num_classes = 0")
    (tmp_path / "other_digits.py").write_text("raise ValueError")
    return tmp_path


def test_the_classifiers_that_start_from_nothing_are_in_it(folder):
    (entry,) = zoo.entries(folder)
    assert entry == zoo.Entry("small", str(folder / "small_imagenet.py"), 76.4)
    several = zoo.entries(folder, sizes=True)
    assert [e.name for e in several] == ["small", "small:24"]
    assert several[1].top1 is None


def test_what_docstrings_say():
    assert zoo.published("A 5 % top-1.\n\nResult: none") == 5
    assert (
        zoo.published("\nResult: untested; paper: 80.25% top-1 and 3 % top-1") == 80.25
    )
    assert zoo.published("\nResult: 5 % top-5") is None
    text = "--config=configs/a.py:S/16 (S/32 B/32, L/16).\n or configs/a.py:token."
    assert zoo.arguments(text, "a.py") == ["S/16", "S/32", "B/32", "L/16", "token"]
    assert zoo.arguments("--config=configs/a.py", "a.py") == []


def test_our_own_configs_are_in_it_at_their_resolution():
    found = {e.name: e for e in zoo.entries()}
    assert {"resnet50", "mixer", "vit", "deit"} <= set(found)
    assert not {"mae_vit", "finetune", "linear_probe"} & set(found)
    assert found["mixer"].top1 == 76.4
    model, shape = zoo.build(found["mixer"], None)
    assert shape == (224, 224, 3) and isinstance(model, MlpMixer)
    assert model.dtype is None


def test_a_row_of_a_small_model(folder):
    (entry,) = zoo.entries(folder)
    row = zoo.measure(entry, [1, 3], 2, None)
    model, shape = zoo.build(entry, None)
    image = jnp.zeros((1, *shape))
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    expected = sum(x.size for x in jax.tree.leaves(shapes["params"]))
    assert (row["parameters"], row["resolution"]) == (expected, 16)
    # 4 patches of 192 values to 16; the two MLPs; 16 to 10 classes.
    products = 4 * 192 * 16 + 2 * 16 * 4 * 8 + 2 * 4 * 16 * 8 + 16 * 10
    assert row["flops"] == 2 * products
    for batch in ("1", "3"):
        part = row["batches"][batch]
        assert len(part["seconds"]) == 2 and min(part["seconds"]) > 0
        assert part["memory"] >= 4 * expected
    assert row["peak_memory"] > 2**20
    json.dumps(row)


def test_a_batch_that_does_not_fit_is_named_in_its_cell(folder, monkeypatch):
    (entry,) = zoo.entries(folder)
    monkeypatch.setattr(zoo, "free_memory", lambda: 10)
    row = zoo.measure(entry, [1], 1, None)
    assert "GB more, 0.0 are free" in row["batches"]["1"]["error"]
    assert row["batches"]["1"]["error"] in zoo_report.cells(row, ["1"])


def options(folder, out, **changes):
    values = dict(
        only="", sizes=False, batches="1", rounds=1, dtype=None, out=str(out),
        resume=False, configs=str(folder), one=None,
    )  # fmt: skip
    return argparse.Namespace(**values | changes)


def test_a_model_that_breaks_its_process_is_a_row(tmp_path, monkeypatch):
    gone = zoo.Entry("gone", str(tmp_path / "gone_imagenet.py"), 50.0)
    row = zoo.in_own_process(gone, options(tmp_path, tmp_path / "zoo"))
    assert row["name"] == "gone" and "no config" in row["error"]

    def killed(command, **_):
        return subprocess.CompletedProcess(command, -9, "", "")

    monkeypatch.setattr(subprocess, "run", killed)
    row = zoo.in_own_process(gone, options(tmp_path, tmp_path / "zoo"))
    assert row["error"] == "ended by signal 9; out of memory, perhaps"


def fake(name, top1, gflop, parameters):
    part = {"seconds": [0.01, 0.03, 0.02], "memory": 5e6}
    return {
        "name": name, "top1": top1, "resolution": 224, "parameters": parameters,
        "flops": gflop * 1e9, "device": "abacus", "dtype": "float32",
        "batches": {"1": part, "32": {"error": "needs 9 GB"}}, "peak_memory": 7e6,
    }  # fmt: skip


def test_the_table_and_the_picture():
    rows = [
        fake("large", 80.0, 12.0, 9e7),
        {"name": "bad", "top1": None, "error": "broke"},
        fake("small", None, 0.5, 1.5e6),
    ]
    lines = zoo_report.markdown(rows, ["1", "32"]).splitlines()
    assert lines[0].startswith("One abacus, float32.")
    small, large, bad = lines[-3:]
    assert small == "| small | 224 | 1.50 | 0.50 |  | 20.0 | 5 | needs 9 GB |  | 7 |"
    assert large.startswith("| large | 224 | 90.00 | 12.00 | 80.0 |")
    assert bad.startswith("| bad | broke |")
    assert {line.count("|") for line in lines[2:]} == {11}
    by_parameters = zoo_report.draw(rows)
    by_accuracy = zoo_report.draw([*rows, fake("other", 70.0, 2.0, 1e7)])
    assert by_accuracy.shape[0] == by_parameters.shape[0]  # none has a latency at 32
    assert not np.array_equal(by_accuracy, by_parameters)
    assert zoo_report.draw(rows[1:2]) is None


def test_the_command_writes_its_three_files_and_resumes(folder, tmp_path):
    out = tmp_path / "out" / "zoo"
    command = [sys.executable, zoo.__file__, f"--configs={folder}", f"--out={out}"]
    command += ["--batches=1", "--rounds=1", "--only=small"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    written = {p.name for p in pathlib.Path(out.parent).iterdir()}
    assert written == {"zoo.md", "zoo.json", "zoo.png"}
    (row,) = json.loads(out.with_suffix(".json").read_text())["rows"]
    assert row["name"] == "small" and row["top1"] == 76.4 and "error" not in row
    # Nothing is left to do: no process is started.
    assert zoo.run(options(folder, out, resume=True)) == [row]
