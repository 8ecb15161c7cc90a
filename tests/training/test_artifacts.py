"""Artifacts: made once, kept with the run, read from its folder alone."""

import copy
import json
import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
import toy_experiment
from jax.experimental import multihost_utils

from nlp.tokenizers import Characters, load
from training import artifacts, evaluation, features, loop, plan, smoke
from training import config as configs
from training.errors import ConfigError, RunError
from training.run import Run
from training.writer import read_metrics


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("abcdefghijklmnopqrstuvwxyz. ABCDEFGHIJ")
    return path


def trained(path, **changes):
    source = {"type": "data.sources.TextFile", "path": str(path)}
    node = {"type": "nlp.tokenizers.Trained", "kind": "characters", "source": source}
    return {**node, **changes}


def other(path):
    return {"type": "nlp.tokenizers.FromRun", "path": str(path)}


def experiment(tokenizer, **changes):
    """Texts of six characters, classified."""
    texts = {
        "text": {"type": "data.features.Text"},
        "label": {"type": "data.features.Label", "num_classes": 4},
    }
    data = {
        "type": "data.pipeline.Pipeline",
        "source": {
            "type": "data.sources.Synthetic",
            "features": texts,
            "length": 21,
        },
        "transforms": [
            {
                "type": "nlp.transforms.Tokenize",
                "tokenizer": tokenizer,
                "fields": {"text": "x"},
                "max_length": 6,
                "on_long": "truncate",
            }
        ],
        "num_threads": 0,
    }
    found = toy_experiment.config(
        total_steps=1, log_steps=1, checkpoint_steps=0, **changes
    )
    found["task"]["scale"] = 0.05
    found["task"]["model"] = {"type": "toy_experiment.Encoder"}
    found["data"] = data
    found["evals"]["eval"]["data"] = copy.deepcopy(data)
    return found


def files(workdir):
    return sorted(path.name for path in (workdir / "artifacts").glob("*.json"))


def test_a_run_needs_nothing_but_its_folder_afterwards(corpus, tmp_path):
    config = experiment(trained(corpus))
    assert loop.train(config, tmp_path / "run") == 0
    assert configs.read(tmp_path / "run") == configs.plain(config)
    assert len(files(tmp_path / "run")) == 1
    corpus.unlink()
    found = evaluation.evaluate(tmp_path / "run")
    last = read_metrics(tmp_path / "run")[-1]
    assert found["eval/loss"] == last["eval/loss"]
    rows = features.export(tmp_path / "run", tmp_path / "f.npz")
    assert len(rows) == 21
    assert loop.train({**config, "total_steps": 2}, tmp_path / "run") == 0
    with pytest.raises(RunError, match=r"corpus.txt' not found"):
        loop.train(config, tmp_path / "another")
    assert not (tmp_path / "another" / "config.json").exists()


def test_the_same_node_is_one_file_and_the_config_stays_as_it_is(corpus, tmp_path):
    config = experiment(trained(corpus))
    before = copy.deepcopy(config)
    found = artifacts.materialize(config, tmp_path)
    assert config == before
    nodes = [
        part["transforms"][0]["tokenizer"]
        for part in (found["data"], found["evals"]["eval"]["data"])
    ]
    assert nodes[0] == nodes[1]
    assert nodes[0]["type"] == "nlp.tokenizers.Saved"
    assert files(tmp_path) == [nodes[0]["path"].rpartition("/")[2]]
    assert load(nodes[0]["path"]).alphabet == "".join(sorted(set(corpus.read_text())))
    again = artifacts.materialize(config, tmp_path)
    assert again == found == artifacts.materialize(found, tmp_path)
    artifacts.materialize(experiment(trained(corpus, vocab_size=9)), tmp_path)
    assert len(files(tmp_path)) == 2


def test_without_a_folder_the_file_is_a_temporary_one(corpus):
    config = {"data": [trained(corpus)]}
    found = artifacts.materialize(config)
    assert found == artifacts.materialize(config)
    assert configs.build(found)["data"][0].vocab_size == 5 + 38


def test_a_config_without_artifacts_stays_as_it_is():
    config = toy_experiment.config()
    assert artifacts.materialize(config) == configs.plain(config)
    assert artifacts.fingerprints(config) == set()


def test_what_is_wrong_with_a_recipe_is_named_with_its_place(corpus):
    for change, text in (
        ({"kind": "words"}, r"data\.transforms\[0\]\.tokenizer: kind is 'words'"),
        ({"vocab": 3}, r"data\.transforms\[0\]\.tokenizer: .*no argument 'vocab'"),
        ({"type": "nlp.tokenizers.Traind"}, "did you mean 'Trained'"),
    ):
        with pytest.raises(ConfigError, match=text):
            Run.from_config(experiment(trained(corpus, **change)))


def test_a_file_that_was_changed_is_named(corpus, tmp_path):
    config = experiment(trained(corpus))
    loop.train(config, tmp_path)
    file = tmp_path / "artifacts" / files(tmp_path)[0]
    file.write_bytes(Characters("abc").artifact())
    for act in (
        lambda: evaluation.evaluate(tmp_path),
        lambda: loop.train({**config, "total_steps": 6}, tmp_path),
    ):
        with pytest.raises(RunError, match=f"{file.name} was changed since"):
            act()


