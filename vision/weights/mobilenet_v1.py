"""MobileNet v1 in the files of Hugging Face and timm."""

from training.weight_naming import Naming, Rule, torch_linear
from vision.weights.inverted_bottleneck import conv_norm

_COUNTER = (r".*\.num_batches_tracked",)
_STAGE_SIZES = (1, 2, 2, 6, 2)


def _hugging_face() -> list[Rule]:
    """Its layers are numbered through, depthwise ones even, 1x1 ones odd."""
    rules, number = [], 0
    for i, size in enumerate(_STAGE_SIZES):
        for j in range(size):
            for part in ("depthwise", "pointwise"):
                layer = f"layer.{number}"
                rules += conv_norm(
                    f"stage_{i}_block_{j}/{part}",
                    f"{layer}.convolution",
                    f"{layer}.normalization",
                )
                number += 1
    return rules


HUGGING_FACE = Naming(
    "hugging_face mobilenet_v1",
    (
        *conv_norm("stem", "conv_stem.convolution", "conv_stem.normalization"),
        *_hugging_face(),
        *torch_linear("head", "classifier"),
    ),
    ignored=_COUNTER,
    prefixes=("mobilenet_v1.",),
)

_BLOCK = "stage_{}_block_{}"
TIMM = Naming(
    "timm mobilenet_v1",
    (
        *conv_norm("stem", "conv_stem", "bn1"),
        *conv_norm(f"{_BLOCK}/depthwise", "blocks.{}.{}.conv_dw", "blocks.{}.{}.bn1"),
        *conv_norm(f"{_BLOCK}/pointwise", "blocks.{}.{}.conv_pw", "blocks.{}.{}.bn2"),
        *torch_linear("head", "classifier"),
    ),
    ignored=_COUNTER,
)

NAMINGS = (HUGGING_FACE, TIMM)
