"""ResNet, ResNeXt, Wide ResNet and SE-ResNet in the files of torchvision and timm, whose names
agree."""

import dataclasses

from training.weight_naming import (
    Naming,
    Rule,
    torch_batch_norm,
    torch_conv,
    torch_linear,
)


def _stage(ours: str, theirs: str) -> list[Rule]:
    rules = []
    for i in range(3):
        rules += torch_conv(f"{ours}_block_{{}}/conv_{i}", f"{theirs}.{{}}.conv{i + 1}")
        rules += torch_batch_norm(
            f"{ours}_block_{{}}/norm_{i}", f"{theirs}.{{}}.bn{i + 1}"
        )
    squeeze, se = f"{ours}_block_{{}}/squeeze_excite", f"{theirs}.{{}}.se"
    return [
        *rules,
        *torch_conv(f"{squeeze}/reduce", f"{se}.fc1"),
        *torch_conv(f"{squeeze}/expand", f"{se}.fc2"),
        *torch_conv(f"{ours}_block_{{}}/shortcut_conv", f"{theirs}.{{}}.downsample.0"),
        *torch_batch_norm(
            f"{ours}_block_{{}}/shortcut_norm", f"{theirs}.{{}}.downsample.1"
        ),
    ]


TORCHVISION = Naming(
    "torchvision",
    (
        *torch_conv("stem_conv", "conv1"),
        *torch_batch_norm("stem_norm", "bn1"),
        *_stage("stage_0", "layer1"),
        *_stage("stage_1", "layer2"),
        *_stage("stage_2", "layer3"),
        *_stage("stage_3", "layer4"),
        *torch_linear("head", "fc"),
    ),
    # A counter that only torch's cumulative average reads.
    ignored=(r".*\.num_batches_tracked",),
)

TIMM = dataclasses.replace(TORCHVISION, name="timm resnet")

NAMINGS = (TORCHVISION, TIMM)
