"""Swin in the files of timm, its authors, torchvision and Hugging Face.

timm merges patches at the beginning of a stage, as we do; the others at the end of the one
before, so that their number is one lower. Tables and masks of indices, which some files
carry, are computed here and not read.
"""

from training.weight_naming import (
    Linear,
    Naming,
    Rule,
    same,
    torch_conv,
    torch_fused,
    torch_linear,
    torch_norm,
)

_QKV = ("query", "key", "value")
_IGNORED = (r".*\.(relative_position_index|attn_mask)",)
_STAGES = 4


def _block(ours: str, theirs: str, up: str, down: str) -> list[Rule]:
    """A block of timm's, its authors' and torchvision's Swin."""
    return [
        *torch_norm(f"{ours}/attention_norm", f"{theirs}.norm1"),
        *same(f"{ours}/position_bias", f"{theirs}.attn.relative_position_bias_table"),
        *torch_fused(
            [f"{ours}/attention/{name}" for name in _QKV], f"{theirs}.attn.qkv"
        ),
        *torch_linear(f"{ours}/attention/out", f"{theirs}.attn.proj", in_axes=2),
        *torch_norm(f"{ours}/mlp_norm", f"{theirs}.norm2"),
        *torch_linear(f"{ours}/mlp/up", f"{theirs}.{up}"),
        *torch_linear(f"{ours}/mlp/down", f"{theirs}.{down}"),
    ]


def _merging(ours: str, theirs: str) -> list[Rule]:
    return [
        *torch_norm(f"{ours}/norm", f"{theirs}.norm"),
        Rule(f"params/{ours}/reduction/kernel", f"{theirs}.reduction.weight", Linear()),
    ]


def _swin(name: str, head: str, *, earlier: int) -> Naming:
    """timm's and its authors' names; `earlier` is what merging is numbered below ours."""
    rules = [
        *torch_conv("patch_embedding", "patch_embed.proj"),
        *torch_norm("patch_norm", "patch_embed.norm"),
        *torch_norm("norm", "norm"),
        *torch_linear("head", head),
    ]
    for i in range(_STAGES):
        rules += _block(
            f"stage_{i}_block_{{}}",
            f"layers.{i}.blocks.{{}}",
            "mlp.fc1",
            "mlp.fc2",
        )
        rules += _merging(f"stage_{i}_merging", f"layers.{i - earlier}.downsample")
    return Naming(name, tuple(rules), ignored=_IGNORED)


TIMM = _swin("timm swin", "head.fc", earlier=0)
MICROSOFT = _swin("microsoft swin", "head", earlier=1)


def _torchvision() -> Naming:
    """Stages and mergings take turns in one list: features.1, .2, .3, ..."""
    rules = [
        *torch_conv("patch_embedding", "features.0.0"),
        *torch_norm("patch_norm", "features.0.2"),
        *torch_norm("norm", "norm"),
        *torch_linear("head", "head"),
    ]
    for i in range(_STAGES):
        rules += _block(
            f"stage_{i}_block_{{}}",
            f"features.{2 * i + 1}.{{}}",
            "mlp.0",
            "mlp.3",
        )
        rules += _merging(f"stage_{i}_merging", f"features.{2 * i}")
    return Naming("torchvision swin", tuple(rules), ignored=_IGNORED)


TORCHVISION = _torchvision()


def _hugging_face() -> Naming:
    rules = [
        *torch_conv("patch_embedding", "embeddings.patch_embeddings.projection"),
        *torch_norm("patch_norm", "embeddings.norm"),
        *torch_norm("norm", "layernorm"),
        *torch_linear("head", "classifier"),
    ]
    for i in range(_STAGES):
        ours = f"stage_{i}_block_{{}}"
        theirs = f"encoder.layers.{i}.blocks.{{}}"
        for name in _QKV:
            rules += torch_linear(
                f"{ours}/attention/{name}", f"{theirs}.attention.self.{name}"
            )
        rules += [
            *torch_norm(f"{ours}/attention_norm", f"{theirs}.layernorm_before"),
            *same(
                f"{ours}/position_bias",
                f"{theirs}.attention.self.relative_position_bias_table",
            ),
            *torch_linear(
                f"{ours}/attention/out", f"{theirs}.attention.output.dense", in_axes=2
            ),
            *torch_norm(f"{ours}/mlp_norm", f"{theirs}.layernorm_after"),
            *torch_linear(f"{ours}/mlp/up", f"{theirs}.intermediate.dense"),
            *torch_linear(f"{ours}/mlp/down", f"{theirs}.output.dense"),
            *_merging(f"stage_{i}_merging", f"encoder.layers.{i - 1}.downsample"),
        ]
    return Naming(
        "hugging_face swin", tuple(rules), ignored=_IGNORED, prefixes=("swin.",)
    )


HUGGING_FACE = _hugging_face()

NAMINGS = (TIMM, MICROSOFT, TORCHVISION, HUGGING_FACE)
