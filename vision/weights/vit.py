"""ViT in the files of timm, Hugging Face, Google's vision_transformer and big_vision."""

from training.weight_naming import (
    Layout,
    Naming,
    Rule,
    flax_dense,
    flax_norm,
    same,
    torch_conv,
    torch_fused,
    torch_linear,
    torch_norm,
)
from vision.weights.bit import google_stem, timm_blocks
from vision.weights.rules import Leading

_BLOCK = "encoder/block_{}"
_QKV = ("query", "key", "value")


def timm_block(ours: str, theirs: str) -> list[Rule]:
    """A block of timm's Transformers, and of MAE's authors'."""
    return [
        *torch_norm(f"{ours}/attention_norm", f"{theirs}.norm1"),
        *torch_fused(
            [f"{ours}/attention/{name}" for name in _QKV], f"{theirs}.attn.qkv"
        ),
        *torch_linear(f"{ours}/attention/out", f"{theirs}.attn.proj", in_axes=2),
        *torch_norm(f"{ours}/mlp_norm", f"{theirs}.norm2"),
        *torch_linear(f"{ours}/mlp/up", f"{theirs}.mlp.fc1"),
        *torch_linear(f"{ours}/mlp/down", f"{theirs}.mlp.fc2"),
    ]


def _timm_stem() -> list[Rule]:
    """The residual network in front of a hybrid's patches of one pixel."""
    block, theirs = "stem/stage_{}_block_{}", "patch_embed.backbone.stages.{}.blocks.{}"
    return [
        *torch_conv("stem/stem_conv", "patch_embed.backbone.stem.conv"),
        *torch_norm("stem/stem_norm", "patch_embed.backbone.stem.norm"),
        *timm_blocks(block, theirs),
        *torch_norm(f"{block}/shortcut_norm", f"{theirs}.downsample.norm"),
    ]


TIMM = Naming(
    "timm",
    (
        *_timm_stem(),
        *same("class_token", "cls_token"),
        *same("position_embedding", "pos_embed"),
        *torch_conv("patch_embedding", "patch_embed.proj"),
        *timm_block(_BLOCK, "blocks.{}"),
        *same(f"{_BLOCK}/attention_scale", "blocks.{}.ls1.gamma"),
        *same(f"{_BLOCK}/mlp_scale", "blocks.{}.ls2.gamma"),
        *torch_norm("encoder/norm", "norm"),
        *torch_linear("head", "head"),
    ),
)


# A block as published files name its tensors, and as transformers 5 does in memory.
HUGGING_FACE_BLOCK = {
    "query": "attention.attention.query",
    "key": "attention.attention.key",
    "value": "attention.attention.value",
    "out": "attention.output.dense",
    "up": "intermediate.dense",
    "down": "output.dense",
}
HUGGING_FACE_5_BLOCK = {
    "query": "attention.q_proj",
    "key": "attention.k_proj",
    "value": "attention.v_proj",
    "out": "attention.o_proj",
    "up": "mlp.fc1",
    "down": "mlp.fc2",
}


def hugging_face_block(ours: str, theirs: str, names: dict[str, str]) -> list[Rule]:
    """A block of Hugging Face's ViT and ViTMAE; `names` is one of the two above."""
    return [
        *torch_norm(f"{ours}/attention_norm", f"{theirs}.layernorm_before"),
        *(
            rule
            for name in _QKV
            for rule in torch_linear(
                f"{ours}/attention/{name}", f"{theirs}.{names[name]}"
            )
        ),
        *torch_linear(f"{ours}/attention/out", f"{theirs}.{names['out']}", in_axes=2),
        *torch_norm(f"{ours}/mlp_norm", f"{theirs}.layernorm_after"),
        *torch_linear(f"{ours}/mlp/up", f"{theirs}.{names['up']}"),
        *torch_linear(f"{ours}/mlp/down", f"{theirs}.{names['down']}"),
    ]


