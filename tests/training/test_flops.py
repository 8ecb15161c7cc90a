import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from nlp.models.gpt import GPT
from training import flops


def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)


def xla(function, *args) -> float:
    """XLA's count of the program before optimisation."""
    return jax.jit(function).lower(*args).cost_analysis()["flops"]


@pytest.mark.parametrize(
    ("equation", "a", "b"),
    [
        ("ij,jk->ik", (3, 4), (4, 5)),
        ("bij,bjk->bik", (2, 3, 4), (2, 4, 5)),
        ("BTNH,BSNH->BNTS", (2, 7, 3, 4), (2, 5, 3, 4)),
        ("ij,j->i", (3, 4), (4,)),
        ("btd,dnh->btnh", (2, 3, 8), (8, 2, 4)),
    ],
)
def test_products_count_as_the_compiler_counts_them(equation, a, b):
    product = functools.partial(jnp.einsum, equation)
    assert flops.count(product, shape(*a), shape(*b)) == xla(
        product, shape(*a), shape(*b)
    )


CONVOLUTIONS = [
    {"window_strides": (1, 1), "padding": "VALID"},
    {"window_strides": (1, 1), "padding": "SAME"},
    {"window_strides": (2, 2), "padding": "SAME"},
    {"window_strides": (2, 3), "padding": [(3, 2), (1, 4)]},
    {"window_strides": (1, 1), "padding": "SAME", "rhs_dilation": (2, 3)},
    {"window_strides": (1, 1), "padding": [(2, 2), (2, 3)], "lhs_dilation": (2, 2)},
    {"window_strides": (2, 1), "padding": [(2, 9), (-1, 3)], "lhs_dilation": (3, 2)},
    {"window_strides": (1, 1), "padding": "SAME", "feature_group_count": 2},
    {"window_strides": (2, 2), "padding": "SAME", "feature_group_count": 4},
]


def convolve(image, kernel, **options):
    return jax.lax.conv_general_dilated(
        image, kernel, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options
    )


