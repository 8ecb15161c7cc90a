"""ConvNeXt in the files of timm, of its authors and of torchvision."""

from training.weight_naming import (
    Naming,
    Rule,
    same,
    torch_conv,
    torch_linear,
    torch_norm,
)
from vision.weights.rules import Trailing

_BLOCK = "stage_{}_block_{}"


def _block(theirs: str, depthwise: str, up: str, down: str) -> list[Rule]:
    return [
        *same(f"{_BLOCK}/scale", f"{theirs}.gamma"),
        *torch_conv(f"{_BLOCK}/depthwise_conv", f"{theirs}.{depthwise}"),
        *torch_norm(f"{_BLOCK}/norm", f"{theirs}.norm"),
        *torch_linear(f"{_BLOCK}/mlp/up", f"{theirs}.{up}"),
        *torch_linear(f"{_BLOCK}/mlp/down", f"{theirs}.{down}"),
    ]


TIMM = Naming(
    "timm convnext",
    (
        *torch_conv("stem_conv", "stem.0"),
        *torch_norm("stem_norm", "stem.1"),
        *torch_norm("downsample_{}_norm", "stages.{}.downsample.0"),
        *torch_conv("downsample_{}_conv", "stages.{}.downsample.1"),
        *_block("stages.{}.blocks.{}", "conv_dw", "mlp.fc1", "mlp.fc2"),
        *torch_norm("norm", "head.norm"),
        *torch_linear("head", "head.fc"),
    ),
)

FACEBOOK = Naming(
    "facebook convnext",
    (
        *torch_conv("stem_conv", "downsample_layers.0.0"),
        *torch_norm("stem_norm", "downsample_layers.0.1"),
        *torch_norm("downsample_{}_norm", "downsample_layers.{}.0"),
        *torch_conv("downsample_{}_conv", "downsample_layers.{}.1"),
        *_block("stages.{}.{}", "dwconv", "pwconv1", "pwconv2"),
        *torch_norm("norm", "norm"),
        *torch_linear("head", "head"),
    ),
    prefixes=("model.",),
)


def _torchvision() -> Naming:
    """Stages and downsamplings take turns in one list: features.1, .2, .3, ..."""
    rules = [
        *torch_conv("stem_conv", "features.0.0"),
        *torch_norm("stem_norm", "features.0.1"),
        *torch_norm("norm", "classifier.0"),
        *torch_linear("head", "classifier.2"),
    ]
    for i in range(4):
        ours, theirs = f"stage_{i}_block_{{}}", f"features.{2 * i + 1}.{{}}"
        if i > 0:
            rules += torch_norm(f"downsample_{i}_norm", f"features.{2 * i}.0")
            rules += torch_conv(f"downsample_{i}_conv", f"features.{2 * i}.1")
        rules += [
            *torch_conv(f"{ours}/depthwise_conv", f"{theirs}.block.0"),
            *torch_norm(f"{ours}/norm", f"{theirs}.block.2"),
            *torch_linear(f"{ours}/mlp/up", f"{theirs}.block.3"),
            *torch_linear(f"{ours}/mlp/down", f"{theirs}.block.5"),
            Rule(f"params/{ours}/scale", f"{theirs}.layer_scale", Trailing(2)),
        ]
    return Naming("torchvision convnext", tuple(rules))


TORCHVISION = _torchvision()

NAMINGS = (TIMM, FACEBOOK, TORCHVISION)
