"""The step benchmark: equal formulations, fair turns, contestants that are absent or die."""

import operator
import os
import sys

import flax.linen as nn
import jax
import numpy as np
import pytest

from benchmarks import train_step
from benchmarks import train_step_contestant as contestants
from benchmarks import train_step_jax as jax_side
from benchmarks import train_step_rows as rows
from training import config

FAKE = """
import os, time

def build(spec):
    name = spec["contestant"]
    if name == "absent":
        import a_package_that_nobody_has
    if name == "refuses":
        raise ValueError("wants nothing of this\\nand more")
    return Trainer(name, spec)

class Trainer:
    def __init__(self, name, spec):
        self.name, self.log, self.steps = name, spec["log"], 0
        self.description = {"step_seconds": 0.5, "parameters": 7}

    def step(self):
        self.steps += 1
        if self.steps > 2 and self.name == "dies":
            os._exit(3)
        if self.steps > 2 and self.name == "breaks":
            raise RuntimeError("out of memory")
        print("libraries print what they like")

    def wait(self, handle):
        with open(self.log, "a") as file:
            file.write(f"{self.name} {self.steps}\\n")
        return 1.5

    def device_peak(self):
        return 1024 if self.name == "first" else None

    def reset_device_peak(self):
        self.steps = 0
"""


@pytest.fixture
def start(tmp_path):
    """Contestants of the module above; what they did is in `start.log`."""
    (tmp_path / "fake_contestants.py").write_text(FAKE)
    log = tmp_path / "log"

    def start(name):
        return contestants.Contestant(
            sys.executable,
            "fake_contestants",
            {"contestant": name, "log": str(log)},
            {**os.environ, "PYTHONPATH": str(tmp_path)},
        )

    start.log = log
    return start


@pytest.mark.parametrize("together", [False, True])
def test_contestants_take_turns(start, together):
    results = train_step.compete(
        start, ["first", "second"], rounds=3, steps=2, together=together
    )
    lines = start.log.read_text().split("\n")[:-1]
    assert lines == [
        *("second 2", "first 2"),  # does not count
        *("first 4", "second 4"),
        *("second 6", "first 6"),
        *("first 8", "second 8"),
    ]
    for name, result in results.items():
        assert result["parameters"] == 7
        assert [turn["steps"] for turn in result["rounds"]] == [2, 2, 2]
        for turn in result["rounds"]:
            assert turn["loss"] == 1.5 and turn["seconds"] > 0
            assert (turn["peak_bytes"] == 1024) == (name == "first")


def test_a_turn_is_as_long_as_the_slowest_allows(start):
    results = train_step.compete(start, ["first"], rounds=1, steps=None)
    expected = round(train_step.TURN_SECONDS / 0.5)
    assert results["first"]["rounds"][0]["steps"] == expected


def test_a_contestant_that_takes_no_part_stops_nobody(start):
    said = []
    results = train_step.compete(
        start,
        ["absent", "refuses", "dies", "breaks", "last"],
        rounds=3,
        steps=2,
        log=said.append,
    )
    assert results["absent"] == {"absent": "a_package_that_nobody_has is not installed"}
    assert results["refuses"] == {"error": "ValueError: wants nothing of this"}
    assert results["dies"]["error"].startswith("ended with code 3")
    assert results["breaks"]["error"] == "RuntimeError: out of memory"
    assert len(results["last"]["rounds"]) == 3
    assert len(said) == 4


def test_an_interpreter_that_is_not_there():
    with pytest.raises(contestants.ContestantError, match="cannot start 'nowhere'"):
        contestants.Contestant("nowhere", "some_module", {}, os.environ)


class _Sleepless:
    """A trainer whose seconds are told and not measured."""

    def __init__(self):
        self.description = {}


def test_the_fastest_variant_is_kept(monkeypatch):
    seconds = {
        "slow": iter([9.0, 5.0, 5.0, 4.0, 4.5]),
        "quick": iter([9.0, 2.0, 2.0, 1.0, 3.0]),
    }

    def build(variant):
        if variant["kind"] == "refused":
            raise ValueError("not this one")
        trainer = _Sleepless()
        trainer.seconds = seconds[variant["kind"]]
        return trainer

    monkeypatch.setattr(
        contestants, "timed", lambda trainer, _: {"seconds": next(trainer.seconds)}
    )
    kinds = [{"kind": kind} for kind in ("slow", "refused", "quick")]
    description = contestants.fastest(kinds, build).description
    assert description["variant"] == "quick"
    assert description["step_seconds"] == 1.0
    assert description["compile_seconds"] == 9.0 + 2.0 - 2 * 1.0
    assert description["variants"] == {
        "slow": 4.0,
        "refused": "ValueError: not this one",
        "quick": 1.0,
    }
    with pytest.raises(ValueError, match="not this one"):
        contestants.fastest([{"kind": "refused"}], build)


def turns(*seconds):
    return {"rounds": [{"seconds": s} for s in seconds]}


