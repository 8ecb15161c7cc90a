"""Inverted bottlenecks in the files of timm and torchvision: a part of other tables.

`ours` and `theirs` are prefixes of one block, or of all blocks of a stage with `{}` for
their number.
"""

from collections.abc import Sequence

from training.weight_naming import Rule, torch_batch_norm, torch_conv


def conv_norm(ours: str, conv: str, norm: str) -> list[Rule]:
    """`<ours>_conv` and `<ours>_norm`, under the names that the file has for them."""
    return [
        *torch_conv(f"{ours}_conv", conv),
        *torch_batch_norm(f"{ours}_norm", norm),
    ]


def timm_block(ours: str, theirs: str) -> list[Rule]:
    """timm's InvertedResidual: 1x1, depthwise, squeeze-and-excitation, 1x1."""
    return [
        *conv_norm(f"{ours}/expand", f"{theirs}.conv_pw", f"{theirs}.bn1"),
        *conv_norm(f"{ours}/depthwise", f"{theirs}.conv_dw", f"{theirs}.bn2"),
        *_timm_squeeze_excite(ours, theirs),
        *conv_norm(f"{ours}/project", f"{theirs}.conv_pwl", f"{theirs}.bn3"),
    ]


def timm_block_without_expansion(ours: str, theirs: str) -> list[Rule]:
    """timm's DepthwiseSeparableConv: depthwise, squeeze-and-excitation, 1x1."""
    return [
        *conv_norm(f"{ours}/depthwise", f"{theirs}.conv_dw", f"{theirs}.bn1"),
        *_timm_squeeze_excite(ours, theirs),
        *conv_norm(f"{ours}/project", f"{theirs}.conv_pw", f"{theirs}.bn2"),
    ]


def timm_fused_block(ours: str, theirs: str) -> list[Rule]:
    """timm's EdgeResidual: 3x3, 1x1."""
    return [
        *conv_norm(f"{ours}/fused", f"{theirs}.conv_exp", f"{theirs}.bn1"),
        *conv_norm(f"{ours}/project", f"{theirs}.conv_pwl", f"{theirs}.bn2"),
    ]


def _timm_squeeze_excite(ours: str, theirs: str) -> list[Rule]:
    return [
        *torch_conv(f"{ours}/squeeze_excite/reduce", f"{theirs}.se.conv_reduce"),
        *torch_conv(f"{ours}/squeeze_excite/expand", f"{theirs}.se.conv_expand"),
    ]


def torchvision_block(ours: str, theirs: str, parts: Sequence[str]) -> list[Rule]:
    """torchvision's blocks, whose layers carry their position in the block.

    Args:
        parts: the layers in order: 'expand', 'depthwise', 'squeeze_excite', 'project' and
            'fused', as far as the block has them.
    """
    rules = []
    for i, part in enumerate(parts):
        layer = f"{theirs}.block.{i}"
        if part == "squeeze_excite":
            rules += torch_conv(f"{ours}/squeeze_excite/reduce", f"{layer}.fc1")
            rules += torch_conv(f"{ours}/squeeze_excite/expand", f"{layer}.fc2")
        else:
            rules += conv_norm(f"{ours}/{part}", f"{layer}.0", f"{layer}.1")
    return rules