def test_evaluators_must_have_the_tokenizer_of_the_run(corpus, tmp_path):
    loop.train(experiment(trained(corpus)), tmp_path / "run")
    for name, tokenizer in (
        ("same", trained(corpus, vocab_size=400)),
        ("other", trained(corpus, vocab_size=20)),
    ):
        text = json.dumps(experiment(tokenizer))
        script = f"import json\ndef get_config():\n    return json.loads({text!r})\n"
        (tmp_path / f"{name}.py").write_text(script)
    before = files(tmp_path / "run")
    found = evaluation.evaluate(tmp_path / "run", evals_from=str(tmp_path / "same.py"))
    assert found == evaluation.evaluate(tmp_path / "run")
    with pytest.raises(RunError, match="trained with another tokenizer") as caught:
        evaluation.evaluate(tmp_path / "run", evals_from=str(tmp_path / "other.py"))
    assert "\n" not in str(caught.value) and before[0] in str(caught.value)
    assert files(tmp_path / "run") == before


def test_a_tokenizer_is_taken_from_another_run(corpus, tmp_path):
    loop.train(experiment(trained(corpus)), tmp_path / "first")
    start = {
        "type": "training.initialization.FromRun",
        "path": str(tmp_path / "first"),
    }
    config = experiment(other(tmp_path / "first"), init_from=start)
    assert loop.train(config, tmp_path / "second") == 0
    third = experiment(other(tmp_path / "second"))
    (tmp_path / "first").rename(tmp_path / "gone")
    found = [
        artifacts.fingerprints(c, tmp_path / w)
        for c, w in ((config, "second"), (experiment(trained(corpus)), "gone"))
    ]
    assert found[0] == found[1] and len(found[0]) == 1
    evaluation.evaluate(tmp_path / "second")
    assert loop.train(third, tmp_path / "third") == 0


def test_weights_of_another_tokenizer_are_refused(corpus, tmp_path):
    loop.train(experiment(trained(corpus)), tmp_path / "first")
    start = {
        "type": "training.initialization.FromRun",
        "path": str(tmp_path / "first"),
    }
    changed = trained(corpus, vocab_size=20)
    config = experiment(changed, init_from=start)
    with pytest.raises(RunError, match="was trained with tokenizer") as caught:
        loop.train(config, tmp_path / "second")
    here = artifacts.fingerprints(config, tmp_path / "second")
    there = artifacts.fingerprints(experiment(trained(corpus)), tmp_path / "first")
    text = str(caught.value)
    assert len(here) == len(there) == 1 and here != there
    for part in (*here, *there, "nlp.tokenizers.FromRun", str(tmp_path / "first")):
        assert part in text
    assert "\n" not in text
    config["init_from"]["other_tokenizer"] = True
    assert loop.train(config, tmp_path / "third") == 0


def test_trials_need_neither_corpus_nor_other_run(tmp_path, capsys):
    nowhere = tmp_path / "nowhere"
    for tokenizer in (
        trained(nowhere, kind="bpe", vocab_size=300),
        trained(nowhere, kind="unigram", vocab_size=300),
        trained(nowhere),
        other(nowhere),
    ):
        config = experiment(tokenizer)
        small = artifacts.materialize(smoke.shrink(config))
        element = configs.build(small["data"]).element()
        assert element["x"].shape == (6,) and 5 <= element["x"].min()
    assert loop.train(smoke.shrink(config), tmp_path / "run") == 0
    assert plan.show(configs.plain(config)) == 0
    assert "plan" in capsys.readouterr().out


def test_an_imported_run_is_evaluated_with_a_tokenizer_of_its_own_recipe(
    corpus, tmp_path
):
    """Such a run has weights and a config, and nothing was made for it yet."""
    config = experiment(trained(corpus))
    loop.train(config, tmp_path / "run")
    expected = evaluation.evaluate(tmp_path / "run")
    for path in (tmp_path / "run" / "artifacts").iterdir():
        path.unlink()
    assert evaluation.evaluate(tmp_path / "run") == expected
    assert not files(tmp_path / "run")


def test_other_processes_wait_for_the_first(corpus, tmp_path, monkeypatch):
    config = {"data": trained(corpus)}
    sent = []

    def broadcast(value, failed):
        sent.append(int(value))
        return np.int32(failed)

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(
        multihost_utils, "broadcast_one_to_all", lambda value: broadcast(value, 1)
    )
    with pytest.raises(RunError, match=r"process 0 could not make tokenizer-"):
        artifacts.materialize(config, tmp_path / "run")
    monkeypatch.setattr(
        multihost_utils, "broadcast_one_to_all", lambda value: broadcast(value, 0)
    )
    # Process 0 wrote to a folder of its own: this process makes a copy for itself.
    found = artifacts.materialize(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert configs.build(found)["data"].vocab_size == 43
    monkeypatch.setattr(jax, "process_index", lambda: 0)
    with pytest.raises(ConfigError, match="not found"):
        artifacts.materialize({"data": trained(tmp_path / "x")}, tmp_path / "run")
    assert sent == [0, 0, 1]


SCRIPT = """
import json, pathlib, sys
import jax
jax.config.update("jax_num_cpu_devices", 1)
from training import cluster, loop
from training.errors import RunError
port, index, config, workdir = sys.argv[1:]
cluster.initialize(f"localhost:{port}", 2, int(index))
try:
    sys.exit(loop.train(json.loads(config), pathlib.Path(workdir)))
except RunError as error:
    print(error)
    sys.exit(3)
"""


@pytest.mark.slow
@pytest.mark.parametrize("there", [True, False])
def test_two_processes_make_one_file(corpus, tmp_path, there):
    if not there:
        corpus.unlink()
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = str(probe.getsockname()[1])
    env = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    env.pop("JAX_NUM_CPU_DEVICES", None)
    config = json.dumps(experiment(trained(corpus)))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, port, str(i), config, str(tmp_path / "run")],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    codes = [process.returncode for process in processes]
    assert codes == ([0, 0] if there else [3, 3]), outputs
    if there:
        assert len(files(tmp_path / "run")) == 1
    else:
        assert "not found" in outputs[0] and "process 0 could not" in outputs[1]
