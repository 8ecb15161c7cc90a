"""Runs become weight files again; positions and heads are adapted on request only."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from training import checkpoint, evaluation, variables
from training.errors import RunError
from training.export_weights import export_weights
from training.import_weights import import_weights
from training.run import Run
from training.weight_files import convert, export, load_file, naming_for, save_file
from training.weight_naming import (
    Convolution,
    Flat,
    Layout,
    Linear,
    Matrix,
    Naming,
    Part,
    Rule,
    torch_batch_norm,
    torch_fused,
    torch_linear,
)
from vision.weights.rules import Leading, Window

RNG = np.random.default_rng(0)


def draw(*shape):
    return RNG.normal(size=shape).astype(np.float32)


# --- Files ------------------------------------------------------------------------------


def test_a_file_is_read_by_its_format_s_own_library(tmp_path):
    tensors = {
        "b.weight": draw(3, 4)[:, ::2],
        "a": np.arange(5),
        "scalar": np.zeros((), np.int64),
        "empty": draw(0, 3),
        "half": draw(3).astype(np.float16),
        "flag": np.array([True, False]),
    }
    path = tmp_path / "x.safetensors"
    save_file(tensors, path)
    for read in (safetensors.numpy.load_file, load_file):
        found = read(path)
        assert found.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert found[name].dtype == tensor.dtype
            np.testing.assert_array_equal(found[name], tensor)
    with safetensors.safe_open(path, "numpy") as file:
        assert file.metadata() == {"format": "pt"}
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_brain_floats_are_kept_and_the_rest_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    values = draw(4).astype(ml_dtypes.bfloat16)
    save_file({"x": values}, path)
    assert load_file(path)["x"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(load_file(path)["x"], values)
    with pytest.raises(ValueError, match="x is complex128.*convert"):
        save_file({"x": np.zeros(2, complex)}, path)
    np.testing.assert_array_equal(load_file(path)["x"], values)
    with pytest.raises(ValueError, match=r"x.npz does not end in .safetensors"):
        save_file({}, tmp_path / "x.npz")
    with pytest.raises(OSError):
        save_file({}, tmp_path / "none" / "x.safetensors")


# --- Layouts and tables -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "ours"),
    [
        (Layout(), (2, 3)),
        (Flat(), (2, 3)),
        (Linear(), (4, 2, 3)),
        (Linear(in_axes=2), (2, 3, 4)),
        (Matrix(in_axes=2), (2, 3, 4)),
        (Convolution(), (3, 5, 4, 2)),
        (Leading(2), (4, 6)),
        (Window(), (4, 6)),
        (Window(side=3), (18, 6)),
    ],
    ids=repr,
)
def test_storing_undoes_loading(layout, ours):
    tensor = draw(*layout.theirs(ours))
    stored = np.zeros_like(tensor)
    layout.store(layout.load(tensor, ours), stored)
    np.testing.assert_array_equal(stored, tensor)
    assert len(np.unique(layout.places(ours))) == tensor.size


def test_parts_are_joined():
    value = np.arange(24.0).reshape(4, 2, 3)  # [D, N, H]
    tensor = np.full((18, 4), -1.0)
    Part(2, 3, Linear()).store(value, tensor)
    assert (tensor[:12] == -1).all()
    assert tensor[12 + 1 * 3 + 2, 3] == value[3, 1, 2]


TABLE = Naming(
    "publisher small",
    (
        *torch_fused(("block_{}/query", "block_{}/key"), "layers.{}.qk"),
        *torch_batch_norm("block_{}/norm", "layers.{}.bn"),
        *torch_linear("head", "fc"),
    ),
    ignored=(r".*\.num_batches_tracked", "position_ids"),
    prefixes=("net.",),
)


def small(stacked):
    """(params, other collections) that TABLE knows, of two blocks."""
    params = {
        f"block_{i}": {
            "query": {"kernel": draw(4, 2, 3), "bias": draw(2, 3)},
            "key": {"kernel": draw(4, 2, 3), "bias": draw(2, 3)},
            "norm": {"scale": draw(4), "bias": draw(4)},
        }
        for i in range(2)
    }
    stats = {
        f"block_{i}": {"norm": {"mean": draw(4), "var": draw(4)}} for i in range(2)
    }
    head = {"kernel": draw(4, 5), "bias": draw(5)}
    if not stacked:
        return {**params, "head": head}, {"batch_stats": stats}
    join = lambda *leaves: np.stack(leaves)
    # As a scan has it: the layers' axis first, under 'blocks'.
    params = {"x": {"blocks": jax.tree.map(join, *params.values())}, "head": head}
    return params, {
        "batch_stats": {"x": {"blocks": jax.tree.map(join, *stats.values())}}
    }


@pytest.mark.parametrize("stacked", [False, True])
def test_export_undoes_import(stacked):
    params, collections = small(stacked)
    table = TABLE
    if stacked:
        rules = [
            Rule(r.ours.replace("/block", "/x/block"), r.theirs, r.layout)
            for r in TABLE.rules
        ]
        table = dataclasses.replace(TABLE, rules=tuple(rules))
    tensors = export(params, collections, table)
    assert tensors["layers.1.qk.weight"].shape == (12, 4)
    np.testing.assert_array_equal(tensors["fc.weight"], params["head"]["kernel"].T)
    counter = tensors["layers.1.bn.num_batches_tracked"]
    assert counter.dtype == np.int64 and counter.shape == () and counter == 0
    assert "position_ids" not in tensors
    template = {"params": params, **collections}
    for prefix in ("", "net."):
        file = {prefix + name: x for name, x in tensors.items()}
        again = convert(file, template, [table])
        jax.tree.map(np.testing.assert_array_equal, again, (params, collections))
    shuffled = jax.tree.map(jnp.asarray, (params, collections))  # device arrays too
    for name, tensor in export(*shuffled, table).items():
        np.testing.assert_array_equal(tensor, tensors[name])


def test_what_cannot_be_exported_is_named():
    params, collections = small(False)
    with pytest.raises(ValueError, match="no name for params/capsule/kernel; add"):
        export({**params, "capsule": {"kernel": draw(2)}}, collections, TABLE)
    del params["block_1"]["key"]
    with pytest.raises(
        ValueError, match=r"layers.1.qk.bias, layers.1.qk.weight of.*in part"
    ):
        export(params, collections, TABLE)
    # The same part of a tensor twice does not stand for the other one.
    twice = Naming(
        "x",
        tuple(
            r
            if "query" in r.ours
            else dataclasses.replace(
                r, layout=TABLE.find("params/block_0/query/kernel")[1]
            )
            for r in TABLE.rules[:3:2]
        ),
    )
    leaves = {"query": {"kernel": draw(4, 2, 3)}, "key": {"kernel": draw(4, 2, 3)}}
    with pytest.raises(ValueError, match=r"layers.0.qk.weight of.*in part"):
        export({"block_0": leaves}, {}, twice)
    params, collections = small(False)
    params["head"]["kernel"][1, 2] = np.nan
    with pytest.raises(ValueError, match="not finite: params/head/kernel;.*earlier"):
        export(params, collections, TABLE)


def test_the_table_is_chosen_by_name_then_by_how_well_it_fits():
    params, collections = small(False)
    wide = Naming("timm wide", (*TABLE.rules, *torch_linear("other", "other")))
    narrow = Naming("timm", TABLE.rules)
    token = Naming("timm_token", TABLE.rules)
    stranger = Naming("timm stranger", TABLE.rules[:3])
    known = (stranger, TABLE, wide, narrow, token)
    choose = lambda *name: naming_for(params, collections, known, *name)
    assert choose() is narrow
    assert choose("timm") is narrow
    assert choose("timm wide") is wide
    assert choose("publisher") is TABLE
    assert choose("timm_token") is token
    assert naming_for(params, collections, (TABLE, wide)) is wide
    # Never the names of another publisher, unless they are asked for.
    with pytest.raises(ValueError, match="'timm' is not known.*known: publisher small"):
        naming_for(params, collections, (TABLE,))
    with pytest.raises(ValueError, match="'keras' is not known.*publisher small, timm"):
        choose("keras")
    with pytest.raises(ValueError, match="covers params/head/kernel"):
        naming_for(params, {}, (Naming("x", TABLE.rules[:-2]),))


def test_a_file_that_fits_several_tables_is_read_by_the_narrowest():
    params, collections = small(False)
    wide = Naming("timm wide", (*TABLE.rules, *torch_linear("other", "other")))
    tensors = export(params, collections, TABLE)
    del tensors["fc.bias"]
    with pytest.raises(ValueError, match="publisher small naming.*missing: fc.bias"):
        convert(tensors, {"params": params, **collections}, [wide, TABLE])


def test_a_file_of_which_little_fits_is_of_another_architecture():
    params, collections = small(False)
    tensors = export(params, collections, TABLE)
    few = {
        name: tensors[name] for name in ("fc.weight", "fc.bias", "layers.0.bn.weight")
    }
    with pytest.raises(ValueError, match="another architecture") as caught:
        convert(few, {"params": params, **collections}, [TABLE])
    assert "\n" not in str(caught.value)


# --- What is adapted on request ---------------------------------------------------------


def test_a_fresh_head_is_left_out_and_positions_are_adapted():
    table = Naming("x", (*torch_linear("head", "fc"), Rule("params/table", "pos")))
    params = {"head": {"kernel": draw(4, 5), "bias": draw(5)}, "table": draw(9, 4)}
    tensors = export(params, {}, table)
    template = {"params": {"head": {"kernel": draw(4, 7), "bias": draw(7)}}}
    template["params"]["table"] = draw(4, 4)
    with pytest.raises(ValueError, match=r"fc.bias is \(5,\).*pos is \(9, 4\)"):
        convert(tensors, template, [table])

    def first(path, array, shape):
        return array[: shape[0]] if path == "table" else None

    found, _ = convert(tensors, template, [table], fresh=["^head/"], adapters=[first])
    assert found.keys() == {"table"}
    np.testing.assert_array_equal(found["table"], params["table"][:4])
    # A file without a head will do, but what is asked for must exist here.
    del tensors["fc.weight"], tensors["fc.bias"]
    convert(tensors, template, [table], fresh=["^head/"], adapters=[first])
    with pytest.raises(ValueError, match="'neck' matches nothing.*'head/kernel'"):
        convert(tensors, template, [table], fresh=["neck"])


# --- The commands -----------------------------------------------------------------------

DATA = {
    "type": "data.pipeline.Pipeline",
    "source": {
        "type": "data.sources.Synthetic",
        "length": 12,
        "features": {
            "image": {"type": "data.features.Image", "height": 16, "width": 16},
            "label": {"type": "data.features.Label", "num_classes": 10},
        },
    },
}


def config(size=16, **model):
    data = json.loads(json.dumps(DATA))
    data["source"]["features"]["image"] |= {"height": size, "width": size}
    return {
        "task": {
            "type": "vision.tasks.classification.Classification",
            "model": {
                "type": "vision.models.vit.ViT",
                "num_classes": 3,
                "patch_size": 8,
                "embed_dim": 8,
                "num_layers": 2,
                "num_heads": 2,
                "mlp_dim": 12,
                "scan": True,
                **model,
            },
        },
        "optimizer": {"type": "optax.sgd", "learning_rate": 1e-3},
        "data": data,
        "batch_size": 8,
        "total_steps": 2,
        "ema_decay": 0.9,
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(folder of a run at step 3, its state), whose average differs from its parameters."""
    folder = tmp_path_factory.mktemp("run") / "run"
    run = Run.from_config(config())
    state = jax.device_get(run.init())
    params = jax.tree.map(lambda x: draw(*x.shape), state.params)
    ema = jax.tree.map(lambda x: x + 1, params)
    state = dataclasses.replace(state, params=params, ema=ema)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config()))
    keeper = checkpoint.Checkpointer(folder)
    keeper.save(3, jax.device_put(state, run.shardings))
    keeper.close()
    return folder, state


