"""ConvNeXt in the files of timm and of its authors."""

from training.weight_naming import (
    Naming,
    Rule,
    same,
    torch_conv,
    torch_linear,
    torch_norm,
)

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

NAMINGS = (TIMM, FACEBOOK)
