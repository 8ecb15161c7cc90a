"""VGG in the files of torchvision and timm, which number the layers: one table per depth
and form.

ReLU, pooling and dropout count as layers there, and so move the numbers of the rest. timm's
hidden layers are convolutions: of the whole map, and of one pixel.
"""

import dataclasses

import numpy as np

from training.weight_naming import (
    Linear,
    Naming,
    Rule,
    Shape,
    torch_batch_norm,
    torch_conv,
    torch_linear,
)

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


@dataclasses.dataclass(frozen=True)
class Window(Linear):
    """torch's Conv2d weight, [out, in, side, side], where we have a Dense of all of it.

    Args:
        side: height and width of the map that the convolution covers.
    """

    side: int = 1

    def theirs(self, ours: Shape) -> Shape:
        out, numbers = super().theirs(ours)
        return out, numbers // self.side**2, self.side, self.side

    def load(self, tensor: np.ndarray, ours: Shape) -> np.ndarray:
        return super().load(tensor.reshape(len(tensor), -1), ours)


def _window(ours: str, theirs: str, side: int) -> list[Rule]:
    return [
        Rule(f"params/{ours}/kernel", f"{theirs}.weight", Window(side=side)),
        Rule(f"params/{ours}/bias", f"{theirs}.bias"),
    ]


_TORCHVISION = (
    *torch_linear("dense_0", "classifier.0"),
    *torch_linear("dense_1", "classifier.3"),
    *torch_linear("head", "classifier.6"),
)
_TIMM = (
    *_window("dense_0", "pre_logits.fc1", 7),
    *_window("dense_1", "pre_logits.fc2", 1),
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
