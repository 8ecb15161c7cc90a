"""ResNet and its kin: parity, published counts, identity at the start, shortcuts, learning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.models import resnet
from vision.models.resnet import ResNet

SLOW = pytest.mark.slow
TINY = {
    "resnet_tiny_basic": {
        "block": "basic",
        "stage_sizes": (2, 2, 1, 1),
        "stage_widths": (16, 24, 32, 48),
    },
    "resnet_tiny_bottleneck": {
        "stage_sizes": (1, 2, 1, 1),
        "stage_widths": (8, 12, 16, 24),
    },
    "resnext_tiny": {
        "stage_sizes": (1, 1, 2, 1),
        "stage_widths": (16, 24, 32, 48),
        "cardinality": 4,
        "base_width": 32,
    },
    "seresnet_tiny": {
        "stage_sizes": (1, 1, 2, 1),
        "stage_widths": (16, 32, 32, 64),
        "squeeze_reduction": 16,
    },
}


@pytest.mark.parametrize("name", TINY)
def test_parity(name, parity, imported, assert_parity, tap_error):
    model = ResNet(num_classes=10, **TINY[name])
    variables = imported(model, name)
    arrays = parity(name)[1]

    @jax.jit
    def run(image):
        logits, captured = model.apply(
            variables,
            image,
            capture_intermediates=lambda _, method: method == "stages",
            mutable="intermediates",
        )
        return logits, captured["intermediates"]["stages"][0]

    logits, stages = run(arrays["in_x_nhwc"])
    assert_parity(name, "logits", logits)
    assert_parity(name, "features", stages[-1].transpose(0, 3, 1, 2))
    for i, stage in enumerate(stages):
        assert tap_error(name, f"layer{i + 1}", stage.transpose(0, 3, 1, 2)) < 1e-5
    # 75 pixels, odd after every stage: padding must be torch's.
    assert_parity(name, "logits_y", run(arrays["in_y_nhwc"])[0])


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (resnet.ResNet18, 11_689_512),
        pytest.param(resnet.ResNet34, 21_797_672, marks=SLOW),
        (resnet.ResNet50, 25_557_032),
        pytest.param(resnet.ResNet101, 44_549_160, marks=SLOW),
        pytest.param(resnet.ResNet152, 60_192_808, marks=SLOW),
        (resnet.ResNeXt50_32x4d, 25_028_904),
        pytest.param(resnet.ResNeXt101_32x4d, 44_177_704, marks=SLOW),
        pytest.param(resnet.ResNeXt101_32x8d, 88_791_336, marks=SLOW),
        pytest.param(resnet.ResNeXt101_64x4d, 83_455_272, marks=SLOW),
        (resnet.WideResNet50_2, 68_883_240),
        pytest.param(resnet.WideResNet101_2, 126_886_696, marks=SLOW),
        (resnet.SEResNet50, 28_088_024),
        pytest.param(resnet.SEResNet101, 49_326_872, marks=SLOW),
        pytest.param(resnet.SEResNet152, 66_821_848, marks=SLOW),
        pytest.param(resnet.SEResNeXt50_32x4d, 27_559_896, marks=SLOW),
    ],
)
def test_published_parameter_counts(make, expected, count_parameters):
    assert count_parameters(make(num_classes=1000), (1, 224, 224, 3)) == expected


def test_statistics_are_as_many_as_published():
    model = resnet.ResNet50(num_classes=1000)
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    stats = jax.eval_shape(model.init, jax.random.key(0), image)["batch_stats"]
    assert sum(x.size for x in jax.tree.leaves(stats)) == 53_120


@pytest.mark.parametrize(
    ("make", "depth", "millions"),
    [
        (resnet.CifarResNet20, 20, 0.27),
        pytest.param(resnet.CifarResNet32, 32, 0.46, marks=SLOW),
        pytest.param(resnet.CifarResNet44, 44, 0.66, marks=SLOW),
        (resnet.CifarResNet56, 56, 0.85),
        pytest.param(resnet.CifarResNet110, 110, 1.7, marks=SLOW),
    ],
)
def test_cifar_family_has_the_papers_size(make, depth, millions, count_parameters):
    # Counted by hand: every convolution has a norm of two values per channel.
    n = (depth - 2) // 6
    expected = 3 * 9 * 16 + 2 * 16
    for width, before in ((16, 16), (32, 16), (64, 32)):
        expected += 9 * before * width + 2 * width
        expected += (2 * n - 1) * (9 * width * width + 2 * width)
    expected += 64 * 10 + 10
    count = count_parameters(make(num_classes=10), (1, 32, 32, 3))
    assert count == expected
    # Table 6 of the paper.
    assert round(count / 1e6, 1 if millions > 1 else 2) == millions


def test_projections_add_two_convolutions(count_parameters):
    shape = (1, 32, 32, 3)
    plain = count_parameters(resnet.CifarResNet20(num_classes=10), shape)
    projected = resnet.CifarResNet20(num_classes=10, shortcut="projection")
    extra = (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64)
    assert plain == 269_722
    assert count_parameters(projected, shape) == plain + extra == 272_474


@pytest.mark.parametrize(
    "depth", [20, *(pytest.param(depth, marks=SLOW) for depth in (32, 44, 56))]
)
def test_a_plain_network_has_the_parameters_of_its_residual_twin(depth):
    trees = []
    for kind in ("Plain", "Res"):
        model = getattr(resnet, f"Cifar{kind}Net{depth}")(num_classes=10)
        image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
        shapes = jax.eval_shape(model.init, jax.random.key(0), image)
        trees.append(jax.tree.map(jnp.shape, shapes))
    assert trees[0] == trees[1]


def small(**fields):
    fields = {"stage_sizes": (1, 1), "stage_widths": (4, 8), **fields}
    return ResNet(num_classes=3, stem="small", stem_width=4, block="basic", **fields)


IMAGE = jnp.asarray(np.random.default_rng(7).normal(size=(6, 8, 8, 3)), jnp.float32)


def initial(model, name, leaf):
    """The initial value of one leaf of the last norm of a block."""
    variables = model.init(jax.random.key(0), IMAGE[:1, :2, :2])
    return np.asarray(variables["params"][name]["norm_1"][leaf])


def test_the_last_scale_starts_at_zero_only_if_asked():
    one = {"stage_sizes": (1,), "stage_widths": (4,)}
    np.testing.assert_array_equal(initial(small(**one), "stage_0_block_0", "scale"), 0)
    ones = initial(small(**one, zero_init=False), "stage_0_block_0", "scale")
    np.testing.assert_array_equal(ones, 1)


def without_branches(variables):
    """Every block's last norm gives 0, as at the start: only shortcuts speak."""
    params = {
        name: {**tree, "norm_1": jax.tree.map(np.zeros_like, tree["norm_1"])}
        if "block" in name
        else tree
        for name, tree in variables["params"].items()
    }
    return {**variables, "params": params}