def _hugging_face(name: str, block: str, names: dict[str, str]) -> Naming:
    return Naming(
        name,
        (
            *same("class_token", "embeddings.cls_token"),
            *same("position_embedding", "embeddings.position_embeddings"),
            *torch_conv("patch_embedding", "embeddings.patch_embeddings.projection"),
            *hugging_face_block(_BLOCK, block, names),
            *torch_norm("encoder/norm", "layernorm"),
            *torch_linear("head", "classifier"),
        ),
        # ViTModel's tanh pooler; its classifiers read the class token without it.
        ignored=(r"pooler\.dense\.(weight|bias)",),
        prefixes=("vit.",),
    )


HUGGING_FACE = _hugging_face("hugging_face", "encoder.layer.{}", HUGGING_FACE_BLOCK)
HUGGING_FACE_5 = _hugging_face("hugging_face_5", "layers.{}", HUGGING_FACE_5_BLOCK)


def _flax_block(ours: str, theirs: str, *, attention: int, norm: int, mlp: int):
    """A block whose second norm, attention and MLP carry these numbers in their names."""
    attention_name = f"{theirs}/MultiHeadDotProductAttention_{attention}"
    return [
        *flax_norm(f"{ours}/attention_norm", f"{theirs}/LayerNorm_0"),
        *(
            rule
            for name in (*_QKV, "out")
            for rule in flax_dense(
                f"{ours}/attention/{name}", f"{attention_name}/{name}"
            )
        ),
        *flax_norm(f"{ours}/mlp_norm", f"{theirs}/LayerNorm_{norm}"),
        *flax_dense(f"{ours}/mlp/up", f"{theirs}/MlpBlock_{mlp}/Dense_0"),
        *flax_dense(f"{ours}/mlp/down", f"{theirs}/MlpBlock_{mlp}/Dense_1"),
    ]


def _google(name: str, positions: str, stem_norm: Layout, **numbers: int) -> Naming:
    return Naming(
        name,
        (
            *google_stem("stem", stem_norm),
            *same("class_token", "cls"),
            *same("position_embedding", positions),
            *flax_dense("patch_embedding", "embedding"),
            *_flax_block(_BLOCK, "Transformer/encoderblock_{}", **numbers),
            *flax_norm("encoder/norm", "Transformer/encoder_norm"),
            *_map_head(),
            *flax_dense("representation", "pre_logits"),
            *flax_dense("head", "head"),
        ),
        prefixes=("params/", "opt/target/"),
    )


def _map_head() -> list[Rule]:
    attention = "MAPHead_0/MultiHeadDotProductAttention_0"
    return [
        *same("attention_pool/probe", "MAPHead_0/probe"),
        *(
            rule
            for name in (*_QKV, "out")
            for rule in flax_dense(
                f"attention_pool/attention/{name}", f"{attention}/{name}"
            )
        ),
        *flax_norm("attention_pool/mlp_norm", "MAPHead_0/LayerNorm_0"),
        *flax_dense("attention_pool/mlp/up", "MAPHead_0/MlpBlock_0/Dense_0"),
        *flax_dense("attention_pool/mlp/down", "MAPHead_0/MlpBlock_0/Dense_1"),
    ]


_POSITIONS = "Transformer/posembed_input/pos_embedding"
# Today's code counts each kind of layer; the released files were written when all the
# layers of a block shared one counter, and GroupNorm's parameters had four axes.
GOOGLE = _google("google", _POSITIONS, Layout(), attention=0, norm=1, mlp=0)
GOOGLE_RELEASED = _google(
    "google_released", _POSITIONS, Leading(3), attention=1, norm=2, mlp=3
)
BIG_VISION = _google(
    "big_vision", "pos_embedding", Layout(), attention=0, norm=1, mlp=0
)

NAMINGS = (
    TIMM,
    HUGGING_FACE,
    HUGGING_FACE_5,
    GOOGLE_RELEASED,
    GOOGLE,
    BIG_VISION,
)
