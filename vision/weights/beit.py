"""BEiT in the files of timm and of Hugging Face, fine-tuned and in pretraining."""

from training.weight_naming import (
    Flat,
    Linear,
    Naming,
    Part,
    Rule,
    same,
    torch_conv,
    torch_linear,
    torch_norm,
)

_BIAS_TABLE = "relative_position_bias_table"
# Which pair of tokens reads which row of the table: computed, not learned.
_IGNORED = (r".*\.relative_position_index",)


def _timm_attention(ours: str, theirs: str) -> list[Rule]:
    """One kernel for query, key and value, and no bias for the key."""
    kernels = [
        Rule(
            f"params/{ours}/{name}/kernel",
            f"{theirs}.qkv.weight",
            Part(i, 3, Linear()),
        )
        for i, name in enumerate(("query", "key", "value"))
    ]
    return [
        *kernels,
        Rule(f"params/{ours}/query/bias", f"{theirs}.q_bias", Flat()),
        Rule(f"params/{ours}/value/bias", f"{theirs}.v_bias", Flat()),
        *torch_linear(f"{ours}/out", f"{theirs}.proj", in_axes=2),
    ]


def _timm(name: str, norm: str) -> Naming:
    """`norm`: timm has two names for it, one for each way of pooling."""
    return Naming(
        name,
        (
            *same("class_token", "cls_token"),
            *same("position_embedding", "pos_embed"),
            *torch_conv("patch_embedding", "patch_embed.proj"),
            *same("position_bias/table", f"rel_pos_bias.{_BIAS_TABLE}"),
            *same("position_bias_{}/table", f"blocks.{{}}.attn.{_BIAS_TABLE}"),
            *torch_norm("block_{}/attention_norm", "blocks.{}.norm1"),
            *_timm_attention("block_{}/attention", "blocks.{}.attn"),
            *same("block_{}/attention_scale", "blocks.{}.gamma_1"),
            *torch_norm("block_{}/mlp_norm", "blocks.{}.norm2"),
            *torch_linear("block_{}/mlp/up", "blocks.{}.mlp.fc1"),
            *torch_linear("block_{}/mlp/down", "blocks.{}.mlp.fc2"),
            *same("block_{}/mlp_scale", "blocks.{}.gamma_2"),
            *torch_norm("norm", norm),
            *torch_linear("head", "head"),
        ),
        ignored=_IGNORED,
    )


TIMM = _timm("timm", "fc_norm")
TIMM_TOKEN = _timm("timm_token", "norm")


def _hugging_face(ours: str, theirs: str, *, new: bool) -> tuple[Rule, ...]:
    """All but norms and heads, as published files name it or (`new`) as transformers 5
    does in memory. `ours` and `theirs` go in front of the names."""
    if new:
        block, shared = f"{theirs}layers.{{}}", "shared_position_bias"
        query, key, value, out, up, down = (
            *(f"{block}.attention.{name}_proj" for name in "qkvo"),
            f"{block}.mlp.fc1",
            f"{block}.mlp.fc2",
        )
        own = f"{block}.relative_position_bias"
    else:
        block, shared = f"{theirs}encoder.layer.{{}}", "encoder.relative_position_bias"
        attention = f"{block}.attention.attention"
        query, key, value, out, up, down = (
            *(f"{attention}.{name}" for name in ("query", "key", "value")),
            f"{block}.attention.output.dense",
            f"{block}.intermediate.dense",
            f"{block}.output.dense",
        )
        own = f"{attention}.relative_position_bias"
    layer, embeddings = f"{ours}block_{{}}", f"{theirs}embeddings"
    return (
        *same(f"{ours}class_token", f"{embeddings}.cls_token"),
        *same(f"{ours}position_embedding", f"{embeddings}.position_embeddings"),
        *torch_conv(
            f"{ours}patch_embedding", f"{embeddings}.patch_embeddings.projection"
        ),
        *same(f"{ours}position_bias/table", f"{theirs}{shared}.{_BIAS_TABLE}"),
        *same(f"{ours}position_bias_{{}}/table", f"{own}.{_BIAS_TABLE}"),
        *torch_norm(f"{layer}/attention_norm", f"{block}.layernorm_before"),
        *torch_linear(f"{layer}/attention/query", query),
        *torch_linear(f"{layer}/attention/key", key),
        *torch_linear(f"{layer}/attention/value", value),
        *torch_linear(f"{layer}/attention/out", out, in_axes=2),
        *same(f"{layer}/attention_scale", f"{block}.lambda_1"),
        *torch_norm(f"{layer}/mlp_norm", f"{block}.layernorm_after"),
        *torch_linear(f"{layer}/mlp/up", up),
        *torch_linear(f"{layer}/mlp/down", down),
        *same(f"{layer}/mlp_scale", f"{block}.lambda_2"),
    )


def _classifier(name: str, norm: str, *, new: bool) -> Naming:
    return Naming(
        name,
        (
            *_hugging_face("", "", new=new),
            *torch_norm("norm", norm),
            *torch_linear("head", "classifier"),
        ),
        ignored=(*_IGNORED, r"embeddings\.mask_token"),
        prefixes=("beit.",),
    )


def _pretraining(name: str, *, last_norm: bool, new: bool) -> Naming:
    """Files of models with mean pooling lack the backbone's norm and have a last one,
    which is our backbone's; those of models without have both."""
    norms = torch_norm("backbone/norm", "layernorm")
    if last_norm:
        norms = torch_norm("backbone/norm", "beit.layernorm")
        norms += torch_norm("norm", "layernorm")
    return Naming(
        name,
        (
            *_hugging_face("backbone/", "beit.", new=new),
            *same("mask_token", "beit.embeddings.mask_token"),
            *norms,
            *torch_linear("head", "lm_head"),
        ),
        ignored=(*_IGNORED, r"beit\.pooler\.layernorm\.(weight|bias)"),
    )


HUGGING_FACE = _classifier("hugging_face", "pooler.layernorm", new=False)
HUGGING_FACE_5 = _classifier("hugging_face_5", "pooler.layernorm", new=True)
HUGGING_FACE_TOKEN = _classifier("hugging_face_token", "layernorm", new=False)
HUGGING_FACE_5_TOKEN = _classifier("hugging_face_5_token", "layernorm", new=True)
PRETRAINING = _pretraining("hugging_face", last_norm=False, new=False)
PRETRAINING_5 = _pretraining("hugging_face_5", last_norm=False, new=True)
PRETRAINING_TWO_NORMS = _pretraining(
    "hugging_face_two_norms", last_norm=True, new=False
)
PRETRAINING_5_TWO_NORMS = _pretraining(
    "hugging_face_5_two_norms", last_norm=True, new=True
)

NAMINGS = (
    TIMM,
    TIMM_TOKEN,
    HUGGING_FACE,
    HUGGING_FACE_5,
    HUGGING_FACE_TOKEN,
    HUGGING_FACE_5_TOKEN,
    PRETRAINING,
    PRETRAINING_5,
    PRETRAINING_TWO_NORMS,
    PRETRAINING_5_TWO_NORMS,
)