@pytest.mark.parametrize("ema", [True, False])
def test_a_run_becomes_a_file_and_a_run_again(run, ema, tmp_path):
    folder, state = run
    path = tmp_path / "vit.safetensors"
    line = export_weights(folder, path, "timm", ema=ema)
    assert "step 3" in line and "'timm'" in line and "\n" not in line
    tensors = load_file(path)
    params = state.ema if ema else state.params
    np.testing.assert_array_equal(tensors["cls_token"], params["class_token"])
    assert "blocks.1.attn.qkv.weight" in tensors  # the stack of a scan came apart
    if ema:
        import_weights(config(), path, tmp_path / "again")
        _, again = variables.read(tmp_path / "again")
        jax.tree.map(np.testing.assert_array_equal, again, {"params": params})


def test_positions_and_heads_only_on_request(run, tmp_path):
    folder, state = run
    path = tmp_path / "vit.safetensors"
    export_weights(folder, path)
    other, workdir = config(size=32, num_classes=5), tmp_path / "other"
    with pytest.raises(
        RunError, match=r"head.bias is \(3,\).*pos_embed is \(1, 5, 8\)"
    ):
        import_weights(other, path, workdir)
    with pytest.raises(RunError, match="wrong shape: pos_embed"):
        import_weights(other, path, workdir, fresh_head=True)
    assert not workdir.exists()
    import_weights(other, path, workdir, fresh_head=True, resize_positions=True)
    made = evaluation.restore(workdir, Run.from_config(other), "last").state
    fresh = Run.from_config(other).init()
    for leaf in ("kernel", "bias"):
        np.testing.assert_array_equal(
            made.params["head"][leaf], fresh.params["head"][leaf]
        )
    table, old = made.params["position_embedding"], state.ema["position_embedding"]
    assert table.shape == (1, 17, 8)
    np.testing.assert_array_equal(table[:, 0], old[:, 0])  # the class token's
    # Enlarging keeps the mean of a grid.
    means = [np.asarray(x)[:, 1:].mean(1) for x in (table, old)]
    np.testing.assert_allclose(*means, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(
        made.params["encoder"]["norm"]["scale"], state.ema["encoder"]["norm"]["scale"]
    )
    jax.tree.map(np.testing.assert_array_equal, made.ema, made.params)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"naming": "keras"}, ["'keras' is not known", "timm"]),
        ({"step": 7}, ["no checkpoint of step 7", "[3]"]),
        ({"step": "best"}, ["names no best_metric"]),
        ({"out": "x.npz"}, ["x.npz does not end in .safetensors"]),
        ({"out": "none/x.safetensors"}, ["cannot write", "No such file"]),
        ({"workdir": "none"}, ["none is no"]),
    ],
)
def test_mistakes_are_one_line(run, tmp_path, arguments, words):
    arguments = {"workdir": run[0], "out": "x.safetensors", **arguments}
    if arguments["workdir"] == "none":
        arguments["workdir"] = tmp_path / "none"
    arguments["out"] = tmp_path / arguments["out"]
    with pytest.raises(RunError) as caught:
        export_weights(**arguments)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)
    assert not arguments["out"].exists()


def test_steps_are_numbers_or_words():
    assert [variables.step_of(x) for x in ("12", "best", "last")] == [
        12,
        "best",
        "last",
    ]
    with pytest.raises(RunError, match="--step=x is neither"):
        variables.step_of("x")
