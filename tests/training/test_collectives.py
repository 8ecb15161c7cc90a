import textwrap

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from training import collectives

# The batch outweighs the parameters, or the partitioner would move activations instead.
WIDTH, LAYERS, BATCH = 64, 5, 512


def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)


def mesh(*sizes, names=("data", "model")):
    return jax.make_mesh(sizes, names[: len(sizes)], (AxisType.Auto,) * len(sizes))


def compile_update(layout, params_spec, loss, params, batch_spec=("data",)):
    """A compiled step of gradient descent with parameters and batch so placed."""

    def update(params, batch):
        grads = jax.grad(loss)(params, batch)
        return jax.tree.map(lambda p, g: p - g, params, grads)

    place = NamedSharding(layout, PartitionSpec(*params_spec))
    rows = NamedSharding(layout, PartitionSpec(*batch_spec))
    jitted = jax.jit(
        update, in_shardings=(place, rows), out_shardings=place, donate_argnums=0
    )
    return jitted.lower(params, shape(BATCH, WIDTH)).compile()


def dense(params, x):
    for w in params:
        x = jnp.tanh(x @ w)
    return x.sum()


def scanned(params, x):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, params)[0].sum()


def test_data_parallel_reduces_every_gradient_once():
    params = [shape(WIDTH, WIDTH)] * LAYERS
    compiled = compile_update(mesh(8), (), dense, params)
    size = LAYERS * WIDTH * WIDTH * 4
    assert collectives.bytes_moved(compiled.as_text()) == {"all-reduce": size}
    found = collectives.collectives(compiled.as_text())
    assert {c.group for c in found} == {8}
    assert sum(c.wire for c in found) == 2 * 7 / 8 * size
    assert all("dot_general" in c.op_name for c in found)


def test_groups_are_those_of_the_axis():
    params = [shape(WIDTH, WIDTH)]
    compiled = compile_update(mesh(2, 4), (), dense, params, batch_spec=("data",))
    (found,) = collectives.collectives(compiled.as_text())
    assert (found.kind, found.group) == ("all-reduce", 2)


def test_sharded_parameters_are_gathered_and_their_gradients_reduced():
    params = [shape(WIDTH, WIDTH)] * LAYERS
    compiled = compile_update(mesh(8), ("data",), dense, params)
    size = LAYERS * WIDTH * WIDTH * 4
    moved = collectives.bytes_moved(compiled.as_text())
    # Once for both passes, or once for each, as the compiler likes.
    assert moved["all-gather"] in (size, 2 * size)
    reduced = moved.get("all-reduce", 0) + moved.get("reduce-scatter", 0)
    assert reduced == size


def test_a_loop_counts_as_often_as_it_runs():
    params = shape(LAYERS, WIDTH, WIDTH)
    compiled = compile_update(mesh(8), (None, "data"), scanned, params)
    found = collectives.collectives(compiled.as_text())
    gathers = [c for c in found if c.kind == "all-gather"]
    assert gathers and {c.times for c in gathers} == {LAYERS}
    assert {c.payload for c in gathers} == {WIDTH * WIDTH * 4}
    assert all(c.bounded for c in found)
    moved = collectives.bytes_moved(compiled.as_text())
    assert moved["all-gather"] == len(gathers) * LAYERS * WIDTH * WIDTH * 4


def test_a_loop_of_unknown_length_counts_once_and_says_so():
    layout = mesh(8)
    rows = NamedSharding(layout, PartitionSpec("data"))
    whole = NamedSharding(layout, PartitionSpec())

    def body(x):
        gathered = jax.lax.with_sharding_constraint(x * 1.5, whole)
        return jax.lax.with_sharding_constraint(gathered @ gathered, rows)

    def loop(x):
        return jax.lax.while_loop(lambda x: x[0, 0] < 9, body, x)

    jitted = jax.jit(loop, in_shardings=rows, out_shardings=rows)
    text = jitted.lower(shape(8, 8)).compile().as_text()
    gathers = [c for c in collectives.collectives(text) if c.kind == "all-gather"]
    assert gathers
    assert all(c.times == 1 and not c.bounded for c in gathers)


def test_one_device_moves_nothing():
    compiled = jax.jit(dense).lower([shape(8, 8)], shape(4, 8)).compile()
    assert collectives.bytes_moved(compiled.as_text()) == {}


@pytest.mark.parametrize(
    ("operation", "kind", "size"),
    [
        (lambda x: jax.lax.psum(x, "data"), "all-reduce", 16),
        (lambda x: jax.lax.all_gather(x, "data"), "all-gather", 128),
        (
            lambda x: jax.lax.all_to_all(x.reshape(8, 4), "data", 0, 0),
            "all-to-all",
            128,
        ),
        (
            lambda x: jax.lax.ppermute(x, "data", [(i, (i + 1) % 8) for i in range(8)]),
            "collective-permute",
            16,
        ),
    ],
)
def test_kinds_as_the_compiler_writes_them(operation, kind, size):
    rows = PartitionSpec("data")
    count = 256 if kind == "all-to-all" else 32
    body = jax.shard_map(
        operation, mesh=mesh(8), in_specs=rows, out_specs=rows, check_vma=False
    )
    text = jax.jit(body).lower(shape(count)).compile().as_text()
    assert collectives.bytes_moved(text) == {kind: size}


