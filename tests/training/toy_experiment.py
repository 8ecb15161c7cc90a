"""A model, an objective and data small enough to train in a test, as config nodes."""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from training.metrics import Mean, accuracy
from training.task import Task


class Net(nn.Module):
    """Dense, optional BatchNorm, ReLU, dropout, Dense."""

    width: int = 16
    num_classes: int = 4
    dropout_rate: float = 0.0
    norm: bool = False

    @nn.compact
    def __call__(self, x, *, train=False):
        # A bias before the norm has no gradient but rounding, which Adam would amplify.
        x = nn.Dense(self.width, use_bias=not self.norm, name="up")(x)
        if self.norm:
            x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(nn.relu(x))
        return nn.Dense(self.num_classes, name="head")(x)


class Encoder(nn.Module):
    """A representation and a head."""

    width: int = 16
    num_classes: int = 4

    def setup(self):
        self.up = nn.Dense(self.width)
        if self.num_classes:
            self.head = nn.Dense(self.num_classes)

    def represent(self, x, *, train=False):
        return nn.relu(self.up(x))

    def __call__(self, x, *, train=False):
        x = self.represent(x)
        return self.head(x) if self.num_classes else x


class Wrapper(nn.Module):
    """What a pretraining model is to its backbone, with a part of its own."""

    backbone: nn.Module
    num_classes: int = 4

    @nn.compact
    def __call__(self, x, *, train=False):
        x = self.backbone.represent(x)
        return nn.Dense(self.num_classes, name="decoder")(x)

    def represent(self, x, *, train=False):
        return self.backbone.represent(x)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classify(Task):
    """Softmax cross-entropy of `batch['x']`; `scale` multiplies the inputs."""

    scale: float = 1.0

    def check(self, batch):
        if batch["label"].max() >= self.model.num_classes:
            raise ValueError(f"label {batch['label'].max()} is out of range")

    def prepare(self, batch, *, rng, train):
        return {**batch, "x": batch["x"] * self.scale}

    def inputs(self, batch):
        return (batch["x"],)

    def loss(self, outputs, batch):
        labels = jax.nn.one_hot(batch["label"], outputs.shape[-1])
        values = -(labels * jax.nn.log_softmax(outputs)).sum(-1)
        loss = Mean.of(values, batch.get("mask"))
        hits = accuracy(outputs, batch["label"], batch.get("mask"))
        return loss.compute(), {"loss": loss, "accuracy": hits}

    def pictures(self, outputs, batch):
        bars = (jnp.clip(outputs, 0, 1) * 255).astype(jnp.uint8)
        return {"logits": np.repeat(np.asarray(bars)[..., None], 3, -1)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clusters:
    """Noisy points around one centre per class; example i depends on i alone."""

    length: int = 50
    dim: int = 6
    num_classes: int = 4
    poison: int | None = None  # from this step on, inputs are NaN

    def __len__(self):
        return self.length

    def _example(self, i: int) -> dict[str, Any]:
        rng = np.random.default_rng(i)
        label = i % self.num_classes
        centre = np.random.default_rng(10_000 + label).normal(size=self.dim)
        x = (centre + 0.5 * rng.normal(size=self.dim)).astype(np.float32)
        return {"x": x, "label": np.int32(label)}

    def element(self):
        return self._example(0)

    def _batch(self, indices):
        rows = [self._example(int(i)) for i in indices]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def train_batches(self, *, batch_size, seed, start_step=0, shard=(0, 1)):
        def generate():
            step = start_step
            while True:
                rng = np.random.default_rng((seed, step))
                rows = rng.integers(self.length, size=batch_size)
                part = batch_size // shard[1]
                batch = self._batch(rows[shard[0] * part :][:part])
                if self.poison is not None and step + 1 >= self.poison:
                    batch["x"] = batch["x"] * np.float32("nan")
                yield batch
                step += 1

        return generate()

    def eval_batches(self, *, batch_size, shard=(0, 1)):
        for i in range(math.ceil(self.length / batch_size)):
            rows = np.arange(i * batch_size, (i + 1) * batch_size)
            part = batch_size // shard[1]
            rows = rows[shard[0] * part :][:part]
            yield {
                **self._batch(np.minimum(rows, self.length - 1)),
                "mask": rows < self.length,
            }


def config(**changes) -> dict[str, Any]:
    """A whole experiment; `changes` replace top-level keys, `model` the model's."""
    model = {"type": "toy_experiment.Net", **changes.pop("model", {})}
    data = {"type": "toy_experiment.Clusters", **changes.pop("data", {})}
    return {
        "task": {"type": "toy_experiment.Classify", "model": model},
        "optimizer": {"type": "optax.adamw", "learning_rate": 0.01},
        "data": data,
        "batch_size": 8,
        "total_steps": 6,
        "evals": {
            "eval": {
                "type": "training.evaluation.Evaluation",
                "data": {"type": "toy_experiment.Clusters", "length": 21},
            }
        },
        "log_steps": 2,
        "checkpoint_steps": 2,
        **changes,
    }
