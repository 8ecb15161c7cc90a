"""DenseNet: parity, published counts, everything is kept and read again, learning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.import_weights import convert
from vision.models import densenet
from vision.models.densenet import DenseNet

FIXTURE = "densenet_tiny"
IMAGE = jnp.asarray(np.random.default_rng(7).normal(size=(6, 8, 8, 3)), jnp.float32)


def fixture_model():
    return DenseNet(
        num_classes=10, block_sizes=(2, 3, 2, 2), growth_rate=8, stem_width=16
    )


def test_parity(parity, imported, assert_parity, tap_error):
    model = fixture_model()
    variables = imported(model, FIXTURE)
    arrays = parity(FIXTURE)[1]

    def captured(module, method):
        return method == "stages" or module.name in ("transition_0", "norm")

    @jax.jit
    def run(image):
        logits, found = model.apply(
            variables, image, capture_intermediates=captured, mutable="intermediates"
        )
        found = found["intermediates"]
        outputs = {
            "denseblock1": found["stages"][0][0],
            "transition1": found["transition_0"]["__call__"][0],
            "norm5": found["norm"]["__call__"][0],
        }
        return logits, outputs

    logits, outputs = run(arrays["in_x_nhwc"])
    assert_parity(FIXTURE, "logits", logits)
    for name, ours in outputs.items():
        map_ = ours.transpose(0, 3, 1, 2)
        assert tap_error(FIXTURE, f"features.{name}", map_) < 1e-5
    # 75 pixels, odd after every block: pools must drop what torch's drop.
    assert_parity(FIXTURE, "logits_y", run(arrays["in_y_nhwc"])[0])


def test_the_files_first_released_have_a_dot_more(parity):
    weights, arrays = parity(FIXTURE)
    old = {}
    for name, tensor in weights.items():
        for kind in ("norm", "conv"):
            for i in "12":
                name = name.replace(f".{kind}{i}.", f".{kind}.{i}.")
        old[name] = tensor
    assert "features.denseblock1.denselayer2.norm.2.weight" in old
    model = fixture_model()
    template = jax.eval_shape(model.init, jax.random.key(0), arrays["in_x_nhwc"])
    jax.tree.map(
        np.testing.assert_array_equal,
        convert(old, template),
        convert(weights, template),
    )


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (densenet.DenseNet121, 7_978_856),
        pytest.param(densenet.DenseNet161, 28_681_000, marks=pytest.mark.slow),
        pytest.param(densenet.DenseNet169, 14_149_480, marks=pytest.mark.slow),
        pytest.param(densenet.DenseNet201, 20_013_928, marks=pytest.mark.slow),
    ],
)
def test_published_parameter_counts(make, expected, count_parameters):
    assert count_parameters(make(num_classes=1000), (1, 224, 224, 3)) == expected


@pytest.mark.parametrize(
    ("make", "expected", "millions"),
    [
        (densenet.CifarDenseNet40_12, 1_019_722, "1.0"),
        pytest.param(
            densenet.CifarDenseNetBC100_12, 769_162, "0.8", marks=pytest.mark.slow
        ),
        pytest.param(
            densenet.CifarDenseNetBC250_24, None, "15.3", marks=pytest.mark.slow
        ),
        pytest.param(
            densenet.CifarDenseNetBC190_40, None, "25.6", marks=pytest.mark.slow
        ),
    ],
)
def test_cifar_family_has_the_papers_size(make, expected, millions, count_parameters):
    """Table 2 of the paper."""
    count = count_parameters(make(num_classes=10), (1, 32, 32, 3))
    assert f"{count / 1e6:.1f}" == millions
    assert expected in (None, count)


def small(**fields):
    fields = {"block_sizes": (2, 1), "growth_rate": 4, "stem_width": 6, **fields}
    return DenseNet(num_classes=3, stem="small", **fields)


def test_every_layer_reads_all_that_was_made_before_and_nothing_is_lost(
    random_variables,
):
    model = small(block_sizes=(3,))
    variables = random_variables(model, IMAGE)
    reads = [
        variables["params"][f"block_0_layer_{j}"]["conv_0"]["kernel"].shape[2]
        for j in range(3)
    ]
    assert reads == [6, 10, 14]

    @jax.jit
    def run(image):
        _, found = model.apply(
            variables,
            image,
            capture_intermediates=lambda module, _: (
                module.name == "stem_conv" or "layer" in (module.name or "")
            ),
            mutable="intermediates",
        )
        found = found["intermediates"]
        parts = [found["stem_conv"]["__call__"][0]]
        parts += [found[f"block_0_layer_{j}"]["__call__"][0] for j in range(3)]
        return parts, model.apply(variables, image, method="features")

    parts, features = run(IMAGE)
    whole = np.concatenate(parts, -1)
    norm, stats = variables["params"]["norm"], variables["batch_stats"]["norm"]
    y = (whole - stats["mean"]) / np.sqrt(stats["var"] + 1e-5)
    expected = np.maximum(y * norm["scale"] + norm["bias"], 0)
    assert features.shape[-1] == 6 + 3 * 4
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)


def test_a_transition_compresses_and_halves(stage_shapes):
    for compression, kept in ((0.5, 7), (1.0, 14)):
        shapes = stage_shapes(small(compression=compression), (6, 7, 8, 3))
        assert shapes == [(6, 7, 8, 14), (6, 3, 4, kept + 4)]


def test_without_bottlenecks_a_layer_is_one_convolution(count_parameters):
    model = small(bottleneck=0, block_sizes=(1,))
    count = 6 * 27 + (2 * 6 + 6 * 4 * 9) + 2 * 10 + 10 * 3 + 3
    assert count_parameters(model, (1, 8, 8, 3)) == count


def test_training_updates_statistics_and_evaluation_does_not(assert_statistics_move):
    rngs = {"dropout": jax.random.key(0)}
    assert_statistics_move(small(dropout_rate=0.2), IMAGE, rngs=rngs)


@pytest.mark.slow
def test_it_learns_a_handful_of_images(overfit):
    losses = overfit(small(block_sizes=(1, 1)), IMAGE, steps=40, learning_rate=1e-2)
    assert losses[0] > 0.8 and losses[-1] < 0.3


def test_half_precision_keeps_float32_parameters_and_statistics(assert_half_precision):
    assert_half_precision(small(dtype="bfloat16"), IMAGE, train=True, statistics=True)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stem": "medium"}, "stem is 'medium'; known: large, small"),
        ({"compression": 0.0}, r"compression is 0.0; it must lie in \(0, 1\]"),
    ],
)
def test_errors_name_the_value(fields, message):
    fields = {"stem": "small", "block_sizes": (1,), **fields}
    with pytest.raises(ValueError, match=message):
        DenseNet(num_classes=3, **fields).init(jax.random.key(0), IMAGE)
