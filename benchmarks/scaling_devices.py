"""What an update holds and sends on many devices, read from the compiled program.

The devices are virtual: nothing is computed. `benchmarks/scaling.py` starts this file in a
process for every number of devices, with a case as JSON, and reads JSON from it.
"""

import dataclasses
import json
import math
import pathlib
import sys
import time
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax
import numpy as np

from training import collectives, plan
from training.run import Run

# Values of an array that counts as large: 1 MiB of float32.
LARGE = 2**18
# Names of the mesh's axes by what a layout is called.
LAYOUTS = {"data": "data", "fsdp": "fsdp", "tensor": "model"}


@dataclasses.dataclass(frozen=True)
class Model:
    """A model as config nodes, in float32, one program for all layers.

    Args:
        task: the config node.
        element: of the data, numpy arrays by name: one example.
        tokens: positions that a block sees of one example.
        embed_dim, num_layers: of the Transformer.
    """

    task: dict[str, Any]
    element: dict[str, np.ndarray]
    tokens: int
    embed_dim: int
    num_layers: int


def vision(model: str, tokens: int, embed_dim: int, num_layers: int) -> Model:
    """A ViT that classifies images of 224 x 224 pixels."""
    return Model(
        {
            "type": "vision.tasks.classification.Classification",
            "model": {
                "type": f"vision.models.vit.{model}",
                "num_classes": 1000,
                "num_layers": num_layers,
                "scan": True,
            },
            "mean": (0.5,),
            "std": (0.5,),
        },
        {"image": np.zeros((224, 224, 3), np.uint8), "label": np.int32(0)},
        tokens,
        embed_dim,
        num_layers,
    )


def language(model: str, embed_dim: int, num_layers: int) -> Model:
    """A GPT that reads 1024 tokens."""
    return Model(
        {
            "type": "nlp.tasks.language_modeling.LanguageModeling",
            "model": {
                "type": f"nlp.models.gpt.{model}",
                "vocab_size": 50_304,
                "num_layers": num_layers,
                "scan": True,
            },
        },
        {"tokens": np.zeros(1025, np.int32)},
        1024,
        embed_dim,
        num_layers,
    )


MODELS = {
    "vit_l16": vision("ViT_L16", 196, 1024, 24),
    "vit_ti16": vision("ViT_Ti16", 196, 192, 2),
    "gpt2_124m": language("GPT2_S", 768, 12),
}


@dataclasses.dataclass(frozen=True)
class Elements:
    """Data of which only the shapes are needed."""

    arrays: Any

    def element(self) -> dict[str, np.ndarray]:
        return dict(self.arrays)


def build(name: str, layout: str, devices: int, per_device: int) -> Run:
    """The run of a model on that many devices, one example or more on each.

    Tensor parallelism splits no batch: all devices see the same `per_device` examples.
    """
    model, axis = MODELS[name], LAYOUTS[layout]
    config = {
        "task": model.task,
        "optimizer": {"type": "optax.adamw", "learning_rate": 1e-4},
        "data": {
            "type": "benchmarks.scaling_devices.Elements",
            "arrays": model.element,
        },
        "batch_size": per_device * (1 if layout == "tensor" else devices),
        "total_steps": 1,
        "mesh": {axis: devices},
    }
    return Run.from_config(config, jax.devices()[:devices])


def theory(name: str, layout: str, run: Run, per_device: int) -> dict[str, float]:
    """Bytes of the messages of one device in a step, by what they are for."""
    model, devices = MODELS[name], run.layout.mesh.size
    if devices == 1:
        return {}
    params = jax.tree.leaves(run.shapes.params)
    whole = sum(4 * x.size for x in params)
    gradients = {"gradients": whole}
    if "nlp" in model.task["type"]:
        # Where a table both embeds and scores, its two gradients are summed over the
        # devices one by one, and then added. XLA adds first on accelerators, not on CPUs.
        table = model.task["model"]["vocab_size"] * model.embed_dim
        gradients["the tied table's other gradient"] = 4 * table
    if layout == "data":
        return gradients
    if layout == "fsdp":
        shardings = jax.tree.leaves(run.shardings.params)
        split = sum(
            4 * x.size
            for x, s in zip(params, shardings, strict=True)
            if "fsdp" in s.spec
        )
        return {"parameters gathered": split, **gradients}
    activations = 4 * per_device * model.tokens * model.embed_dim
    # Megatron's four a block, were the gradients of query, key and value added first;
    # XLA does that on accelerators. Here each is summed over the devices by itself.
    return {"activations": 6 * model.num_layers * activations}


def measure(case: dict[str, Any]) -> dict[str, Any]:
    """The figures of one case: `model`, `layout`, `devices`, `per_device`."""
    name, layout = case["model"], case["layout"]
    run = build(name, layout, case["devices"], case["per_device"])
    began = time.perf_counter()
    compiled = plan.compile_update(run)
    seconds = time.perf_counter() - began
    moved = collectives.bytes_moved(compiled.as_text())
    state = sum(
        math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(run.shapes)
    )
    pairs = zip(
        jax.tree.leaves(run.shapes), jax.tree.leaves(run.shardings), strict=True
    )
    sizes = [(x.size, math.prod(s.shard_shape(x.shape))) for x, s in pairs]
    large = [pair for pair in sizes if pair[0] >= LARGE]
    return {
        **case,
        "large_share": sum(b for _, b in large) / max(1, sum(a for a, _ in large)),
        "state": state,
        "state_per_device": plan.device_bytes(run),
        "memory": collectives.memory(compiled),
        "moved": moved,
        "moved_total": sum(moved.values()),
        "theory": theory(name, layout, run, case["per_device"]),
        "compile_seconds": seconds,
    }


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
