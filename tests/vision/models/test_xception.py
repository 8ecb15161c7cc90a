"""Xception: parity, published count, what a relu and a pool may not touch, learning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.models.xception import Xception

# timm's taps lie in front of the norms.
TAPS = {
    "conv2": ("stem_1", "conv"),
    "block1": ("entry_block_0",),
    "block2": ("entry_block_1",),
    "block12": ("exit_block",),
    "conv4": ("exit_conv_1", "conv"),
}


def test_parity(imported, assert_parity, parity, tap_error):
    name = "xception_timm"
    model = Xception(num_classes=10)
    variables = imported(model, name)
    arrays = parity(name)[1]

    @jax.jit
    def run(variables, image):
        logits, captured = model.apply(
            variables,
            image,
            capture_intermediates=lambda module, method: (
                method == "features" or module.path in TAPS.values()
            ),
            mutable="intermediates",
        )
        return logits, captured["intermediates"]

    logits, captured = run(variables, arrays["in_x_nhwc"])
    assert_parity(name, "logits", logits)
    assert_parity(name, "features", captured["features"][0].transpose(0, 3, 1, 2))
    for tap, path in TAPS.items():
        ours = captured
        for key in path:
            ours = ours[key]
        ours = ours["__call__"][0].transpose(0, 3, 1, 2)
        assert tap_error(name, tap, ours) < 1e-5
    # 96 pixels: on even sizes the two kinds of padding part.
    logits = jax.jit(model.apply)(variables, arrays["in_y_nhwc"])
    assert_parity(name, "logits_y", logits)


def test_published_count_and_maps(trace):
    model = Xception(num_classes=1000)
    image = jnp.zeros((1, 299, 299, 3))
    variables, (stages, _) = trace(model, image, method="stages")
    count = {k: sum(x.size for x in jax.tree.leaves(v)) for k, v in variables.items()}
    assert count == {"params": 22_855_952, "batch_stats": 54_528}
    shapes = [x.shape[1:] for x in stages]
    assert shapes == [(74, 74, 128), (37, 37, 256), (19, 19, 728), (10, 10, 2048)]


def test_thirty_six_convolutions_of_which_thirty_four_are_separable(trace):
    """The paper's section 4, which does not count the shortcuts' projections."""
    model = Xception(num_classes=0)
    variables, _ = trace(model, jnp.zeros((1, 71, 71, 3)))
    paths = jax.tree_util.tree_flatten_with_path(variables["params"])[0]
    names = ["/".join(key.key for key in path) for path, _ in paths]
    separable = [n for n in names if n.endswith("depthwise/kernel")]
    ordinary = [n for n in names if n.startswith("stem") and n.endswith("conv/kernel")]
    assert (len(separable), len(ordinary)) == (34, 2)


FIELDS = {
    "stem_widths": (4, 6),
    "entry_widths": (8, 12),
    "num_middle_blocks": 1,
    "exit_widths": (12, 16),
    "dropout_rate": 0.0,
}


def small(**fields):
    return Xception(num_classes=2, **{**FIELDS, **fields})


IMAGE = jnp.asarray(np.random.default_rng(7).normal(size=(4, 32, 32, 3)), jnp.float32)


def test_paddings_differ_on_even_sizes_only(random_variables):
    """The first pool reads 14 of 33 pixels after the stem's two convolutions, 13 of 31."""

    def first_stage(padding, variables, image):
        model = small(padding=padding)
        return jax.jit(lambda v, x: model.apply(v, x, method="stages")[0])(
            variables, image
        )

    for size, same in ((33, False), (31, True)):
        image = jnp.asarray(
            np.random.default_rng(1).normal(size=(1, size, size, 3)), jnp.float32
        )
        variables = random_variables(small(), image)
        symmetric = first_stage("symmetric", variables, image)
        tensorflow = first_stage("SAME", variables, image)
        assert symmetric.shape == tensorflow.shape == (1, 7, 7, 8)
        assert np.allclose(symmetric, tensorflow) == same


def test_shortcuts_see_the_input_before_the_relu(random_variables):
    """With all separable convolutions zero, a middle block returns its input, and that
    has negative values."""
    model = small()
    variables = random_variables(model, IMAGE)
    middle = variables["params"]["middle_block_0"]
    zeros = jax.tree.map(np.zeros_like, middle)
    variables["params"] = {**variables["params"], "middle_block_0": zeros}
    statistics = {**variables["batch_stats"]}
    statistics["middle_block_0"] = jax.tree.map(
        np.zeros_like, statistics["middle_block_0"]
    )
    variables["batch_stats"] = statistics
    names = ("entry_block_1", "middle_block_0")
    captured = jax.jit(
        lambda v: model.apply(
            v,
            IMAGE,
            capture_intermediates=lambda module, _: module.name in names,
            mutable="intermediates",
        )[1]["intermediates"]
    )(variables)
    before, after = (captured[name]["__call__"][0] for name in names)
    np.testing.assert_array_equal(before, after)
    assert before.min() < 0


def test_training_updates_statistics_and_evaluation_does_not(assert_statistics_move):
    assert_statistics_move(small(), IMAGE)


@pytest.mark.slow
def test_it_learns_a_handful_of_images(overfit):
    model = small()
    losses = overfit(model, IMAGE, steps=30, learning_rate=1e-2)
    assert losses[0] > 0.4 and losses[-1] < 0.1


def test_half_precision_keeps_float32_parameters_and_statistics(assert_half_precision):
    assert_half_precision(small(dtype="bfloat16"), IMAGE, train=True, statistics=True)


def test_errors_name_the_value(trace):
    with pytest.raises(ValueError, match="padding is 'even'; known: symmetric, SAME"):
        trace(small(padding="even"), IMAGE)
