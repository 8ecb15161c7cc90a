"""EfficientNet in the files of timm (`efficientnet_*`, `tf_efficientnet_*`) and torchvision."""

from training.weight_naming import Naming, Rule, torch_linear
from vision.weights.inverted_bottleneck import (
    conv_norm,
    timm_block,
    timm_block_without_expansion,
    torchvision_block,
)

# A counter that only torch's cumulative average reads.
_COUNTER = (r".*\.num_batches_tracked",)

TIMM = Naming(
    "timm efficientnet",
    (
        *conv_norm("stem", "conv_stem", "bn1"),
        # The first stage does not expand; of two rules for a leaf the first holds.
        *timm_block_without_expansion("stage_0_block_{}", "blocks.0.{}"),
        *timm_block("stage_{}_block_{}", "blocks.{}.{}"),
        *conv_norm("head", "conv_head", "bn2"),
        *torch_linear("head", "classifier"),
    ),
    ignored=_COUNTER,
)


def _torchvision_stages() -> list[Rule]:
    parts = ("depthwise", "squeeze_excite", "project")
    rules = torchvision_block("stage_0_block_{}", "features.1.{}", parts)
    for i in range(1, 7):
        rules += torchvision_block(
            f"stage_{i}_block_{{}}", f"features.{i + 1}.{{}}", ("expand", *parts)
        )
    return rules


TORCHVISION = Naming(
    "torchvision efficientnet",
    (
        *conv_norm("stem", "features.0.0", "features.0.1"),
        *_torchvision_stages(),
        *conv_norm("head", "features.8.0", "features.8.1"),
        *torch_linear("head", "classifier.1"),
    ),
    ignored=_COUNTER,
)

NAMINGS = (TIMM, TORCHVISION)
