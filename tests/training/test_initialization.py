"""Starting from another run: what is taken, what stays fresh, what is refused."""

import jax
import numpy as np
import pytest
import toy_experiment

from training import checkpoint, evaluation, initialization, loop
from training.errors import RunError
from training.run import Run
from training.state import TrainState

ENCODER = {"type": "toy_experiment.Encoder"}
WRAPPER = {"type": "toy_experiment.Wrapper", "backbone": {**ENCODER, "num_classes": 0}}
TO_ENCODER = {"rules": [["^(backbone/)?", ""]], "fresh": ["^head/"]}


def config(model, path=None, **options):
    changes = {"total_steps": 2, "checkpoint_steps": 0, "eval_steps": 0}
    ema = options.pop("ema_decay", None)
    if path is not None:
        node = {"type": "training.initialization.FromRun", "path": str(path), **options}
        changes["init_from"] = node
    found = toy_experiment.config(**changes, ema_decay=ema)
    found["task"]["model"] = model
    return found


def begin(plain) -> tuple[TrainState, str]:
    """(the first state, what is said of it)."""
    run = Run.from_config(plain)
    state, table = run.experiment.init_from(run, run.init())
    cells = zip(*(column.cells for column in table.columns), strict=True)
    return state, [tuple(str(cell) for cell in row) for row in cells]


def final(workdir) -> TrainState:
    from training import config as configs

    run = Run.from_config(configs.read(workdir))
    return evaluation.restore(workdir, run, "last").state


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("pretrained")
    assert loop.train(config(WRAPPER), workdir) == 0
    return workdir


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_backbone_is_taken_and_the_head_left_fresh(pretrained):
    plain = config(ENCODER, pretrained, **TO_ENCODER)
    state, rows = begin(plain)
    fresh = Run.from_config(plain).init()
    equal(state.params["up"], final(pretrained).params["backbone"]["up"])
    equal(state.params["head"], fresh.params["head"])
    assert [row[:3] for row in rows] == [
        ("loaded", "up/bias", "backbone/up/bias"),
        ("loaded", "up/kernel", "backbone/up/kernel"),
        ("fresh", "head/bias", ""),
        ("fresh", "head/kernel", ""),
        ("skipped", "", "decoder/bias"),
        ("skipped", "", "decoder/kernel"),
    ]
    assert rows[1][3:] == ("1", "96")


def test_the_same_rule_serves_a_run_without_wrapper(pretrained, tmp_path):
    assert loop.train(config(ENCODER), tmp_path) == 0
    state, _ = begin(config(ENCODER, tmp_path, **TO_ENCODER))
    equal(state.params["up"], final(tmp_path).params["up"])


def test_without_rules_everything_is_taken_by_its_name(pretrained):
    state, _ = begin(config(WRAPPER, pretrained))
    equal(state.params, final(pretrained).params)


def test_statistics_and_averages_are_taken(tmp_path):
    norm = {"type": "toy_experiment.Net", "norm": True}
    assert loop.train(config(norm, ema_decay=0.5), tmp_path) == 0
    source = final(tmp_path)
    state, _ = begin(config(norm, tmp_path, ema_decay=0.9))
    equal(state.params, source.ema)
    equal(state.ema, source.ema)
    equal(state.collections, source.collections)
    assert np.abs(state.collections["batch_stats"]["norm"]["mean"]).sum() > 0
    state, _ = begin(config(norm, tmp_path, ema=False))
    equal(state.params, source.params)


def test_the_first_state_is_what_the_run_trains_from(pretrained, tmp_path, capsys):
    plain = config(ENCODER, pretrained, **TO_ENCODER)
    plain["optimizer"] = {"type": "optax.sgd", "learning_rate": 0.0}
    assert loop.train(plain, tmp_path) == 0
    equal(final(tmp_path).params["up"], final(pretrained).params["backbone"]["up"])
    out, err = capsys.readouterr()
    assert "initial values from" in out + err


