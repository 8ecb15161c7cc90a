"""MobileNet v3, large and small, in the files of torchvision and timm."""

from collections.abc import Sequence

from training.weight_naming import Naming, Rule, torch_linear
from vision.weights.inverted_bottleneck import (
    conv_norm,
    timm_block,
    timm_block_without_expansion,
    torchvision_block,
)
from vision.weights.rules import torch_window

# A counter that only torch's cumulative average reads.
_COUNTER = (r".*\.num_batches_tracked",)

# Blocks of every stage, and whether they have squeeze-and-excitation.
_LARGE = ((1, False), (2, False), (3, True), (4, False), (2, True), (3, True))
_SMALL = ((1, True), (2, False), (3, True), (2, True), (3, True))


def _blocks(stages: Sequence[tuple[int, bool]]) -> list[Rule]:
    """Its blocks are numbered through, from 1; the first has no expansion."""
    rules, number = [], 0
    for i, (size, excite) in enumerate(stages):
        for j in range(size):
            number += 1
            parts = [] if number == 1 else ["expand"]
            parts += ["depthwise", *(["squeeze_excite"] if excite else []), "project"]
            rules += torchvision_block(
                f"stage_{i}_block_{j}", f"features.{number}", parts
            )
    return rules


def _torchvision(name: str, stages: Sequence[tuple[int, bool]]) -> Naming:
    last = 1 + sum(size for size, _ in stages)
    return Naming(
        name,
        (
            *conv_norm("stem", "features.0.0", "features.0.1"),
            *_blocks(stages),
            *conv_norm("head", f"features.{last}.0", f"features.{last}.1"),
            *torch_linear("representation", "classifier.0"),
            *torch_linear("head", "classifier.3"),
        ),
        ignored=_COUNTER,
    )


TORCHVISION_LARGE = _torchvision("torchvision mobilenet_v3_large", _LARGE)
TORCHVISION_SMALL = _torchvision("torchvision mobilenet_v3_small", _SMALL)


def _timm(name: str, num_stages: int) -> Naming:
    """The last convolution counts as a stage; the layer behind the average is
    a convolution of one pixel."""
    rules = timm_block_without_expansion("stage_0_block_{}", "blocks.0.{}")
    for i in range(1, num_stages):
        rules += timm_block(f"stage_{i}_block_{{}}", f"blocks.{i}.{{}}")
    last = f"blocks.{num_stages}.0"
    return Naming(
        name,
        (
            *conv_norm("stem", "conv_stem", "bn1"),
            *rules,
            *conv_norm("head", f"{last}.conv", f"{last}.bn1"),
            *torch_window("representation", "conv_head"),
            *torch_linear("head", "classifier"),
        ),
        ignored=_COUNTER,
    )


TIMM_LARGE = _timm("timm mobilenet_v3_large", len(_LARGE))
TIMM_SMALL = _timm("timm mobilenet_v3_small", len(_SMALL))

NAMINGS = (TORCHVISION_LARGE, TORCHVISION_SMALL, TIMM_LARGE, TIMM_SMALL)
