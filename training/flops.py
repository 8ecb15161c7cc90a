"""Counts the floating-point operations of a function from its trace, without compiling.

Matrix products and convolutions are counted (a multiplication and an addition are two);
everything else is a few per cent of any model here. Unlike XLA's own count this one
multiplies the body of a loop by its length, so that a model whose layers run in
`jax.lax.scan` counts the same as one written out.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr


def count(function: Callable, *args: Any) -> int:
    """FLOPs of one call over all devices, counted as if nothing was sharded.

    Products with zeros that padding or dilation puts in do not count. A branch of
    `jax.lax.cond` counts as its costliest, and `jax.lax.platform_dependent` as its default,
    whatever the device makes of it; the body of a `jax.lax.while_loop`, whose length nobody
    knows before, counts once; recomputation under `jax.checkpoint` counts where it is
    traced, that is, in a gradient.

    Args:
        function: anything JAX can trace, jitted or not.
        args: arrays or `jax.ShapeDtypeStruct`s, also in trees.
    """
    # JAX refuses a jit with compiler options within another trace: it traces itself.
    trace = getattr(function, "trace", None)
    traced = trace(*args).jaxpr if trace else jax.make_jaxpr(function)(*args)
    return _jaxpr(traced.jaxpr)


def model_flops(run: Any) -> int:
    """FLOPs of one update as papers count them: three times the forward pass.

    The backward pass takes two products for each one of the forward pass. Neither
    recomputation nor the optimizer counts, so that utilisation by this number compares
    implementations of one model. Frozen parts count as if they were trained.

    Args:
        run: has `experiment.task`, `shapes` (the state) and `batch`.
    """
    task = run.experiment.task

    def forward(params, collections, batch):
        rng = jax.random.key(0)
        outputs, batch, _ = task.apply(params, collections, batch, rng=rng, train=True)
        return task.loss(outputs, batch)[0]

    return 3 * count(forward, run.shapes.params, run.shapes.collections, run.batch)


def _jaxpr(jaxpr: Jaxpr) -> int:
    return sum(_equation(eqn) for eqn in jaxpr.eqns)


def _equation(eqn: Any) -> int:
    name, params = eqn.primitive.name, eqn.params
    if name == "dot_general":
        return _dot(eqn)
    if name == "conv_general_dilated":
        return _convolution(eqn)
    # A primitive, or a jitted function of this name.
    called = str(params.get("name", name))
    if called.startswith("dot_product_attention_") and (heads := _heads(eqn)):
        return _fused_attention(*heads, backward="bwd" in called)
    if name == "cond":
        counts = [_jaxpr(branch.jaxpr) for branch in params["branches"]]
        platforms = params.get("branches_platforms") or ()
        return counts[platforms.index(None)] if None in platforms else max(counts)
    inside = sum(_jaxpr(jaxpr) for jaxpr in _jaxprs(params.values()))
    if name == "scan":
        return inside * params["length"]
    if name == "pallas_call":
        return inside * math.prod(params["grid_mapping"].grid)
    if name == "shard_map":
        # Its body has the shapes of one device along the axes it handles by itself.
        sizes = dict(params["mesh"].shape)
        axes = params.get("newly_manual_axes", params.get("manual_axes", sizes))
        return inside * math.prod(sizes[axis] for axis in axes)
    return inside


def _jaxprs(values: Any) -> Iterator[Jaxpr]:
    """The programs among an equation's parameters: the bodies of calls and loops."""
    for value in values:
        if isinstance(value, ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, Jaxpr):
            yield value
        elif isinstance(value, tuple | list):
            yield from _jaxprs(value)


def _dot(eqn: Any) -> int:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    lhs = eqn.invars[0].aval.shape
    return (
        2
        * math.prod(eqn.outvars[0].aval.shape)
        * math.prod(lhs[axis] for axis in contracted)
    )


def _convolution(eqn: Any) -> int:
    params = eqn.params
    lhs, rhs = (variable.aval.shape for variable in eqn.invars)
    lhs_spec, rhs_spec, out_spec = params["dimension_numbers"]
    out = eqn.outvars[0].aval.shape
    positions = 1
    for i in range(len(params["window_strides"])):
        positions *= _positions(
            size=lhs[lhs_spec[2 + i]],
            window=rhs[rhs_spec[2 + i]],
            out=out[out_spec[2 + i]],
            stride=params["window_strides"][i],
            padding=params["padding"][i][0],
            lhs_dilation=params["lhs_dilation"][i],
            rhs_dilation=params["rhs_dilation"][i],
        )
    # The kernel's input features are those of one group already.
    channels = rhs[rhs_spec[0]] * rhs[rhs_spec[1]]
    batch = lhs[lhs_spec[0]] // params["batch_group_count"]
    return 2 * batch * channels * positions


def _positions(
    *,
    size: int,
    window: int,
    out: int,
    stride: int,
    padding: int,
    lhs_dilation: int,
    rhs_dilation: int,
) -> int:
    """Pairs of an output and a kernel position, along one axis, that meet an input."""
    last = (size - 1) * lhs_dilation
    total = 0
    for k in range(window):
        offset = k * rhs_dilation - padding
        # Outputs o with 0 <= o * stride + offset <= last, on the grid of the dilation.
        low = max(0, -(offset // stride))
        high = min(out - 1, (last - offset) // stride)
        if lhs_dilation == 1:
            total += max(0, high - low + 1)
        else:
            total += sum(
                (o * stride + offset) % lhs_dilation == 0 for o in range(low, high + 1)
            )
    return total


def _heads(eqn: Any) -> list[tuple[int, ...]]:
    """The shapes of query and key; none for what was split off a call in a scan, because
    it is computed from no argument."""
    avals = [variable.aval for variable in eqn.invars]
    shapes = [a.shape for a in avals if len(a.shape) == 4 and a.dtype != bool]
    return shapes[:2]


def _fused_attention(
    query: tuple[int, ...], key: tuple[int, ...], *, backward: bool
) -> int:
    """cuDNN's flash attention, or ours in blocks, on [B, T, N, H] and [B, S, N, H], masks
    ignored.

    Two products forward; four backward and one recomputed, which is counted because it
    is part of the method.
    """
    batch, length, heads, dim = query
    product = 2 * batch * heads * length * key[1] * dim
    return product * (5 if backward else 2)