def test_padding_shortcut_takes_every_second_pixel_and_adds_zeros(random_variables):
    model = small(shortcut="padding", stage_sizes=(2, 1))
    variables = without_branches(random_variables(model, IMAGE))
    first, second = jax.jit(lambda v: model.apply(v, IMAGE, method="stages"))(variables)
    assert second.shape == (6, 4, 4, 8) and first.shape == (6, 8, 8, 4)
    assert (first >= 0).all() and (first > 0).any()
    np.testing.assert_array_equal(second[..., :4], first[:, ::2, ::2])
    np.testing.assert_array_equal(second[..., 4:], 0)
    assert "shortcut_conv" not in variables["params"]["stage_1_block_0"]


def test_a_plain_network_passes_nothing_around_its_branches(random_variables):
    plain, residual = small(shortcut="none", zero_init=False), small(shortcut="padding")
    variables = without_branches(random_variables(plain, IMAGE))
    for model, alive in ((plain, False), (residual, True)):
        features = model.apply(variables, IMAGE, method="features")
        assert bool((features > 0).any()) is alive


def test_three_small_filters_see_as_far_as_a_large_one_with_fewer_weights(
    random_variables,
):
    """7x7, by 27 C^2 weights instead of 49 C^2, as the decks count."""
    channels, model = (
        4,
        small(stage_sizes=(1,), stage_widths=(4,), shortcut="none", zero_init=False),
    )
    image = jnp.asarray(
        np.random.default_rng(0).normal(size=(8, 11, 11, channels)), jnp.float32
    )
    variables = random_variables(model, image)

    def center(image):
        return model.apply(variables, image, method="features")[:, 5, 5].sum()

    seen = np.abs(jax.jit(jax.grad(center))(image)).sum((0, 3)) > 0
    expected = np.zeros((11, 11), bool)
    expected[2:9, 2:9] = True
    np.testing.assert_array_equal(seen, expected)
    kernels = [x for x in jax.tree.leaves(variables["params"]) if x.shape[:2] == (3, 3)]
    assert sum(x.size for x in kernels) == 27 * channels**2 < 49 * channels**2


def bottleneck(**fields):
    fields = {"stage_sizes": (1, 1), "stage_widths": (4, 8), **fields}
    return ResNet(num_classes=3, stem="small", stem_width=4, **fields)


