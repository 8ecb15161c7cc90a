"""DenseNet in the files of torchvision and timm, whose names agree.

torchvision's files as first released have a dot more in a layer's names.
"""

import dataclasses

from training.weight_naming import Naming, torch_batch_norm, torch_conv, torch_linear
from vision.weights.rules import from_one


def _torchvision(name: str, dot: str) -> Naming:
    ours, theirs = "block_{}_layer_{}", "features.denseblock{}.denselayer{}"
    numbered = (
        *torch_batch_norm(f"{ours}/norm_0", f"{theirs}.norm{dot}1"),
        *torch_conv(f"{ours}/conv_0", f"{theirs}.conv{dot}1"),
        *torch_batch_norm(f"{ours}/norm_1", f"{theirs}.norm{dot}2"),
        *torch_conv(f"{ours}/conv_1", f"{theirs}.conv{dot}2"),
        *torch_batch_norm("transition_{}/norm", "features.transition{}.norm"),
        *torch_conv("transition_{}/conv", "features.transition{}.conv"),
    )
    return Naming(
        name,
        (
            *torch_conv("stem_conv", "features.conv0"),
            *torch_batch_norm("stem_norm", "features.norm0"),
            *from_one(numbered),
            *torch_batch_norm("norm", "features.norm5"),
            *torch_linear("head", "classifier"),
        ),
        # A counter that only torch's cumulative average reads.
        ignored=(r".*\.num_batches_tracked",),
    )


TORCHVISION = _torchvision("torchvision densenet", "")
TORCHVISION_RELEASED = _torchvision("torchvision_released densenet", ".")
TIMM = dataclasses.replace(TORCHVISION, name="timm densenet")

NAMINGS = (TORCHVISION, TORCHVISION_RELEASED, TIMM)
