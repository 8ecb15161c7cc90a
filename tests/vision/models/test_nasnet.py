"""NASNet-A: parity, published counts, cells, auxiliary head, learning."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.models import nasnet
from vision.models.nasnet import Cell, NASNet, NASNetA_Large, NASNetA_Mobile

TAPS = {
    "conv0": "stem",
    "cell_stem_0": "stem_cell_0",
    "cell_stem_1": "stem_cell_1",
    "cell_0": "cell_0",
    "reduction_cell_0": "reduction_cell_0",
    "cell_6": "cell_6",
    "cell_17": "cell_17",
}


def test_parity(imported, assert_parity, parity, tap_error):
    name = "nasnet_a_tiny"
    model = NASNetA_Large(
        num_classes=10, penultimate_width=384, stem_width=12, padding="symmetric"
    )
    variables = imported(model, name)
    arrays = parity(name)[1]

    @jax.jit
    def run(variables, image):
        logits, captured = model.apply(
            variables,
            image,
            capture_intermediates=lambda module, method: (
                method == "__call__" and module.name in TAPS.values()
            ),
            mutable="intermediates",
        )
        return logits, captured["intermediates"]

    logits, captured = run(variables, arrays["in_x_nhwc"])
    assert_parity(name, "logits", logits)
    for tap, module in TAPS.items():
        ours = captured[module]["__call__"][0].transpose(0, 3, 1, 2)
        assert tap_error(name, tap, ours) < 1e-5
    # `features` is the last cell's output behind a relu.
    assert_parity(name, "features", np.maximum(ours, 0))
    # 107 pixels, odd on the way: the two grids of a halved input do not end together.
    assert_parity(name, "logits_y", run(variables, arrays["in_y_nhwc"])[0])


@pytest.mark.parametrize(
    ("make", "params", "stats"),
    [
        pytest.param(NASNetA_Large, 88_753_150, 196_668, marks=pytest.mark.slow),
        (NASNetA_Mobile, 5_289_978, 36_738),
    ],
)
def test_published_parameter_counts(make, params, stats):
    # The counts do not depend on the size of the image.
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    variables = jax.eval_shape(make(num_classes=1000).init, jax.random.key(0), image)
    count = {k: sum(x.size for x in jax.tree.leaves(v)) for k, v in variables.items()}
    assert count == {"params": params, "batch_stats": stats}


def small(**fields):
    fields = {"penultimate_width": 96, "num_cells": 1, "stem_width": 4, **fields}
    return NASNet(num_classes=2, dropout_rate=0.0, **fields)


IMAGE = jnp.asarray(np.random.default_rng(7).normal(size=(4, 32, 32, 3)), jnp.float32)


@pytest.mark.slow
def test_maps_at_strides_8_16_and_32(trace):
    image = jnp.zeros((1, 64, 96, 3))
    stages, _ = trace(small(), image, train=True, method="stages")[1]
    # Six results side by side, of 4, 8 and 16 channels.
    assert [x.shape for x in stages] == [(1, 8, 12, 24), (1, 4, 6, 48), (1, 2, 3, 96)]


def test_every_result_that_no_block_uses_is_put_out():
    for table, output in (
        (nasnet.NORMAL, nasnet.NORMAL_OUTPUT),
        (nasnet.REDUCTION, nasnet.REDUCTION_OUTPUT),
    ):
        used = {operand for block in table for _, operand in block}
        results = set(range(len(table)))
        assert results - used <= set(output)
        assert len(table) == 5  # The search's B.


def make_cell(table, **fields):
    reduction = table == "reduction"
    return Cell(
        2,
        nasnet.REDUCTION if reduction else nasnet.NORMAL,
        nasnet.REDUCTION_OUTPUT if reduction else nasnet.NORMAL_OUTPUT,
        stride=2 if reduction else 1,
        padding="SAME",
        norm_momentum=0.9,
        norm_epsilon=1e-3,
        **fields,
    )


def test_the_pool_block_of_a_normal_cell_is_twice_the_average():
    """Block 3 adds the average of the previous input to itself, and block 2 it to that of
    the current one; neither has weights of its own."""
    cell = make_cell("normal")
    x, previous = jnp.asarray(
        np.random.default_rng(3).normal(size=(2, 1, 3, 3, 4)), jnp.float32
    )
    y, variables = jax.jit(cell.init_with_output)(jax.random.key(0), x, previous)
    y = y[0]
    assert y.shape == (3, 3, 12)
    middle = y[..., :2].mean((0, 1))
    np.testing.assert_allclose(y[1, 1, 8:10], 2 * middle, rtol=1e-5)
    assert not {"left_2", "right_2", "left_3", "right_3"} & set(variables["params"])


@pytest.mark.parametrize("skip", [True, False])
def test_what_the_cell_behind_a_reduction_reads(skip):
    """The mobile network gives it the reduction's own input, the large one what came
    before that: with one cell per stack, the stem's last."""
    model = small(skip_reduction=skip)
    variables = jax.eval_shape(model.init, jax.random.key(0), IMAGE[:1])
    kernel = variables["params"]["cell_1"]["previous_path_0"]["kernel"]
    # Six results of four channels, or the stem's four results of two.
    assert kernel.shape == (1, 1, 4 * 2 if skip else 6 * 4, 4)


