"""Xception in timm's files (`legacy_xception`).

Its blocks are torch sequences that begin, all but the first, with a relu; so the first
block's positions are one lower.
"""

from training.weight_naming import (
    Naming,
    Rule,
    torch_batch_norm,
    torch_conv,
    torch_linear,
)


def _stem(ours: str, number: int) -> list[Rule]:
    return [
        *torch_conv(f"{ours}/conv", f"conv{number}"),
        *torch_batch_norm(f"{ours}/norm", f"bn{number}"),
    ]


def _separable(ours: str, conv: str, norm: str) -> list[Rule]:
    return [
        *torch_conv(f"{ours}/conv/depthwise", f"{conv}.conv1"),
        *torch_conv(f"{ours}/conv/pointwise", f"{conv}.pointwise"),
        *torch_batch_norm(f"{ours}/norm", norm),
    ]


def _block(ours: str, theirs: str, convolutions: int = 2, first: int = 1) -> list[Rule]:
    rules = [
        *torch_conv(f"{ours}/shortcut/conv", f"{theirs}.skip"),
        *torch_batch_norm(f"{ours}/shortcut/norm", f"{theirs}.skipbn"),
    ]
    for i in range(convolutions):
        conv, norm = (f"{theirs}.rep.{first + 3 * i + j}" for j in range(2))
        rules += _separable(f"{ours}/conv_{i}", conv, norm)
    return rules


def _middle(blocks: int) -> list[Rule]:
    """They follow the stem's and the entry flow's blocks in one count."""
    rules = []
    for i in range(blocks):
        rules += _block(f"middle_block_{i}", f"block{4 + i}", convolutions=3)
    return rules


TIMM = Naming(
    "timm xception",
    (
        *_stem("stem_0", 1),
        *_stem("stem_1", 2),
        *_block("entry_block_0", "block1", first=0),
        *_block("entry_block_1", "block2"),
        *_block("entry_block_2", "block3"),
        *_middle(8),
        *_block("exit_block", "block12"),
        *_separable("exit_conv_0", "conv3", "bn3"),
        *_separable("exit_conv_1", "conv4", "bn4"),
        *torch_linear("head", "fc"),
    ),
    # A counter that only torch's cumulative average reads.
    ignored=(r".*\.num_batches_tracked",),
)

NAMINGS = (TIMM,)
