"""The importer: file formats, detection of namings, and errors that name every tensor."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.flax
from safetensors.numpy import save_file

from training.weight_naming import Convolution, Flat, Linear, Part
from vision.import_weights import NAMINGS, convert, load_file
from vision.models.resnet import ResNet

RESNET = ResNet(
    num_classes=3,
    stage_sizes=(1, 1),
    stage_widths=(4, 8),
    block="basic",
    stem_width=4,
)


@pytest.fixture(scope="module")
def template():
    image = jnp.zeros((1, 32, 32, 3))
    return jax.eval_shape(RESNET.init, jax.random.key(0), image)


@pytest.fixture
def weights():
    """A file of torchvision's names for RESNET, every tensor different."""
    shapes = {"conv1.weight": (4, 3, 7, 7), "fc.weight": (3, 8), "fc.bias": (3,)}
    convolutions = {
        "bn1": ("conv1", (4, 3, 7, 7)),
        "layer1.0.bn1": ("layer1.0.conv1", (4, 4, 3, 3)),
        "layer1.0.bn2": ("layer1.0.conv2", (4, 4, 3, 3)),
        "layer2.0.bn1": ("layer2.0.conv1", (8, 4, 3, 3)),
        "layer2.0.bn2": ("layer2.0.conv2", (8, 8, 3, 3)),
        "layer2.0.downsample.1": ("layer2.0.downsample.0", (8, 4, 1, 1)),
    }
    for norm, (conv, shape) in convolutions.items():
        shapes[f"{conv}.weight"] = shape
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{norm}.{leaf}"] = shape[:1]
        shapes[f"{norm}.num_batches_tracked"] = ()
    rng = np.random.default_rng(0)
    return {
        name: np.asarray(rng.normal(size=shape), np.float32)
        for name, shape in shapes.items()
    }


def test_every_tensor_lands_in_its_place(weights, template):
    params, collections = convert(weights, template)
    np.testing.assert_array_equal(
        params["stem_conv"]["kernel"], weights["conv1.weight"].transpose(2, 3, 1, 0)
    )
    np.testing.assert_array_equal(params["head"]["kernel"], weights["fc.weight"].T)
    np.testing.assert_array_equal(
        params["stage_1_block_0"]["shortcut_norm"]["scale"],
        weights["layer2.0.downsample.1.weight"],
    )
    np.testing.assert_array_equal(
        collections["batch_stats"]["stage_0_block_0"]["norm_1"]["var"],
        weights["layer1.0.bn2.running_var"],
    )
    filled = {"params": params, **collections}
    assert jax.tree.map(jnp.shape, filled) == jax.tree.map(jnp.shape, dict(template))
    # Nothing lost, nothing twice: the sums agree.
    ours = sum(x.astype(np.float64).sum() for x in jax.tree.leaves(filled))
    counters = [k for k in weights if k.endswith("num_batches_tracked")]
    theirs = sum(
        x.astype(np.float64).sum() for k, x in weights.items() if k not in counters
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_files_keep_names_and_values(suffix, weights, tmp_path):
    path = tmp_path / f"weights{suffix}"
    if suffix == ".npz":
        np.savez(path, **weights)
    else:
        save_file(weights, path)
    loaded = load_file(path)
    assert loaded.keys() == weights.keys()
    for name, tensor in weights.items():
        np.testing.assert_array_equal(loaded[name], tensor)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_files_become_float32(dtype, weights, template, tmp_path):
    half = {name: jnp.asarray(tensor, dtype) for name, tensor in weights.items()}
    safetensors.flax.save_file(half, tmp_path / "half.safetensors")
    params, _ = convert(load_file(tmp_path / "half.safetensors"), template)
    kernel = params["head"]["kernel"]
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel, half["fc.weight"].astype(np.float32).T)


