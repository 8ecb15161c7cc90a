"""ZFNet: a case computed by hand, the paper's sizes, counted parameters, learning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.models.zfnet import ZFNet, ZFNetWide

TINY = {"widths": (4, 6, 8, 8, 8), "hidden_dims": (16, 16)}
IMAGE = jnp.asarray(np.random.default_rng(7).normal(size=(4, 47, 50, 3)), jnp.float32)


def test_a_white_image_as_computed_by_hand():
    model = ZFNet(num_classes=1, widths=(2, 1, 1, 1, 1), hidden_dims=(1,))
    image = jnp.ones((1, 47, 47, 1))
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)["params"]

    def mean_of_window(shape):
        return jnp.full(shape.shape, 1 / np.prod(shape.shape[:-1]))

    params = {
        name: {
            "kernel": mean_of_window(leaf["kernel"]),
            "bias": jnp.zeros(leaf["bias"].shape),
        }
        for name, leaf in shapes.items()
    }
    params["dense_0"]["bias"] = jnp.array([0.25])
    params["head"]["kernel"] = jnp.array([[-3.0]])
    # 47 -> 22 -> 11: whole windows average 1, and the pooling prefers them to the border's.
    first = 1 / (2 + 1e-4 * 2) ** 0.75
    # 11 -> 4 -> 2 without padding, one channel: again the average.
    second = first / (2 + 1e-4 * first**2) ** 0.75
    # On 2x2 pixels each of three padded 3x3 windows sees four ninths of ones; pooled to one
    # pixel, which fills the grid of 6x6, whose average it is.
    expected = -3 * (second * (4 / 9) ** 3 + 0.25)
    logits = jax.jit(model.apply)({"params": params}, image)
    np.testing.assert_allclose(logits, [[expected]], rtol=1e-6)
    stages = jax.jit(lambda p: model.apply(p, image, method="stages"))(
        {"params": params}
    )
    np.testing.assert_allclose(stages[0], first, rtol=1e-6)
    np.testing.assert_allclose(stages[1], second, rtol=1e-6)
    assert [x.shape[1] for x in stages] == [11, 2, 2, 2, 1]


def test_maps_have_the_papers_sizes(stage_shapes):
    shapes = stage_shapes(ZFNet(num_classes=0), (1, 224, 224, 3))
    # Figure 3: 110 pooled to 55, 26 pooled to 13, and 13 pooled to 6.
    assert [shape[1:] for shape in shapes] == [
        (55, 55, 96),
        (13, 13, 256),
        (13, 13, 384),
        (13, 13, 384),
        (6, 6, 256),
    ]


@pytest.mark.parametrize(
    ("make", "widths"),
    [(ZFNet, (96, 256, 384, 384, 256)), (ZFNetWide, (96, 256, 512, 1024, 512))],
)
def test_parameters_are_those_of_the_papers_table(make, widths, count_parameters):
    expected, before = 0, 3
    for window, width in zip((7, 5, 3, 3, 3), widths, strict=True):
        expected += window**2 * before * width + width
        before = width
    for inputs, outputs in ((36 * before, 4096), (4096, 4096), (4096, 1000)):
        expected += inputs * outputs + outputs
    count = count_parameters(make(num_classes=1000), (1, 224, 224, 3))
    assert count == expected
    assert count == {ZFNet: 62_357_608, ZFNetWide: 107_627_624}[make]


@pytest.mark.slow
def test_it_learns_a_handful_of_images(overfit):
    # 0.01 is for wide layers: a narrow network that starts so small says nothing.
    losses = overfit(Scaled(num_classes=3, dropout_rate=0.0, **TINY), IMAGE)
    assert losses[0] > 0.8 and losses[-1] < 0.1


class Scaled(ZFNet):
    """ZFNet whose weights start in proportion to its width."""

    def _options(self):
        return {**super()._options(), "kernel_init": jax.nn.initializers.he_normal()}


def test_dropout_only_in_training(assert_dropout_in_training_only):
    assert_dropout_in_training_only(ZFNet(num_classes=3, **TINY), IMAGE)


def test_half_precision_keeps_float32_parameters(assert_half_precision):
    assert_half_precision(ZFNet(num_classes=3, dtype="bfloat16", **TINY), IMAGE)


@pytest.mark.parametrize(
    ("fields", "side", "message"),
    [
        ({"widths": (8, 8)}, 64, "2 widths for 5 convolutions"),
        ({}, 46, "image of 46x46 leaves nothing for the last pooling"),
    ],
)
def test_errors_name_the_value(fields, side, message):
    with pytest.raises(ValueError, match=message):
        model = ZFNet(num_classes=3, **{**TINY, **fields})
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, side, side, 3)))
