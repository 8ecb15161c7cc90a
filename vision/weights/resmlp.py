"""ResMLP in the files of timm."""

from training.weight_naming import Naming, Rule, same, torch_conv, torch_linear

_OURS, _THEIRS = "block_{}", "blocks.{}"


def _affine(ours: str, theirs: str) -> list[Rule]:
    return [
        *same(f"{ours}/scale", f"{theirs}.alpha"),
        *same(f"{ours}/bias", f"{theirs}.beta"),
    ]


TIMM = Naming(
    "timm resmlp",
    (
        *torch_conv("patch_embedding", "stem.proj"),
        *_affine(f"{_OURS}/token_affine", f"{_THEIRS}.norm1"),
        *torch_linear(f"{_OURS}/token_mixing", f"{_THEIRS}.linear_tokens"),
        *same(f"{_OURS}/token_scale", f"{_THEIRS}.ls1"),
        *_affine(f"{_OURS}/channel_affine", f"{_THEIRS}.norm2"),
        *torch_linear(f"{_OURS}/channel_mixing/up", f"{_THEIRS}.mlp_channels.fc1"),
        *torch_linear(f"{_OURS}/channel_mixing/down", f"{_THEIRS}.mlp_channels.fc2"),
        *same(f"{_OURS}/channel_scale", f"{_THEIRS}.ls2"),
        *_affine("affine", "norm"),
        *torch_linear("head", "head"),
    ),
)

NAMINGS = (TIMM,)
