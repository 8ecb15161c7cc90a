"""gMLP in the files of timm."""

from training.weight_naming import Naming, torch_conv, torch_linear, torch_norm

_OURS, _THEIRS = "block_{}", "blocks.{}"

TIMM = Naming(
    "timm gmlp",
    (
        *torch_conv("patch_embedding", "stem.proj"),
        *torch_norm(f"{_OURS}/norm", f"{_THEIRS}.norm"),
        *torch_linear(f"{_OURS}/up", f"{_THEIRS}.mlp_channels.fc1"),
        *torch_norm(f"{_OURS}/gate_norm", f"{_THEIRS}.mlp_channels.gate.norm"),
        *torch_linear(f"{_OURS}/gate", f"{_THEIRS}.mlp_channels.gate.proj"),
        *torch_linear(f"{_OURS}/down", f"{_THEIRS}.mlp_channels.fc2"),
        *torch_norm("norm", "norm"),
        *torch_linear("head", "head"),
    ),
)

NAMINGS = (TIMM,)
