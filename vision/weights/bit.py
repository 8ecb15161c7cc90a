"""BiT and pre-activation ResNet in timm's files ("resnetv2"), BiT in Google's.

The rules of blocks serve the ViT hybrid too, whose stem is such a network.
"""

from training.weight_naming import (
    Layout,
    Naming,
    Rule,
    flax_dense,
    same,
    torch_batch_norm,
    torch_conv,
)
from vision.weights.rules import Leading, from_one, torch_window

_BLOCK = "stage_{}_block_{}"


def timm_blocks(ours: str, theirs: str) -> list[Rule]:
    """Blocks called `ours`, whose path has a number for the stage and one for the block."""
    rules = []
    for i in range(3):
        rules += torch_batch_norm(f"{ours}/norm_{i}", f"{theirs}.norm{i + 1}")
        rules += torch_conv(f"{ours}/conv_{i}", f"{theirs}.conv{i + 1}")
    return [*rules, *torch_conv(f"{ours}/shortcut_conv", f"{theirs}.downsample.conv")]


TIMM = Naming(
    "timm resnetv2",
    (
        *torch_conv("stem_conv", "stem.conv"),
        *timm_blocks(_BLOCK, "stages.{}.blocks.{}"),
        *torch_batch_norm("norm", "norm"),
        *torch_window("head", "head.fc"),
    ),
    # A counter that only torch's cumulative average reads.
    ignored=(r".*\.num_batches_tracked",),
)


def google_stem(ours: str, norm_layout: Layout) -> list[Rule]:
    """The network in front of the hybrid ViT, called `ours`, in vision_transformer's files."""
    block, unit = f"{ours}/{_BLOCK}", "block{}/unit{}"
    rules = _norm(f"{block}/shortcut_norm", f"{unit}/gn_proj", norm_layout)
    rules += flax_dense(f"{block}/shortcut_conv", f"{unit}/conv_proj")
    for i in range(3):
        rules += flax_dense(f"{block}/conv_{i}", f"{unit}/conv{i + 1}")
        rules += _norm(f"{block}/norm_{i}", f"{unit}/gn{i + 1}", norm_layout)
    return [
        *flax_dense(f"{ours}/stem_conv", "conv_root"),
        *_norm(f"{ours}/stem_norm", "gn_root", norm_layout),
        *from_one(rules),
    ]


def _norm(ours: str, theirs: str, layout: Layout) -> list[Rule]:
    return [
        Rule(f"params/{ours}/{leaf}", f"{theirs}/{leaf}", layout)
        for leaf in ("scale", "bias")
    ]


def _google_stage(i: int) -> list[Rule]:
    """Stage i: of its units' three parts, each has a norm and a convolution."""
    ours, theirs = f"stage_{i}_block_{{}}", f"resnet/block{i + 1}/unit{{}}"
    conv = "standardized_conv2d"
    rules = same(f"{ours}/shortcut_conv/kernel", f"{theirs}/a/proj/{conv}/kernel")
    for j, part in enumerate("abc"):
        rules += _group_norm(f"{ours}/norm_{j}", f"{theirs}/{part}/group_norm")
        rules += same(f"{ours}/conv_{j}/kernel", f"{theirs}/{part}/{conv}/kernel")
    return from_one(rules, digits=2)


def _group_norm(ours: str, theirs: str) -> list[Rule]:
    return [
        *same(f"{ours}/scale", f"{theirs}/gamma"),
        *same(f"{ours}/bias", f"{theirs}/beta"),
    ]


GOOGLE = Naming(
    "google bit",
    (
        *same("stem_conv/kernel", "resnet/root_block/standardized_conv2d/kernel"),
        *(rule for i in range(4) for rule in _google_stage(i)),
        *_group_norm("norm", "resnet/group_norm"),
        Rule("params/head/kernel", "resnet/head/conv2d/kernel", Leading(2)),
        *same("head/bias", "resnet/head/conv2d/bias"),
    ),
)

NAMINGS = (TIMM, GOOGLE)