@pytest.mark.slow
def test_auxiliary_logits_in_training_only(trace):
    model, image = small(auxiliary=True), jnp.zeros((2, 96, 96, 3))
    variables, (outputs, _) = trace(model, image, train=True)
    assert [x.shape for x in outputs] == [(2, 2), (2, 2)]
    # Stride 16, pooled to one pixel of 48 channels.
    head = variables["params"]["auxiliary_head"]
    assert head["conv_0"]["conv"]["kernel"].shape == (1, 1, 48, 128)
    assert head["conv_1"]["conv"]["kernel"].shape == (1, 1, 128, 768)
    logits = jax.eval_shape(model.apply, variables, image)
    assert logits.shape == (2, 2)


@pytest.mark.parametrize("table", ["normal", "reduction"])
def test_drop_path_and_statistics_in_training_only(table, random_variables):
    cell = make_cell(table, drop_path_rate=0.5)
    x, previous = jnp.asarray(
        np.random.default_rng(3).normal(size=(2, 4, 5, 5, 4)), jnp.float32
    )
    fitted = types.SimpleNamespace(init=lambda rng, x: cell.init(rng, x, previous))
    variables = random_variables(fitted, x)
    run = jax.jit(
        lambda v, train, key: cell.apply(
            v,
            x,
            previous,
            train=train,
            rngs={"dropout": jax.random.key(key)},
            mutable="batch_stats",
        ),
        static_argnums=1,
    )
    (first, trained), (second, _) = run(variables, True, 0), run(variables, True, 1)
    assert not np.allclose(first, second)
    output, evaluated = run(variables, False, 0)
    np.testing.assert_array_equal(output, run(variables, False, 1)[0])
    before = jax.tree.leaves(variables["batch_stats"])
    trained, evaluated = jax.tree.leaves(trained), jax.tree.leaves(evaluated)
    for old, new, same in zip(before, trained, evaluated, strict=True):
        np.testing.assert_array_equal(old, same)
        assert not np.array_equal(old, new)


@pytest.mark.slow
def test_it_learns_a_handful_of_images(overfit):
    # The stem's and the reduction cells: more would take longer to compile than to train.
    model = small(num_cells=0)
    losses = overfit(model, IMAGE, steps=25, learning_rate=1e-2)
    assert losses[0] > 0.4 and losses[-1] < 0.1


@pytest.mark.slow
def test_half_precision_keeps_float32_parameters_and_statistics(assert_half_precision):
    assert_half_precision(small(dtype="bfloat16"), IMAGE, train=True, statistics=True)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"penultimate_width": 72}, "penultimate_width is 72; .* multiple of 96"),
        ({"padding": "even"}, "padding is 'even'; known: symmetric, SAME"),
        ({"auxiliary": True}, "a map of 2x2, it needs 5x5; .* auxiliary=False"),
    ],
)
def test_errors_name_the_value(fields, message, trace):
    with pytest.raises(ValueError, match=message):
        trace(small(**fields), IMAGE, train=True)