@pytest.mark.parametrize("options", CONVOLUTIONS)
def test_convolutions_count_as_the_compiler_counts_them(options):
    groups = options.get("feature_group_count", 1)
    args = shape(2, 11, 13, 4), shape(3, 3, 4 // groups, 8)
    function = functools.partial(convolve, **options)
    assert flops.count(function, *args) == xla(function, *args)


@pytest.mark.parametrize("options", CONVOLUTIONS)
@pytest.mark.parametrize("argument", [0, 1])
def test_gradients_of_convolutions_do_too(options, argument):
    groups = options.get("feature_group_count", 1)
    args = shape(4, 11, 13, 4), shape(3, 3, 4 // groups, 8)
    function = functools.partial(convolve, **options)

    def gradient(cotangent, *primals):
        def linear(x):
            return function(*primals[:argument], x, *primals[argument + 1 :])

        return jax.linear_transpose(linear, primals[argument])(cotangent)

    cotangent = jax.eval_shape(function, *args)
    assert flops.count(gradient, cotangent, *args) == xla(gradient, cotangent, *args)


def block(x, w):
    query = jnp.einsum("btd,dnh->btnh", x, w["query"])
    weights = jax.nn.softmax(jnp.einsum("btnh,bsnh->bnts", query, query))
    x = x + jnp.einsum("bnts,bsnh,nhd->btd", weights, query, w["out"])
    return x + jax.nn.gelu(x @ w["up"]) @ w["down"]


BLOCK = {
    "query": shape(64, 4, 16),
    "out": shape(4, 16, 64),
    "up": shape(64, 256),
    "down": shape(256, 64),
}


def stacked(layers):
    return jax.tree.map(lambda s: shape(layers, *s.shape), BLOCK)


def written_out(x, weights, layers=4, body=block):
    for i in range(layers):
        x = body(x, jax.tree.map(lambda w, i=i: w[i], weights))
    return (x**2).sum()


def scanned(x, weights, body=block):
    return (jax.lax.scan(lambda x, w: (body(x, w), None), x, weights)[0] ** 2).sum()


@pytest.mark.parametrize("transform", [lambda f: f, jax.grad, jax.jit])
def test_a_model_is_counted_within_a_few_percent_of_the_compiler(transform):
    args = shape(2, 32, 64), stacked(4)
    ours = flops.count(transform(written_out), *args)
    assert 0.93 < ours / xla(transform(written_out), *args) < 1


def test_also_of_the_optimised_program():
    args = shape(2, 32, 64), stacked(2)
    gradient = jax.value_and_grad(functools.partial(written_out, layers=2))
    compiled = jax.jit(gradient).lower(*args).compile()
    ratio = flops.count(gradient, *args) / compiled.cost_analysis()["flops"]
    assert 0.93 < ratio < 1.01


@pytest.mark.parametrize("transform", [lambda f: f, jax.grad])
def test_a_scan_counts_as_its_layers_written_out(transform):
    args = shape(2, 32, 64), stacked(4)
    assert flops.count(transform(scanned), *args) == flops.count(
        transform(written_out), *args
    )


def test_recomputation_counts_in_the_gradient_only():
    args = shape(2, 32, 64), stacked(4)
    again = functools.partial(written_out, body=jax.checkpoint(block))
    forward = flops.count(written_out, *args)
    assert flops.count(again, *args) == forward
    extra = flops.count(jax.grad(again, argnums=(0, 1)), *args) - flops.count(
        jax.grad(written_out, argnums=(0, 1)), *args
    )
    assert 0 < extra <= forward


def test_a_function_jitted_with_options_is_counted():
    options = {"xla_cpu_enable_fast_math": False}
    product = jax.jit(lambda x, w: x @ w, compiler_options=options)
    assert flops.count(product, shape(8, 8), shape(8, 8)) == 2 * 8**3


def test_calls_and_branches():
    x, w = shape(8, 8), shape(8, 8)
    one = 2 * 8**3

    @jax.custom_vjp
    def custom(x, w):
        return x @ w

    custom.defvjp(lambda x, w: (x @ w, (x, w)), lambda r, g: (g @ r[1].T, r[0].T @ g))
    assert flops.count(custom, x, w) == one
    gradient = jax.grad(lambda x, w: custom(x, w).sum(), argnums=(0, 1))
    assert flops.count(gradient, x, w) == 3 * one

    def branches(x, w):
        return jax.lax.cond(x[0, 0] > 0, lambda: x @ w @ w, lambda: x @ w)

    assert flops.count(branches, x, w) == 2 * one

    def loop(x, w):
        return jax.lax.while_loop(lambda x: x[0, 0] < 9, lambda x: x @ w, x)

    assert flops.count(loop, x, w) == one, "documented: once"
    assert flops.count(jax.jit(jax.jit(lambda x, w: x @ w)), x, w) == one
    assert flops.count(
        jax.vmap(lambda x, w: x @ w), shape(5, 8, 8), shape(5, 8, 8)
    ) == (5 * one)
    assert flops.count(lambda x: x + 1, x) == 0


def test_a_body_per_device_counts_on_every_device():
    mesh = jax.make_mesh((4, 2), ("data", "model"), (AxisType.Auto,) * 2)
    rows = PartitionSpec("data")
    for axes in ({"data", "model"}, {"data"}):
        body = jax.shard_map(
            lambda x, w: x @ w,
            mesh=mesh,
            in_specs=(rows, PartitionSpec()),
            out_specs=rows,
            axis_names=axes,
            check_vma=False,
        )
        copies = 2 if "model" in axes else 1
        found = flops.count(body, shape(16, 8), shape(8, 4))
        assert found == copies * 2 * 16 * 8 * 4


def test_model_flops_are_three_times_the_forward_pass():
    def apply(params, collections, batch, *, rng, train):
        return batch["x"] @ params, batch, collections

    task = types.SimpleNamespace(
        apply=apply, loss=lambda outputs, batch: (outputs.sum(), {})
    )
    run = types.SimpleNamespace(
        experiment=types.SimpleNamespace(task=task),
        shapes=types.SimpleNamespace(params=shape(8, 5), collections={}),
        batch={"x": shape(16, 8)},
    )
    assert flops.model_flops(run) == 3 * 2 * 16 * 8 * 5


def test_fused_attention_counts_its_products():
    """cuDNN's kernel is one primitive; it cannot be traced without a GPU."""
    query, key = np.zeros((2, 7, 3, 4)), np.zeros((2, 5, 3, 4))
    product = 2 * 2 * 3 * 7 * 5 * 4
    for name, products in (("fwd_wrapper", 2), ("bwd_wrapper", 5)):
        eqn = types.SimpleNamespace(
            primitive=types.SimpleNamespace(name=f"dot_product_attention_{name}"),
            params={},
            invars=[types.SimpleNamespace(aval=x) for x in (query, key, key)],
        )
        assert flops._equation(eqn) == products * product


@pytest.mark.parametrize("scan", [False, True])
def test_attention_in_blocks_counts_as_attention_and_recomputes_one_product(scan):
    """Flax splits what a scanned function computes from no argument off it."""
    tokens = shape(2, 256, dtype=jnp.int32)

    def counts(implementation):
        model = GPT(
            8,
            max_length=256,
            embed_dim=16,
            num_layers=3,
            num_heads=2,
            scan=scan,
            attention_implementation=implementation,
        )
        variables = jax.eval_shape(model.init, jax.random.key(0), tokens)
        forward = functools.partial(flops.count, model.apply)
        total = jax.grad(lambda *args: model.apply(*args).sum())
        return forward(variables, tokens), flops.count(total, variables, tokens)

    blocks, einsum = counts("blocks"), counts("einsum")
    assert blocks[0] == einsum[0]
    product = 2 * 2 * 256 * 256 * 16
    assert blocks[1] - einsum[1] == 3 * product
