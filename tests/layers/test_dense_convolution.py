"""Dense convolution: XLA's own, but that nothing is fused into its kernel's gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from layers.convolution import Conv
from layers.dense_convolution import dense_conv, is_large_dense
from layers.grouped import convolved
from training import flops

SHAPES = [
    ((3, 3), (1, 1), "SAME"),
    ((3, 3), (2, 2), "SAME"),
    ((5, 2), (2, 3), ((1, 2), (4, 0))),
    ((7, 7), (2, 2), "VALID"),
]


def inputs(window=(3, 3), image=(4, 18, 16, 6), features=10):
    rng = np.random.default_rng(0)
    shapes = image, (*window, image[-1], features)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


def plain_conv(image, kernel, strides, padding):
    return convolved(image, kernel, strides, padding, groups=1)


def gradients(convolution, strides, padding):
    def loss(image, kernel):
        # What makes the image is what XLA would fuse into the kernel's gradient.
        out = convolution(jnp.maximum(2 * image + 1, 0), kernel, strides, padding)
        return jnp.sin(out).sum()

    return jax.value_and_grad(loss, (0, 1))


@pytest.mark.parametrize(("window", "strides", "padding"), SHAPES)
def test_value_and_gradient_are_xlas_to_the_last_bit(window, strides, padding):
    arrays = inputs(window)
    jax.tree.map(
        np.testing.assert_array_equal,
        *(
            jax.jit(gradients(convolution, strides, padding))(*arrays)
            for convolution in (dense_conv, plain_conv)
        ),
    )


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="only CPUs have it so")
def test_nothing_is_fused_into_the_copy_that_the_kernels_gradient_reads():
    def transposing(convolution):
        """Instructions of the fusion that transposes the image, the others' maximum."""
        compiled = jax.jit(gradients(convolution, (1, 1), "SAME")).lower(*inputs())
        parts = compiled.compile().as_text().split("\n\n")
        return [
            part for part in parts if "f32[6,18,16,4]" in part and " maximum(" in part
        ]

    assert not [p for p in transposing(dense_conv) if not p.startswith("ENTRY")]
    assert [p for p in transposing(plain_conv) if not p.startswith("ENTRY")]


def test_a_kernel_that_is_not_a_number_gives_what_xlas_gives():
    image, kernel = inputs()
    kernel = kernel.at[0, 0, 0, 0].set(jnp.nan)
    jax.tree.map(
        np.testing.assert_array_equal,
        *(
            jax.jit(gradients(convolution, (1, 1), "SAME"))(image, kernel)
            for convolution in (dense_conv, plain_conv)
        ),
    )


def test_it_counts_as_the_convolution_and_is_the_same_under_vmap_and_checkpoint():
    arrays = inputs()
    ours, plain = (gradients(c, (1, 1), "SAME") for c in (dense_conv, plain_conv))
    assert flops.count(ours, *arrays) == flops.count(plain, *arrays) > 0
    expected = jax.jit(plain)(*arrays)
    doubled = jax.jit(jax.vmap(ours))(*(jnp.stack([x, x]) for x in arrays))
    for found in (
        jax.jit(jax.checkpoint(ours))(*arrays),
        jax.tree.map(lambda x: x[1], doubled),
    ):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
            found,
            expected,
        )


def test_only_large_dense_images_of_two_dimensions_are_worth_it():
    image, kernel = jnp.zeros((8, 32, 32, 8)), jnp.zeros((3, 3, 8, 4))
    assert is_large_dense(image, kernel, groups=1)
    assert not is_large_dense(image, kernel, groups=4)
    assert not is_large_dense(image[:1], kernel, groups=1)
    assert not is_large_dense(image.reshape(8, -1, 8), kernel[0], groups=1)


@pytest.mark.skipif(jax.device_count() < 2, reason="needs several devices")
def test_shards_of_a_batch_stay_where_they_are():
    layer = Conv(16, (3, 3))
    mesh = jax.make_mesh(
        (jax.device_count(),), ("data",), (jax.sharding.AxisType.Auto,)
    )
    image, _ = inputs(image=(2 * jax.device_count(), 32, 32, 16))
    split = jax.device_put(image, NamedSharding(mesh, PartitionSpec("data")))
    variables = layer.init(jax.random.key(0), image)
    jitted = jax.jit(jax.grad(lambda v, x: (layer.apply(v, x) ** 2).mean(), (0, 1)))
    compiled = jitted.lower(variables, split).compile()
    assert "all-gather" not in compiled.as_text()
    assert "all-to-all" not in compiled.as_text()
    found = compiled(variables, split)
    assert found[1].sharding.spec == PartitionSpec("data")
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        found,
        jitted(variables, image),
    )
