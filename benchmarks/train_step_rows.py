"""What `benchmarks/train_step` compares: one entry of `ROWS` per model.

A row names our task as a config node, the same model in torch, and one example's arrays.
Only the standard library is imported at the top, because every contestant reads this file,
also those in an environment without JAX or without torch.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

# Constant learning rates: how fast a step is does not depend on them.
OPTIMIZERS = {
    "adamw": {"learning_rate": 1e-4, "b1": 0.9, "b2": 0.999, "weight_decay": 0.05},
    "sgd": {"learning_rate": 1e-3, "momentum": 0.9},
}


@dataclasses.dataclass(frozen=True)
class Array:
    """Random contents of a batch.

    Args:
        shape: of one example; an image is [H, W, C].
        below: integers in [0, below); None for float32, standard normal.
    """

    shape: tuple[int, ...]
    below: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One model in every formulation.

    Args:
        task: config node of our task with its model, to which, and to whose backbone,
            `dtype` is added.
        torch: 'timm:NAME' or a key of `benchmarks.train_step_torch_models.MODELS`.
        arrays: the batch, by the keys that our task reads.
        optimizer: a key of `OPTIMIZERS`.
        batch_size: by device, 'cpu' and 'gpu'.
        objective: a key of `benchmarks.train_step_torch.LOSSES`.
        convolutional: torch also tries its channels-last layout.
        attention_fields: paths of the fields of our model that choose the attention's
            implementation; on GPUs in bfloat16 cuDNN's is tried too.
    """

    task: Mapping[str, Any]
    torch: str
    arrays: Mapping[str, Array]
    optimizer: str
    batch_size: Mapping[str, int]
    objective: str = "classification"
    convolutional: bool = False
    attention_fields: tuple[str, ...] = ()


def classification(model: str, *, size: int, num_classes: int) -> dict[str, Any]:
    """The `task` and `arrays` of a row that classifies normalised images."""
    return {
        "task": {
            "type": "vision.tasks.classification.Classification",
            "model": {"type": f"vision.models.{model}", "num_classes": num_classes},
            "mean": (0.0,),
            "std": (1.0,),
        },
        "arrays": {"image": Array((size, size, 3)), "label": Array((), num_classes)},
    }


def language_modeling(model: str, *, length: int, **fields: Any) -> dict[str, Any]:
    """A row's entries for a causal language model on rows of `length` targets."""
    return {
        "task": {
            "type": "nlp.tasks.language_modeling.LanguageModeling",
            "model": {
                "type": f"nlp.models.gpt.{model}",
                "max_length": length,
                **fields,
            },
        },
        "torch": "GPT",
        "arrays": {"tokens": Array((length + 1,), fields["vocab_size"])},
        "optimizer": "adamw",
        "objective": "language_modeling",
        "attention_fields": ("attention_implementation",),
    }


ROWS = {
    "vit_ti16": Row(
        **classification("vit.ViT_Ti16", size=224, num_classes=1000),
        torch="timm:vit_tiny_patch16_224",
        optimizer="adamw",
        batch_size={"cpu": 16, "gpu": 512},
        attention_fields=("attention_implementation",),
    ),
    "vit_b16": Row(
        **classification("vit.ViT_B16", size=224, num_classes=1000),
        torch="timm:vit_base_patch16_224",
        optimizer="adamw",
        batch_size={"cpu": 4, "gpu": 256},
        attention_fields=("attention_implementation",),
    ),
    "mixer_s16": Row(
        **classification("mlp_mixer.MlpMixer_S16", size=224, num_classes=1000),
        torch="timm:mixer_s16_224",
        optimizer="adamw",
        batch_size={"cpu": 16, "gpu": 512},
    ),
    "resnet20_cifar": Row(
        **classification("resnet.CifarResNet20", size=32, num_classes=10),
        torch="CifarResNet20",
        optimizer="sgd",
        batch_size={"cpu": 128, "gpu": 1024},
        convolutional=True,
    ),
    "resnet50": Row(
        **classification("resnet.ResNet50", size=224, num_classes=1000),
        torch="timm:resnet50",
        optimizer="sgd",
        batch_size={"cpu": 8, "gpu": 256},
        convolutional=True,
    ),
    # Convolutions in 32 groups; and depthwise ones, of 3 x 3 pixels and of 7 x 7.
    "resnext50": Row(
        **classification("resnet.ResNeXt50_32x4d", size=224, num_classes=1000),
        torch="timm:resnext50_32x4d",
        optimizer="sgd",
        batch_size={"cpu": 8, "gpu": 256},
        convolutional=True,
    ),
    "mobilenet_v2": Row(
        **classification("mobilenet_v2.MobileNetV2", size=224, num_classes=1000),
        torch="timm:mobilenetv2_100",
        optimizer="sgd",
        batch_size={"cpu": 8, "gpu": 512},
        convolutional=True,
    ),
    "convnext_t": Row(
        **classification("convnext.ConvNeXtT", size=224, num_classes=1000),
        torch="timm:convnext_tiny",
        optimizer="adamw",
        batch_size={"cpu": 4, "gpu": 256},
        convolutional=True,
    ),
    "mae_vit_b16": Row(
        task={
            "type": "vision.tasks.masked_autoencoding.MaskedAutoencoding",
            "model": {
                "type": "vision.models.mae.MAE",
                "backbone": {
                    "type": "vision.models.vit.ViT_B16",
                    "num_classes": 0,
                    "positions": "sincos2d_mae",
                },
            },
            "normalize_target": True,
            "mean": (0.0,),
            "std": (1.0,),
        },
        torch="MaskedAutoencoder",
        arrays={"image": Array((224, 224, 3))},
        optimizer="adamw",
        batch_size={"cpu": 4, "gpu": 256},
        objective="masked_autoencoding",
        attention_fields=(
            "attention_implementation",
            "backbone.attention_implementation",
        ),
    ),
    # Characters of Shakespeare.
    "gpt_6l": Row(
        **language_modeling(
            "GPT", length=256, vocab_size=65, num_layers=6, num_heads=6, embed_dim=384
        ),
        batch_size={"cpu": 8, "gpu": 64},
    ),
    # The vocabulary is GPT-2's, made a multiple of 128 on both sides.
    "gpt2_124m": Row(
        **language_modeling("GPT2_S", length=1024, vocab_size=50_304),
        batch_size={"cpu": 1, "gpu": 16},
    ),
}


def random_batch(row: Row, batch_size: int) -> dict[str, Any]:
    """One numpy batch, the same for every contestant: images are [B, H, W, C]."""
    import numpy as np

    rng = np.random.default_rng(0)
    batch = {}
    for name, array in row.arrays.items():
        shape = (batch_size, *array.shape)
        if array.below is None:
            batch[name] = rng.standard_normal(shape, dtype=np.float32)
        else:
            batch[name] = rng.integers(array.below, size=shape, dtype=np.int32)
    return batch