def test_one_error_names_everything_that_does_not_fit(weights, template):
    del weights["layer1.0.conv2.weight"], weights["bn1.running_mean"]
    weights["fc.weight"] = np.zeros((1000, 8), np.float32)
    weights["layer3.0.conv1.weight"] = np.zeros((1, 1), np.float32)
    weights["extra"] = np.zeros(1, np.float32)
    weights["fc.bias"][1] = np.nan
    with pytest.raises(ValueError, match="torchvision") as error:
        convert(weights, template)
    message = str(error.value)
    assert "\n" not in message
    for part in (
        "missing: bn1.running_mean, layer1.0.conv2.weight",
        "unexpected: extra, layer3.0.conv1.weight",
        "fc.weight is (1000, 8), the model needs (3, 8)",
        "not finite: fc.bias",
    ):
        assert part in message


def test_counters_are_no_surprise_but_other_tensors_are(weights, template):
    weights["layer1.0.bn1.num_batches_seen"] = np.zeros(())
    with pytest.raises(ValueError, match="unexpected: layer1.0.bn1.num_batches_seen"):
        convert(weights, template)


def test_a_file_of_another_architecture(template):
    with pytest.raises(ValueError, match="another architecture"):
        convert({"features.0.weight": np.zeros(3)}, template)


def test_a_model_without_a_table(weights):
    template = {"params": {"capsules": {"kernel": jnp.zeros((2, 2))}}}
    with pytest.raises(ValueError, match="covers params/capsules/kernel"):
        convert(weights, template)


def test_an_unknown_naming(weights, template):
    with pytest.raises(ValueError, match="naming 'keras'.*known: torchvision"):
        convert(weights, template, naming="keras")


def test_bad_files(weights, tmp_path):
    with pytest.raises(FileNotFoundError, match="no weight file"):
        load_file(tmp_path / "absent.npz")
    with pytest.raises(ValueError, match="neither .safetensors nor .npz"):
        load_file(tmp_path / "weights.pth")
    whole = tmp_path / "whole.safetensors"
    save_file(weights, whole)
    for name, data in {
        "cut.safetensors": whole.read_bytes()[:-100],
        "short.safetensors": b"12",
        "cut.npz": b"PK\x03\x04 not a zip file",
        "empty.npz": b"",
    }.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=f"{name} cannot be read") as error:
            load_file(tmp_path / name)
        assert "\n" not in str(error.value)


def test_layouts_by_hand():
    linear = np.arange(6.0).reshape(2, 3)  # out 2, in 3
    assert Linear().theirs((3, 2)) == (2, 3)
    assert Linear().load(linear, (3, 2))[2, 1] == linear[1, 2]
    # Query: [D, N, H] from [N * H, D]; out: [N, H, D] from [D, N * H].
    query = np.arange(4 * 6.0).reshape(6, 4)
    assert Linear().theirs((4, 2, 3)) == (6, 4)
    assert Linear().load(query, (4, 2, 3))[1, 1, 2] == query[1 * 3 + 2, 1]
    out = np.arange(4 * 6.0).reshape(4, 6)
    assert Linear(in_axes=2).theirs((2, 3, 4)) == (4, 6)
    assert Linear(in_axes=2).load(out, (2, 3, 4))[1, 2, 3] == out[3, 1 * 3 + 2]
    fused = np.arange(18 * 4.0).reshape(18, 4)
    value = Part(2, 3, Linear())
    assert value.theirs((4, 2, 3)) == (18, 4)
    assert value.load(fused, (4, 2, 3))[1, 1, 2] == fused[12 + 1 * 3 + 2, 1]
    kernel = np.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)
    assert Convolution().theirs((4, 5, 3, 2)) == (2, 3, 4, 5)
    assert Convolution().load(kernel, (4, 5, 3, 2))[3, 4, 2, 1] == kernel[1, 2, 3, 4]
    assert Flat().theirs((2, 3)) == (6,)


def test_no_two_rules_of_a_table_are_about_the_same_leaf():
    for naming in NAMINGS:
        ours = [rule.ours for rule in naming.rules]
        assert len(set(ours)) == len(ours), naming.name
        for rule in naming.rules:
            assert rule.ours.count("{}") == rule.theirs.count("{}"), rule
