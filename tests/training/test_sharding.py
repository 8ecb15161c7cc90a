import jax
import numpy as np
import pytest
import toy_experiment
from jax.sharding import PartitionSpec as P

from training import sharding
from training.run import Run


def layout(axes, **kwargs):
    return sharding.Layout(sharding.make_mesh(axes), **kwargs)


def spec(layout, path, *shape):
    tree = jax.ShapeDtypeStruct(shape, np.float32)
    for name in reversed(path.split("/")):
        tree = {name: tree}
    return jax.tree.leaves(layout.state(tree))[0].spec


def test_mesh_fills_in_the_free_axis():
    assert dict(sharding.make_mesh({"data": -1}).shape) == {"data": 8}
    mesh = sharding.make_mesh({"data": 2, "fsdp": -1, "model": 2})
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "model": 2}


@pytest.mark.parametrize(
    "axes", [{"data": 3}, {"data": -1, "fsdp": 3}, {"data": -1, "fsdp": -1}, {"dat": 8}]
)
def test_a_mesh_that_does_not_fit_is_one_line(axes):
    with pytest.raises(ValueError, match="mesh") as caught:
        sharding.make_mesh(axes)
    assert "\n" not in str(caught.value)


def test_rules_place_the_trailing_dimensions():
    tp = layout({"data": -1, "model": 2})
    up = "params/encoder/block_0/mlp/up/kernel"
    assert spec(tp, up, 16, 64) == P(None, "model")
    assert spec(tp, "opt_state/0/mu/mlp/up/kernel", 16, 64) == P(None, "model")
    # Layers stacked by scan have one more dimension in front.
    assert spec(tp, "params/encoder/blocks/mlp/up/kernel", 3, 16, 64) == P(
        None, None, "model"
    )
    assert spec(tp, "params/attention/out/kernel", 4, 8, 32) == P("model", None, None)
    assert spec(tp, "params/setup/kernel", 16, 64) == P(None, None)
    # Three heads do not split over two devices.
    assert spec(tp, "params/attention/query/kernel", 32, 3, 8) == P(None, None, None)


def test_fsdp_splits_the_largest_dimension_that_divides():
    fsdp = layout({"fsdp": 8})
    assert spec(fsdp, "params/head/kernel", 256, 1000) == P(None, "fsdp")
    assert spec(fsdp, "params/head/kernel", 256, 1001) == P("fsdp", None)
    assert spec(fsdp, "params/head/bias", 16) == P(None)  # not worth a message
    both = layout({"data": 1, "fsdp": 4, "model": 2})
    assert spec(both, "params/mlp/up/kernel", 64, 256) == P("fsdp", "model")


def test_batch_is_split_over_data_and_fsdp():
    both = layout({"data": 2, "fsdp": 2, "model": 2})
    assert both.batch_divisor == 4
    assert both.batch.spec == P(("data", "fsdp"))
    assert both.host_shard(8) == (0, 1)
    batch = both.put({"x": np.arange(8)})
    assert {s.data.shape for s in batch["x"].addressable_shards} == {(2,)}
    with pytest.raises(ValueError, match="batch_size 12 .* multiple of 8"):
        both.check_batch(12, accumulation_steps=2)


def losses(steps=20, **changes):
    config = toy_experiment.config(batch_size=16, **changes)
    run = Run.from_config(config)
    state, found = run.init(), []
    batches = run.experiment.data.train_batches(batch_size=16, seed=0)
    for _ in range(steps):
        state, metrics = run.update(state, run.layout.put(next(batches)))
        found.append(float(metrics["loss"].compute()))
    assert steps == 0 or run.update._cache_size() == 1  # compiled once
    return np.array(found), state, run


@pytest.fixture(scope="module")
def single():
    """Losses of 20 steps with BatchNorm and dropout on one device."""
    config = toy_experiment.config(
        batch_size=16, model={"norm": True, "dropout_rate": 0.1, "width": 64}
    )
    run = Run.from_config({**config, "mesh": {"data": 1}}, jax.devices()[:1])
    state, found = run.init(), []
    batches = run.experiment.data.train_batches(batch_size=16, seed=0)
    for _ in range(20):
        state, metrics = run.update(state, run.layout.put(next(batches)))
        found.append(float(metrics["loss"].compute()))
    return np.array(found), state


@pytest.mark.parametrize(
    "mesh",
    [{"data": 8}, {"fsdp": 8}, {"data": 2, "fsdp": 2, "model": 2}, {"model": 8}],
    ids=str,
)
def test_any_mesh_follows_the_single_device(single, mesh):
    found, state, _ = losses(
        mesh=mesh, model={"norm": True, "dropout_rate": 0.1, "width": 64}
    )
    np.testing.assert_allclose(found, single[0], atol=1e-5)
    # The statistics of BatchNorm are those of the global batch.
    for ours, theirs in zip(
        jax.tree.leaves(state.collections),
        jax.tree.leaves(single[1].collections),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_accumulation_agrees_over_devices():
    one, _, _ = losses(steps=3, mesh={"data": 8})
    two, _, _ = losses(steps=3, mesh={"data": 8}, accumulation_steps=2)
    np.testing.assert_allclose(one, two, atol=1e-6)


def test_fsdp_state_is_a_sixth_or_less_per_device():
    _, _, run = losses(steps=0, mesh={"fsdp": 8}, model={"width": 4096})
    held, whole = 0, 0
    for x, s in zip(
        jax.tree.leaves(run.shapes), jax.tree.leaves(run.shardings), strict=True
    ):
        held += np.prod(s.shard_shape(x.shape))
        whole += np.prod(x.shape)
    assert held <= whole / 6


def test_a_model_axis_without_a_match_is_an_error():
    config = toy_experiment.config(mesh={"data": 4, "model": 2}, partition_rules=[])
    with pytest.raises(Exception, match="partition_rules match no parameter"):
        Run.from_config(config)