# What accelerators' compilers write; no CPU program has these forms.
ASYNCHRONOUS = textwrap.dedent(
    """\
    HloModule jit_step, is_scheduled=true, replica_count=1, num_partitions=8

    %add (x: bf16[], y: bf16[]) -> bf16[] {
      ROOT %sum = bf16[] add(%x, %y)
    }

    %wrapped (p: f32[64,64]) -> f32[8,64] {
      %p = f32[64,64]{1,0} parameter(0)
      ROOT %rs = f32[8,64]{1,0} reduce-scatter(%p), channel_id=3, replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}, to_apply=%add
    }

    %body (s: (s32[], f32[8])) -> (s32[], f32[8]) {
      %s = (s32[], /*index=1*/f32[8]{0:T(256)S(1)}) parameter(0)
      %cp-start = (f32[8]{0}, f32[8]{0}, u32[], u32[]) collective-permute-start(%q), channel_id=4, source_target_pairs={{0,1},{1,2},{2,3},{3,0}}
      ROOT %cp-done = f32[8]{0:T(256)S(1)} collective-permute-done(%cp-start)
    }

    %cond (s: (s32[], f32[8])) -> pred[] {
      ROOT %less = pred[] compare(%a, %b), direction=LT
    }

    ENTRY %main (p: bf16[8,64]) -> bf16[64,64] {
      %p = bf16[8,64]{1,0:T(8,128)(2,1)} parameter(0)
      %ag-start = (bf16[8,64]{1,0}, bf16[64,64]{1,0}) all-gather-start(%p), channel_id=1, replica_groups=[1,8]<=[8], dimensions={0}, metadata={op_name="jit(step)/mlp/dot_general"}
      %ar-start = (bf16[4]{0}, f32[]) all-reduce-start(%u, %v), channel_id=2, replica_groups=[4,2]<=[2,4]T(1,0), to_apply=%add
      %rs-start = ((f32[64,64]{1,0}), f32[8,64]{1,0}) async-start(%w), calls=%wrapped
      %rs-done = f32[8,64]{1,0} async-done(%rs-start), calls=%wrapped
      %rs2-start = ((f32[16,64]{1,0}), f32[2,64]{1,0}) reduce-scatter-start(%w), replica_groups=mesh['data'=2,'model'=8] {'data':(1)2,'model':(2)4}, dimensions={0}, to_apply=%add
      %rs2-done = f32[2,64]{1,0} reduce-scatter-done(%rs2-start)
      %ag-done = bf16[64,64]{1,0} all-gather-done(%ag-start)
      %ar-done = (bf16[4]{0}, f32[]) all-reduce-done(%ar-start)
      %loop = (s32[], f32[8]{0}) while(%t), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"3"}}
      ROOT %out = bf16[64,64]{1,0} all-gather(%x), channel_id=9, dimensions={0}
    }
    """
)


def test_asynchronous_pairs_count_once():
    found = {c.name: c for c in collectives.collectives(ASYNCHRONOUS)}
    facts = {n: (c.kind, c.payload, c.group, c.times) for n, c in found.items()}
    assert facts == {
        "ag-start": ("all-gather", 64 * 64 * 2, 8, 1),
        "ar-start": ("all-reduce", 4 * 2 + 4, 2, 1),
        "rs": ("reduce-scatter", 64 * 64 * 4, 8, 1),
        "rs2-start": ("reduce-scatter", 2 * 64 * 4 * 8, 8, 1),
        "cp-start": ("collective-permute", 8 * 4, 4, 3),
        "out": ("all-gather", 64 * 64 * 2, 8, 1),
    }
    assert found["ag-start"].op_name == "jit(step)/mlp/dot_general"
    assert found["ag-start"].wire == 7 / 8 * 64 * 64 * 2
    assert found["cp-start"].wire == 3 * 32
    assert collectives.bytes_moved(ASYNCHRONOUS)["all-gather"] == 2 * 64 * 64 * 2


def test_memory_of_a_replicated_and_of_a_sharded_state():
    params = [shape(WIDTH, WIDTH)] * LAYERS
    size = LAYERS * WIDTH * WIDTH * 4
    batch = BATCH * WIDTH * 4 // 8
    whole = collectives.memory(compile_update(mesh(8), (), dense, params))
    split = collectives.memory(compile_update(mesh(8), ("data",), dense, params))
    assert whole["argument"] == size + batch
    assert split["argument"] == size // 8 + batch
    assert whole["alias"] == size, "donated parameters are updated in place"
    for found in (whole, split):
        assert found["temp"] > 0
        assert found["peak"] >= found["argument"] + found["temp"]
