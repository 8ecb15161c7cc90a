"""MobileNet v2 in the files of torchvision and timm."""

from training.weight_naming import Naming, Rule, torch_linear
from vision.weights.inverted_bottleneck import (
    conv_norm,
    timm_block,
    timm_block_without_expansion,
)

_COUNTER = (r".*\.num_batches_tracked",)
_STAGE_SIZES = (1, 2, 3, 4, 3, 3, 1)


def _torchvision() -> list[Rule]:
    """Its blocks are numbered through, from 1; the first has no expansion."""
    rules, number = [], 0
    for i, size in enumerate(_STAGE_SIZES):
        for j in range(size):
            number += 1
            ours, theirs = f"stage_{i}_block_{j}", f"features.{number}.conv"
            parts = ("depthwise",) if number == 1 else ("expand", "depthwise")
            for k, part in enumerate(parts):
                rules += conv_norm(
                    f"{ours}/{part}", f"{theirs}.{k}.0", f"{theirs}.{k}.1"
                )
            last = len(parts)
            rules += conv_norm(
                f"{ours}/project", f"{theirs}.{last}", f"{theirs}.{last + 1}"
            )
    return rules


TORCHVISION = Naming(
    "torchvision mobilenet_v2",
    (
        *conv_norm("stem", "features.0.0", "features.0.1"),
        *_torchvision(),
        *conv_norm("head", "features.18.0", "features.18.1"),
        *torch_linear("head", "classifier.1"),
    ),
    ignored=_COUNTER,
)

TIMM = Naming(
    "timm mobilenet_v2",
    (
        *conv_norm("stem", "conv_stem", "bn1"),
        *timm_block_without_expansion("stage_0_block_{}", "blocks.0.{}"),
        *timm_block("stage_{}_block_{}", "blocks.{}.{}"),
        *conv_norm("head", "conv_head", "bn2"),
        *torch_linear("head", "classifier"),
    ),
    ignored=_COUNTER,
)

NAMINGS = (TORCHVISION, TIMM)
