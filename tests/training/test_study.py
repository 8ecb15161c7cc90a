"""A study: its runs in order, made once, and the table that compares them."""

import json

import pytest

from training import study
from training.errors import RunError

BASE = """
import toy_experiment

def get_config(steps="2"):
    found = toy_experiment.config(total_steps=int(steps), checkpoint_steps=0)
    found["task"]["model"] = {"type": "toy_experiment.Encoder"}
    return found
"""
START = {
    "type": "training.initialization.FromRun",
    "path": "{workdir}/first",
    "rules": [["^", ""]],
}


@pytest.fixture
def made(tmp_path):
    base = tmp_path / "base.py"
    base.write_text(BASE)
    runs = [
        {"name": "first", "config": f"{base}:3"},
        {
            "name": "second",
            "config": str(base),
            "changes": [
                ["init_from", START],
                ["evals.eval.data.length", 13],
                ["optimizer.learning_rate", 0.0],
            ],
        },
    ]
    table = {
        "title": "toy",
        "rows": ["first", "second", "third"],
        "columns": [["accuracy", "{row}", "eval/accuracy", 100.0]],
    }
    return {"runs": runs, "table": table}, tmp_path / "study"


def test_runs_are_made_once_in_order_and_compared(made, capsys):
    config, workdir = made
    found = study.Study(**config)
    study.write(config, workdir)
    assert study.run(found, workdir) == 0
    said = capsys.readouterr().out
    assert said.index("run 1 of 2: first") < said.index("run 2 of 2: second")
    second = json.loads((workdir / "second" / "config.json").read_text())
    assert second["init_from"]["path"] == f"{workdir}/first"
    assert second["evals"]["eval"]["data"]["length"] == 13
    cells = study.read(workdir).cells(workdir)
    assert cells[2] == [None] and 0 <= cells[0][0] <= 100
    table = study.markdown(found, workdir).splitlines()
    assert table[0] == "| toy | accuracy |"
    assert table[2] == f"| first | {cells[0][0]:.2f} |" and table[4] == "| third | - |"

    written = (workdir / "first" / "metrics.jsonl").read_bytes()
    assert study.run(found, workdir, only="first") == 0
    assert (workdir / "first" / "metrics.jsonl").read_bytes() == written


def test_what_is_wrong_is_named_with_its_run(made):
    config, workdir = made
    found = study.Study(**config)
    with pytest.raises(RunError, match="--only=thrid matches none of first, second"):
        study.run(found, workdir, only="thrid")
    with pytest.raises(RunError, match="--only=\\[ is no regular expression"):
        study.run(found, workdir, only="[")
    with pytest.raises(RunError, match="run second: .*no run with checkpoints"):
        study.run(found, workdir, only="second")
    config["runs"][1]["changes"].append(["task.modle.width", 3])
    with pytest.raises(RunError, match="no 'task.modle.width'; it ends at 'modle'"):
        study.run(found, workdir, only="second")
    with pytest.raises(RunError, match="holds no study"):
        study.read(workdir / "other")
    with pytest.raises(
        ValueError, match="a run has name, file; it needs name and config"
    ):
        study.Study(runs=[{"name": "first", "file": "x"}], table={})


def test_a_missing_config_file_is_named(made):
    config, workdir = made
    config["runs"][0]["config"] = "configs/none.py"
    with pytest.raises(RunError, match="no config 'configs/none.py'"):
        study.run(study.Study(**config), workdir, only="first")
