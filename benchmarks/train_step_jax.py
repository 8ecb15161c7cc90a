"""The contestants 'ours' and 'linen' of `benchmarks/train_step`.

Both run `training.step.train_step` on the same task, optimizer and batch, and start from
the same parameters. Plain Linen is our model with every layer of `layers/` that has a
counterpart in Flax replaced by it, and without compiler options: what the same page of
model code would be with `nn.Dense`, `nn.Conv`, `nn.BatchNorm` and so on. What `train.py` sets
in its process is ours too: on a CPU freed memory is kept (`training.allocator`).
"""

import copy
import functools
import operator
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.train_step_contestant import Trainer, fastest
from benchmarks.train_step_rows import OPTIMIZERS, ROWS, Row, random_batch
from layers import (
    activations,
    attention,
    convolution,
    dense,
    memory,
    normalization,
    pooling,
)
from training import allocator, compilation, config, environment, flops, state, step
from vision.layers import patches


def build(spec: Mapping[str, Any]) -> Trainer:
    """The trainer of a contestant's process.

    Raises:
        RuntimeError: JAX does not find the device.
    """
    if spec["device"] == "gpu":
        try:
            jax.devices("gpu")
        except Exception as error:  # an AssertionError where the plugin is missing
            raise RuntimeError("JAX finds no GPU") from error
    row = ROWS[spec["model"]]
    plain = spec["contestant"] == "linen"
    # Not in the other contestants: it is part of how our loop runs, not of JAX or torch.
    keeps_memory = not plain and allocator.keep_freed_memory()
    variants = [{}]
    on_gpu = spec["device"] == "gpu" and spec["dtype"] == "bfloat16"
    if row.attention_fields and on_gpu and not plain:
        variants = [{"attention": name} for name in ("xla", "cudnn")]

    def trainer(variant: Mapping[str, str]) -> JaxTrainer:
        return JaxTrainer(
            row, spec["batch_size"], dtype=spec["dtype"], plain=plain, **variant
        )

    best = fastest(variants, trainer)
    best.description["keeps_freed_memory"] = keeps_memory
    return best


class JaxTrainer:
    """A row's model under `train_step` on one device.

    Args:
        plain: Linen's layers and XLA's own options. They stay replaced in this process
            until `restore` is called: functions are traced at the first step.
        attention: value of the row's `attention_fields`; None leaves them alone.
    """

    def __init__(
        self,
        row: Row,
        batch_size: int,
        *,
        dtype: str,
        plain: bool,
        attention: str | None = None,
    ):
        task = config.build(task_node(row, dtype, attention))
        optimizer = _optimizer(row.optimizer)
        self.restore = replace_layers() if plain else lambda: None
        self._device = jax.devices()[0]
        # Bound to no device, like the state: else the second step would compile again.
        self._batch = jax.device_put(random_batch(row, batch_size))
        self.state = jax.device_put(initial_state(row, dtype, optimizer))
        options = {} if plain else compilation.compiler_options(devices=1)
        self._update = jax.jit(
            functools.partial(step.train_step, task=task, optimizer=optimizer),
            donate_argnums=0,
            compiler_options=options or None,
        )
        run = types.SimpleNamespace(
            experiment=types.SimpleNamespace(task=task),
            shapes=jax.eval_shape(lambda: self.state),
            batch=jax.eval_shape(lambda: self._batch),
        )
        self.description = {
            "parameters": sum(x.size for x in jax.tree.leaves(self.state.params)),
            "flops": flops.model_flops(run),
            "peak_flops": environment.peak_flops(self._device.device_kind, dtype),
            "environment": environment.describe(compiler_options=options),
        }

    def step(self) -> Any:
        """One update; returns at once."""
        self.state, metrics = self._update(self.state, self._batch)
        return metrics

    def wait(self, metrics: Any) -> float:
        """The last loss, when everything is done."""
        jax.block_until_ready(self.state)
        return float(metrics["loss"].compute())

    def device_peak(self) -> int | None:
        """Bytes that were in use at the peak; None on a CPU."""
        return (self._device.memory_stats() or {}).get("peak_bytes_in_use")

    def reset_device_peak(self) -> None:
        """JAX cannot; initialisation needs less than a step."""


def initial_state(row: Row, dtype: str, optimizer: Any) -> state.TrainState:
    """Made on the CPU, where the program compiles sooner than on a GPU: numpy arrays."""
    task = config.build(task_node(row, dtype, "einsum"))
    create = functools.partial(state.create, task, optimizer, seed=0, ema=False)
    with jax.default_device(jax.devices("cpu")[0]):
        return jax.tree.map(np.asarray, jax.jit(create)(random_batch(row, 2)))


def task_node(row: Row, dtype: str, attention: str | None = None) -> dict[str, Any]:
    """A row's task with these fields of its model."""
    node = copy.deepcopy(dict(row.task))
    model = node["model"]
    for part in (model, model.get("backbone")):
        if part is not None:
            part["dtype"] = dtype
    for path in row.attention_fields if attention is not None else ():
        *owners, field = path.split(".")
        functools.reduce(operator.getitem, owners, model)[field] = attention
    return node


def _optimizer(name: str) -> optax.GradientTransformation:
    return {"adamw": optax.adamw, "sgd": optax.sgd}[name](**OPTIMIZERS[name])


def _linen_patches(
    patch_size: patches.PatchSize, embed_dim: int, **options: Any
) -> nn.Conv:
    window = patches.sides(patch_size)
    return nn.Conv(embed_dim, window, strides=window, padding="VALID", **options)


def _linen_attention(
    query, key, value, *, mask=None, bias=None, causal=False, **options: Any
) -> jax.Array:
    if options.get("dropout_rate") or options.get("return_weights"):
        raise NotImplementedError("plain attention without dropout and weights only")
    if causal:
        mask = nn.combine_masks(mask, nn.make_causal_mask(jnp.ones(query.shape[:2])))
    return nn.dot_product_attention(query, key, value, bias=bias, mask=mask)


LINEN = (
    (dense.Dense, nn.Dense),
    (dense.DenseGeneral, nn.DenseGeneral),
    (convolution.Conv, nn.Conv),
    (normalization.BatchNorm, nn.BatchNorm),
    (normalization.LayerNorm, nn.LayerNorm),
    (normalization.RMSNorm, nn.RMSNorm),
    (normalization.GroupNorm, nn.GroupNorm),
    (pooling.max_pool, nn.max_pool),
    (memory.relu_in_memory, nn.relu),
    (attention.dot_product_attention, _linen_attention),
    (activations.gelu, functools.partial(nn.gelu, approximate=False)),
    (patches.PatchEmbedding, _linen_patches),
)


def replace_layers() -> Callable[[], None]:
    """Puts Linen's layers where modules imported so far name ours.

    Parameters keep their names, shapes and initial values.

    Returns:
        A function that puts ours back.
    """
    replacements = {id(ours): linen for ours, linen in LINEN}
    spaces = [
        vars(module)
        for name, module in sys.modules.items()
        if name.split(".")[0] in ("layers", "vision", "nlp")
    ]
    before = []
    for space in [*spaces, activations.NAMED]:
        for name, value in list(space.items()):
            if id(value) in replacements:
                before.append((space, name, value))
                space[name] = replacements[id(value)]

    def restore() -> None:
        for space, name, value in before:
            space[name] = value

    return restore
