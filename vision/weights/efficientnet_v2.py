"""EfficientNetV2 in the files of torchvision and timm (`efficientnetv2_*`, with `tf_` too)."""

from training.weight_naming import Naming, Rule, torch_linear
from vision.weights.inverted_bottleneck import (
    conv_norm,
    timm_block,
    timm_fused_block,
    torchvision_block,
)

# A counter that only torch's cumulative average reads.
_COUNTER = (r".*\.num_batches_tracked",)
_MBCONV = ("expand", "depthwise", "squeeze_excite", "project")


def _torchvision(name: str, num_stages: int) -> Naming:
    """The first stage is one convolution a block, two more are fused, the rest MBConv."""
    rules: list[Rule] = []
    for i in range(num_stages):
        parts = _MBCONV if i > 2 else ("fused", "project")[: 1 if i == 0 else 2]
        rules += torchvision_block(
            f"stage_{i}_block_{{}}", f"features.{i + 1}.{{}}", parts
        )
    last = num_stages + 1
    return Naming(
        name,
        (
            *conv_norm("stem", "features.0.0", "features.0.1"),
            *rules,
            *conv_norm("head", f"features.{last}.0", f"features.{last}.1"),
            *torch_linear("head", "classifier.1"),
        ),
        ignored=_COUNTER,
    )


TORCHVISION_S = _torchvision("torchvision efficientnet_v2_s", 6)
TORCHVISION_ML = _torchvision("torchvision efficientnet_v2_m_l", 7)

TIMM = Naming(
    "timm efficientnet_v2",
    (
        *conv_norm("stem", "conv_stem", "bn1"),
        *conv_norm("stage_0_block_{}/fused", "blocks.0.{}.conv", "blocks.0.{}.bn1"),
        *timm_fused_block("stage_1_block_{}", "blocks.1.{}"),
        *timm_fused_block("stage_2_block_{}", "blocks.2.{}"),
        *timm_block("stage_{}_block_{}", "blocks.{}.{}"),
        *conv_norm("head", "conv_head", "bn2"),
        *torch_linear("head", "classifier"),
    ),
    ignored=_COUNTER,
)

NAMINGS = (TORCHVISION_S, TORCHVISION_ML, TIMM)