def test_a_resumed_run_does_not_ask_for_it_again(pretrained, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(pretrained, copy)
    plain = config(ENCODER, copy, **TO_ENCODER)
    assert loop.train(plain, tmp_path / "run") == 0
    shutil.rmtree(copy)
    assert loop.train({**plain, "total_steps": 3}, tmp_path / "run") == 0
    assert int(final(tmp_path / "run").step) == 3


def test_the_optimizer_starts_at_the_taken_values(pretrained):
    """Its state may hold parameters of its own."""
    plain = config(ENCODER, pretrained, **TO_ENCODER)
    plain["optimizer"] = {
        "type": "optax.contrib.schedule_free_sgd",
        "learning_rate": 0.1,
    }
    state, _ = begin(plain)
    held = jax.tree.leaves(state.opt_state)
    kernel = np.asarray(state.params["up"]["kernel"])
    assert any(x.shape == kernel.shape and (x == kernel).all() for x in held)


@pytest.mark.parametrize("mesh", [{"data": 8}, {"fsdp": 8}], ids=str)
def test_it_lands_in_any_sharding(pretrained, mesh):
    plain = {**config(ENCODER, pretrained, **TO_ENCODER), "mesh": mesh}
    plain["task"]["model"] = {**ENCODER, "width": 16}
    state, _ = begin(plain)
    equal(state.params["up"], final(pretrained).params["backbone"]["up"])
    run = Run.from_config(plain)
    placed = jax.tree.map(lambda x: x.sharding, state.params)
    assert placed == run.shardings.params


class Halve:
    """An adapter: the first columns of a wider kernel or bias."""

    def __call__(self, path, array, shape):
        return array[..., : shape[-1]] if path.startswith("up/") else None


def test_an_adapter_changes_shapes(pretrained):
    options = {"adapters": [{"type": "test_initialization.Halve"}], **TO_ENCODER}
    state, rows = begin(config({**ENCODER, "width": 8}, pretrained, **options))
    kernel = final(pretrained).params["backbone"]["up"]["kernel"]
    np.testing.assert_array_equal(state.params["up"]["kernel"], kernel[:, :8])
    assert rows[0][0] == "resized"


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (ENCODER, {}, "has nothing for head/bias, head/kernel, up/bias and 1 more"),
        (ENCODER, {**TO_ENCODER, "fresh": []}, "nothing for head/bias, head/kernel"),
        (
            ENCODER,
            {**TO_ENCODER, "fresh": ["^hat/"]},
            r"fresh: '\^hat/' matches no array",
        ),
        (
            ENCODER,
            {**TO_ENCODER, "rules": [["^spine/", ""]]},
            r"rules: '\^spine/' matches",
        ),
        (
            {**ENCODER, "width": 8},
            TO_ENCODER,
            r"up/bias is \(16,\) there and \(8,\) in this model \(2 such\)",
        ),
        (ENCODER, {**TO_ENCODER, "step": 7}, "no checkpoint of step 7"),
        (
            ENCODER,
            {**TO_ENCODER, "rules": [["^(backbone/up|decoder)/", "up/"]]},
            "both become 'up/bias'",
        ),
    ],
)
def test_what_does_not_fit_is_named(pretrained, model, options, message):
    with pytest.raises(RunError, match=message) as error:
        begin(config(model, pretrained, **options))
    assert "\n" not in str(error.value)


def test_a_missing_run_and_a_file_are_named(tmp_path):
    with pytest.raises(RunError, match=r"nowhere is no run with checkpoints"):
        begin(config(ENCODER, tmp_path / "nowhere"))
    file = tmp_path / "weights.safetensors"
    file.touch()
    with pytest.raises(RunError, match=r"training.import_weights"):
        begin(config(ENCODER, file))


def test_after_a_wrong_path_the_same_workdir_takes_the_right_one(pretrained, tmp_path):
    with pytest.raises(RunError, match="no run with checkpoints"):
        loop.train(
            config(ENCODER, tmp_path / "nowhere", **TO_ENCODER), tmp_path / "run"
        )
    right = config(ENCODER, pretrained, **TO_ENCODER)
    assert loop.train(right, tmp_path / "run") == 0
    with pytest.raises(RunError, match="holds a run of another config"):
        loop.train(config(ENCODER, tmp_path, **TO_ENCODER), tmp_path / "run")


def test_a_path_instead_of_a_node_is_named():
    plain = {**config(ENCODER), "init_from": "runs/mae"}
    with pytest.raises(RunError, match="init_from is 'runs/mae'; it must be a node"):
        Run.from_config(plain)


def test_a_pattern_that_is_none_is_named(pretrained):
    with pytest.raises(RunError, match=r"pattern '\('"):
        begin(config(ENCODER, pretrained, fresh=["("]))
    with pytest.raises(RunError, match="invalid group reference"):
        begin(config(ENCODER, pretrained, rules=[["^x", r"\2"]]))


def test_a_flipped_byte_is_found(pretrained, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(pretrained, copy)
    parts = [p for p in (copy / checkpoint.FOLDER).rglob("d/*") if p.is_file()]
    for part in parts:  # which of them the arrays lie in differs from save to save
        data = bytearray(part.read_bytes())
        for place in range(len(data) // 4, len(data) // 2, 7):
            data[place] ^= 0xFF
        part.write_bytes(bytes(data))
    with pytest.raises(RunError, match="damaged"):
        initialization.read_arrays(copy)
