"""The one place that knows both the batch's keys and the model's signature.

An objective is a subclass of `Task` with `inputs` and `loss`; the base class owns the
Linen plumbing (random streams, mutable collections), so that no objective repeats it.
"""

import dataclasses
import difflib
import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

Batch = Mapping[str, Any]
Collections = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """An objective: a model and pure methods, no arrays.

    Args:
        model: a Linen module.
    """

    model: Any

    def check(self, batch: Batch) -> None:
        """Looks at a host batch (numpy) before it travels.

        Raises:
            ValueError: in one line, if the batch cannot be trained on (a label out of
                range, say).
        """

    def prepare(self, batch: Batch, *, rng: jax.Array, train: bool) -> Batch:
        """What belongs on the device: uint8 to normalised float, mixup."""
        del rng, train
        return batch

    def inputs(self, batch: Batch) -> tuple:
        """The model's positional arguments."""
        raise NotImplementedError

    def loss(self, outputs: Any, batch: Batch) -> tuple[jax.Array, dict[str, Any]]:
        """The scalar to minimise, float32 [], and metrics by name.

        `metrics['loss']` is a `Mean` whose count is the number of real examples (or
        tokens) the scalar averages: accumulation weighs micro-batches by it.
        """
        raise NotImplementedError

    def plain_inputs(self, batch: Batch) -> tuple:
        """The model's arguments for examples as they are: nothing masked, mixed or
        turned, whatever the objective does to them. For `represent`."""
        return self.inputs(self.prepare(batch, rng=jax.random.key(0), train=False))

    def pictures(self, outputs: Any, batch: Batch) -> dict[str, np.ndarray]:
        """What a person should see, on the host: name -> uint8 [H, W, 3]."""
        del outputs, batch
        return {}

    def init(self, rng: jax.Array, batch: Batch) -> tuple[Any, dict[str, Any]]:
        """Fresh (parameters, other collections) for batches shaped like `batch`."""
        names = ("params", "dropout", "prepare")
        rngs = dict(zip(names, jax.random.split(rng, len(names)), strict=True))
        batch = self.prepare(batch, rng=rngs.pop("prepare"), train=False)
        variables = dict(self.model.init(rngs, *self.inputs(batch), train=False))
        return variables.pop("params"), variables

    def apply(
        self,
        params: Any,
        collections: Collections,
        batch: Batch,
        *,
        rng: jax.Array,
        train: bool,
    ) -> tuple[Any, Batch, dict[str, Any]]:
        """One forward pass.

        Returns:
            The model's outputs, the prepared batch, and the collections after the pass
            (changed only if `train`).
        """
        prepare_rng, dropout_rng = jax.random.split(rng)
        batch = self.prepare(batch, rng=prepare_rng, train=train)
        variables = {"params": params, **collections}
        arguments = self.inputs(batch)
        if not train:
            outputs = self.model.apply(variables, *arguments, train=False)
            return outputs, batch, dict(collections)
        outputs, updated = self.model.apply(
            variables,
            *arguments,
            train=True,
            rngs={"dropout": dropout_rng},
            mutable=list(collections),
        )
        return outputs, batch, {**collections, **updated}

    def represent(
        self,
        params: Any,
        collections: Collections,
        batch: Batch,
        *,
        layer: str | None = None,
    ) -> jax.Array:
        """What the model makes of each example, for probes, exports and pictures.

        Args:
            layer: None takes the model's `represent`, one vector per example. A module's
                path, 'encoder/block_3' say, takes its output on the way there.

        Returns:
            [B, D], or [B, ...] for a layer.

        Raises:
            ValueError: there is no such layer; names those there are.
        """
        variables = {"params": params, **collections}
        call = functools.partial(
            self.model.apply,
            variables,
            *self.plain_inputs(batch),
            train=False,
            method="represent",
        )
        if layer is None:
            return call()
        seen = []

        def wanted(module: Any, method: str) -> bool:
            path = "/".join(module.path)
            seen.append(path)
            return path == layer and method == "__call__"

        _, found = call(capture_intermediates=wanted, mutable=["intermediates"])
        outputs = jax.tree.leaves(found)
        if not outputs:
            known = list(dict.fromkeys(seen))
            near = difflib.get_close_matches(layer, known, n=3, cutoff=0.0)
            raise ValueError(
                f"no layer {layer!r} in this model; near: {', '.join(near)}"
            )
        return outputs[0]
