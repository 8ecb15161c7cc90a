"""VGG in the files of torchvision and timm, which number the layers: one table per depth
and form.

ReLU, pooling and dropout count as layers there, and so move the numbers of the rest. timm's
hidden layers are convolutions: of the whole map, and of one pixel.
"""

from training.weight_naming import (
    Naming,
    Rule,
    torch_batch_norm,
    torch_conv,
    torch_linear,
)
from vision.weights.rules import torch_window

DEPTHS = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}


def _features(stage_sizes: tuple[int, ...], batch_norm: bool) -> list[Rule]:
    rules, layer = [], 0
    for i, size in enumerate(stage_sizes):
        for j in range(size):
            rules += torch_conv(f"stage_{i}_conv_{j}", f"features.{layer}")
            if batch_norm:
                rules += torch_batch_norm(
                    f"stage_{i}_norm_{j}", f"features.{layer + 1}"
                )
            layer += 3 if batch_norm else 2  # and ReLU
        layer += 1  # pooling
    return rules


_TORCHVISION = (
    *torch_linear("dense_0", "classifier.0"),
    *torch_linear("dense_1", "classifier.3"),
    *torch_linear("head", "classifier.6"),
)
_TIMM = (
    *torch_window("dense_0", "pre_logits.fc1", 7),
    *torch_window("dense_1", "pre_logits.fc2"),
    *torch_linear("head", "head.fc"),
)


def _naming(publisher: str, depth: int, batch_norm: bool) -> Naming:
    hidden = _TIMM if publisher == "timm" else _TORCHVISION
    return Naming(
        f"{publisher} vgg{depth}{'_bn' if batch_norm else ''}",
        (*_features(DEPTHS[depth], batch_norm), *hidden),
        # A counter that only torch's cumulative average reads.
        ignored=(r".*\.num_batches_tracked",),
    )


NAMINGS = tuple(
    _naming(publisher, depth, batch_norm)
    for publisher in ("torchvision", "timm")
    for depth in DEPTHS
    for batch_norm in (False, True)
)