def test_ratios_are_taken_within_rounds_against_the_better_torch():
    results = {
        "ours": turns(1.0, 2.0, 4.0),
        "linen": turns(1.5, 4.0, 8.0),
        "torch": turns(2.0, 1.0, 2.0),
        "torch.compile": turns(9.0, 9.0, 9.0),
    }
    found = train_step.ratios(results)
    assert found["plain Linen"] == {"median": 2.0, "least": 1.5, "most": 2.0}
    assert found["the better torch"] == {
        "median": 0.5,
        "least": 0.5,
        "most": 2.0,
        "contestant": "torch",
    }
    results["torch"] = results["torch.compile"] = {"absent": "torch is not installed"}
    assert list(train_step.ratios(results)) == ["plain Linen"]


def test_the_table_names_who_is_absent_and_who_failed():
    def line(result):
        return train_step.table_row("torch", result, 8, {})

    assert line({"absent": "torch is not installed"})[:2] == ["torch", "not installed"]
    assert line({"error": "out of memory", "rounds": []})[:2] == ["torch", "failed"]
    turn = {"seconds": 0.5, "peak_bytes": 2**30}
    result = {"rounds": [turn], "compile_seconds": 3.0, "variant": "autocast"}
    cells = train_step.table_row(
        "torch", result, 8, {"flops": 2e12, "peak_flops": 16e12}
    )
    assert cells == [
        *("torch", "0.5000", "0.0%", "16.0", "4 (25%)"),
        *("1.00 GiB", "3.0 s", "autocast"),
    ]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--models=vit_b17", "unknown model 'vit_b17'"),
        ("--contestants=ours,caffe", "unknown contestant 'caffe'"),
        ("--torch_python=/nowhere/python", "no interpreter"),
        ("--rounds=0", "--rounds=0"),
    ],
)
def test_wrong_options_are_one_line(argument, message):
    with pytest.raises(ValueError, match=message):
        train_step.parse([argument])


def test_precision_follows_the_device():
    assert train_step.parse([]).dtype == "float32"
    assert train_step.parse(["--device=gpu"]).dtype == "bfloat16"
    assert train_step.parse([]).models == list(rows.ROWS)


@pytest.mark.parametrize("name", list(rows.ROWS))
def test_a_row_is_a_task_and_a_batch_that_fits_it(name):
    row = rows.ROWS[name]
    task = config.build(row.task)
    task.check(rows.random_batch(row, 2))
    assert row.optimizer in rows.OPTIMIZERS
    chosen = config.build(jax_side.task_node(row, "bfloat16", "cudnn"))
    for path in row.attention_fields:
        assert operator.attrgetter(path)(chosen.model) == "cudnn"
        assert operator.attrgetter(path)(task.model) is None
    assert chosen.model.dtype == "bfloat16" and task.model.dtype is None


def small(model, optimizer, size, **fields):
    row = rows.classification(model, size=size, num_classes=3)
    row["task"]["model"] |= fields
    return rows.Row(**row, torch="", optimizer=optimizer, batch_size={})


SMALL = {
    "vit": small(
        "vit.ViT", "adamw", 8, patch_size=4, embed_dim=8, num_layers=1, num_heads=2,
        mlp_dim=16,
    ),
    "resnet": small(
        "resnet.ResNet", "sgd", 16, stage_sizes=(1,), stage_widths=(2,),
        stem_width=4,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(SMALL))
def test_plain_linen_is_the_same_model_without_our_layers(name):
    called = {"ours": set(), "linen": set()}
    losses = {}
    for contestant, types in called.items():

        def note(next_method, args, kwargs, context, to=types):
            to.add(type(context.module))
            return next_method(*args, **kwargs)

        # The other generator compiles in a third of the time.
        with nn.intercept_methods(note), jax.default_prng_impl("unsafe_rbg"):
            trainer = jax_side.JaxTrainer(
                SMALL[name], 4, dtype="float32", plain=contestant == "linen"
            )
            try:
                losses[contestant] = [trainer.wait(trainer.step()) for _ in range(3)]
            finally:
                trainer.restore()
    ours = {layer for layer, _ in jax_side.LINEN}
    assert called["ours"] & ours
    assert not called["linen"] & ours
    np.testing.assert_allclose(losses["ours"], losses["linen"], rtol=1e-3)
    assert losses["ours"][0] != losses["ours"][2]


def test_replaced_layers_come_back():
    from vision.models import resnet

    before = resnet.Conv, resnet.max_pool
    restore = jax_side.replace_layers()
    assert resnet.Conv is nn.Conv and resnet.max_pool is nn.max_pool
    restore()
    assert (resnet.Conv, resnet.max_pool) == before


def test_linen_attention_is_causal_where_ours_is():
    query, key, value = jax.random.normal(jax.random.key(0), (3, 2, 5, 2, 4))
    from layers.attention import dot_product_attention

    for causal in (False, True):
        np.testing.assert_allclose(
            jax_side._linen_attention(query, key, value, causal=causal),
            dot_product_attention(query, key, value, causal=causal),
            atol=1e-5,
        )


def test_the_torch_side_trains_an_equal_network():
    pytest.importorskip("torch")
    from benchmarks import train_step_torch as torch_side

    row = rows.ROWS["resnet20_cifar"]
    for variant in torch_side.variants(row, "cpu", "bfloat16"):
        trainer = torch_side.TorchTrainer(
            row, 2, device="cpu", compile_mode=None, **variant
        )
        losses = [trainer.wait(trainer.step()) for _ in range(2)]
        assert np.isfinite(losses).all()
    assert trainer.description["parameters"] == 269_722