def test_the_paths_of_a_resnext_do_not_mix(random_variables):
    model = bottleneck(cardinality=2, base_width=64, stage_sizes=(1, 1))
    variables = random_variables(model, IMAGE)
    block = variables["params"]["stage_0_block_0"]
    assert block["conv_0"]["kernel"].shape == (1, 1, 4, 8)
    assert block["conv_1"]["kernel"].shape == (3, 3, 4, 8)

    @jax.jit
    def second(kernel):
        params = {**block, "conv_0": {"kernel": kernel}}
        changed = {**variables["params"], "stage_0_block_0": params}
        _, captured = model.apply(
            {**variables, "params": changed},
            IMAGE,
            capture_intermediates=lambda module, _: module.name == "conv_1",
            mutable="intermediates",
        )
        block_0 = captured["intermediates"]["stage_0_block_0"]
        return block_0["conv_1"]["__call__"][0]

    kernel = block["conv_0"]["kernel"]
    before, after = second(kernel), second(kernel * np.array([2] * 4 + [1] * 4))
    np.testing.assert_array_equal(before[..., 4:], after[..., 4:])
    assert (before[..., :4] != after[..., :4]).any()


def test_with_the_stride_in_the_first_convolution_every_second_pixel_is_unread(
    random_variables,
):
    read = {}
    for first in (False, True):
        model = bottleneck(stride_in_first=first, stage_sizes=(1, 1))
        variables = random_variables(model, IMAGE)
        stem = {**variables["params"]["stem_conv"]}
        # A stem that looks at one pixel: what the image shows, the blocks see.
        stem["kernel"] = stem["kernel"] * (np.arange(9) == 4).reshape(3, 3, 1, 1)
        params = {**variables["params"], "stem_conv": stem}
        block = params["stage_0_block_0"]
        block["conv_1"]["kernel"] *= (np.arange(9) == 4).reshape(3, 3, 1, 1)

        def total(image, model=model, params=params, variables=variables):
            return model.apply({**variables, "params": params}, image).sum()

        read[first] = np.abs(jax.jit(jax.grad(total))(IMAGE)).sum((0, 3)) > 0
    assert read[False].all()
    np.testing.assert_array_equal(np.argwhere(read[True]) % 2, 0)


def test_squeeze_and_excitation_weighs_the_channels_of_the_branch(random_variables):
    model = bottleneck(squeeze_reduction=16)
    variables = random_variables(model, IMAGE)
    gates = variables["params"]["stage_1_block_0"]["squeeze_excite"]
    assert gates["reduce"]["kernel"].shape == (1, 1, 32, 8)  # 2, rounded to 8
    run = jax.jit(lambda v: model.apply(v, IMAGE, method="stages"))
    plain = jax.jit(lambda v: bottleneck().apply(v, IMAGE, method="stages"))

    def closed(x, bias):
        return {"kernel": np.zeros_like(x["kernel"]), "bias": bias + 0 * x["bias"]}

    for bias, same in ((100.0, True), (0.0, False)):
        params = {
            name: {
                **tree,
                "squeeze_excite": {
                    "reduce": tree["squeeze_excite"]["reduce"],
                    "expand": closed(tree["squeeze_excite"]["expand"], bias),
                },
            }
            if "block" in name
            else tree
            for name, tree in variables["params"].items()
        }
        changed = {**variables, "params": params}
        without = jax.tree.map(lambda x: x, changed)
        for name in ("stage_0_block_0", "stage_1_block_0"):
            del without["params"][name]["squeeze_excite"]
        close = np.allclose(run(changed)[-1], plain(without)[-1], rtol=1e-5, atol=1e-5)
        assert close is same


@pytest.mark.parametrize("stem", ["small", "large"])
def test_strides(stem, stage_shapes):
    model = ResNet(
        num_classes=0, stage_sizes=(1, 1, 1, 1), stage_widths=(2, 2, 2, 2), stem=stem
    )
    shapes = stage_shapes(model, (1, 64, 96, 1))
    first = 4 if stem == "large" else 1
    assert shapes == [(1, 64 // s, 96 // s, 8) for s in first * 2 ** np.arange(4)]


def test_training_updates_statistics_and_evaluation_does_not(assert_statistics_move):
    assert_statistics_move(small(), IMAGE)


def test_it_learns_a_handful_of_images(overfit):
    losses = overfit(small(), IMAGE, steps=40, learning_rate=1e-2)
    assert losses[0] > 0.8 and losses[-1] < 0.1


def test_half_precision_keeps_float32_parameters_and_statistics(assert_half_precision):
    assert_half_precision(small(dtype="bfloat16"), IMAGE, train=True, statistics=True)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stage_sizes": (1, 1, 1)}, "3 stage_sizes for 2 stage_widths"),
        ({"shortcut": "none"}, "last scale is 0 compute nothing; set zero_init=False"),
        ({"cardinality": 2}, "cardinality=2 and base_width=64 are of bottlenecks"),
        ({"shortcut": "sum"}, "shortcut is 'sum'; known: projection, padding, none"),
    ],
)
def test_errors_name_the_value(fields, message):
    with pytest.raises(ValueError, match=message):
        small(**fields).init(jax.random.key(0), IMAGE)
