"""Published files of language models: detection, errors that name tensors, a run folder."""

import functools
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from nlp.import_weights import NAMINGS, convert, load_file
from nlp.models.bert import BERT
from nlp.models.gpt import GPT
from training import evaluation
from training.errors import RunError
from training.import_weights import import_weights
from training.run import Run
from training.weight_naming import Matrix, Part

TOKENS = np.zeros((1, 4), np.int32)
SIZES = {"vocab_size": 99, "embed_dim": 32, "num_layers": 3, "num_heads": 4}


def template(model):
    return jax.eval_shape(model.init, jax.random.key(0), TOKENS)


@functools.cache
def gpt_template():
    return template(GPT(max_length=32, **SIZES))


def test_no_two_rules_of_a_table_are_about_the_same_leaf():
    names = [naming.name for naming in NAMINGS]
    assert len(set(names)) == len(names)
    for naming in NAMINGS:
        ours = [rule.ours for rule in naming.rules]
        assert len(set(ours)) == len(ours), naming.name
        for rule in naming.rules:
            assert rule.ours.count("{}") == rule.theirs.count("{}"), rule


def test_matrices_of_gpt2_by_hand():
    weight = np.arange(4 * 6.0).reshape(4, 6)
    assert Matrix().theirs((4, 2, 3)) == (4, 6)
    assert Matrix().load(weight, (4, 2, 3))[1, 1, 2] == weight[1, 1 * 3 + 2]
    assert Matrix(in_axes=2).theirs((2, 2, 6)) == (4, 6)
    assert Matrix(in_axes=2).load(weight, (2, 2, 6))[1, 0, 5] == weight[2, 5]
    fused = np.arange(4 * 18.0).reshape(4, 18)
    value = Part(2, 3, Matrix(), axis=1)
    assert value.theirs((4, 2, 3)) == (4, 18)
    assert value.load(fused, (4, 2, 3))[3, 1, 2] == fused[3, 12 + 1 * 3 + 2]


def test_names_with_and_without_a_prefix_and_with_masks(parity):
    weights = parity("gpt2_hf")[0]
    now, _ = convert(weights, gpt_template())
    # As the files of the hub have it.
    bare = {name.removeprefix("transformer."): x for name, x in weights.items()}
    del bare["lm_head.weight"]
    bare["h.0.attn.bias"] = np.tri(32, dtype=np.float32)[None, None]
    jax.tree.map(np.testing.assert_array_equal, convert(bare, gpt_template())[0], now)
    np.testing.assert_array_equal(
        now["encoder"]["block_1"]["attention"]["key"]["kernel"].reshape(32, 32),
        weights["transformer.h.1.attn.c_attn.weight"][:, 32:64],
    )


def test_stacked_layers_hold_the_same_weights(parity):
    weights = parity("gpt2_hf")[0]
    loop, _ = convert(weights, gpt_template())
    scan, _ = convert(weights, template(GPT(max_length=32, scan=True, **SIZES)))
    for i in range(3):
        jax.tree.map(
            lambda one, all_, i=i: np.testing.assert_array_equal(one, all_[i]),
            loop["encoder"][f"block_{i}"],
            scan["encoder"]["blocks"],
        )


def test_one_error_names_everything_that_does_not_fit(parity):
    weights = dict(parity("gpt2_hf")[0])
    del weights["transformer.h.1.mlp.c_fc.bias"]
    weights["transformer.h.3.ln_1.bias"] = np.zeros(32, np.float32)
    weights["transformer.wte.weight"] = np.zeros((100, 32), np.float32)
    weights["transformer.ln_f.bias"] = np.full(32, np.nan, np.float32)
    with pytest.raises(ValueError, match="hugging_face_gpt2") as error:
        convert(weights, gpt_template())
    message = str(error.value)
    assert "\n" not in message
    for part in (
        "missing: h.1.mlp.c_fc.bias",
        "unexpected: transformer.h.3.ln_1.bias",
        "transformer.wte.weight is (100, 32), the model needs (99, 32)",
        "not finite: transformer.ln_f.bias",
    ):
        assert part in message


def test_a_file_with_heads_the_model_lacks_is_refused(parity):
    model = BERT(
        max_length=40, mlp_dim=64, pooling="token", next_sentence=False, **SIZES
    )
    with pytest.raises(ValueError) as error:
        convert(parity("bert_hf")[0], template(model))
    for name in ("bert.pooler.dense.weight", "cls.seq_relationship.bias"):
        assert name in str(error.value)


def test_a_file_of_another_architecture(parity):
    with pytest.raises(ValueError, match="another architecture"):
        convert({"features.0.weight": np.zeros(3)}, gpt_template())
    with pytest.raises(ValueError, match="missing: .*h.0.attn.c_attn.weight"):
        convert(parity("bert_hf")[0], gpt_template(), "hugging_face_gpt2")


def config(**model):
    data = {
        "type": "data.pipeline.Pipeline",
        "source": {
            "type": "nlp.sources.Windows",
            "source": {
                "type": "data.sources.Synthetic",
                "length": 8,
                "features": {"text": {"type": "data.features.Text"}},
            },
            "tokenizer": {"type": "nlp.tokenizers.Bytes"},
            "length": 9,
        },
    }
    return {
        "task": {
            "type": "nlp.tasks.language_modeling.LanguageModeling",
            "model": {
                "type": "nlp.models.gpt.GPT",
                "max_length": 32,
                **SIZES,
                **model,
            },
        },
        "optimizer": {"type": "optax.adamw", "learning_rate": 1e-3},
        "data": data,
        "batch_size": 8,
        "total_steps": 2,
    }


def test_a_file_becomes_a_run_folder(parity, tmp_path):
    weights, arrays = parity("gpt2_hf")
    path, workdir = tmp_path / "gpt2.safetensors", tmp_path / "run"
    save_file(weights, path)
    assert load_file(path).keys() == weights.keys()
    assert import_weights(config(), path, workdir) == 42_368
    assert json.loads((workdir / "config.json").read_text())["total_steps"] == 2
    run = Run.from_config(config())
    state = evaluation.restore(workdir, run, "last").state
    tokens = arrays["in_input_ids"].astype(np.int32)
    logits = jax.jit(run.experiment.task.model.apply)(
        {"params": jax.device_get(state.eval_params)}, tokens
    )
    reference = arrays["out_logits"]
    assert np.abs(logits - reference).max() <= 1e-5 * np.abs(reference).max()
    with pytest.raises(RunError, match="wrong shape") as error:
        import_weights(config(embed_dim=64), path, tmp_path / "other")
    assert "\n" not in str(error.value) and not (tmp_path / "other").exists()
