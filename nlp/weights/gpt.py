"""GPT in the files of Hugging Face's GPT-2."""

from training.weight_naming import (
    Flat,
    Linear,
    Matrix,
    Naming,
    Part,
    Rule,
    same,
    torch_norm,
)

_BLOCK = "encoder/block_{}"


def _matrix(ours: str, theirs: str, *, in_axes: int = 1) -> list[Rule]:
    return [
        Rule(f"params/{ours}/kernel", f"{theirs}.weight", Matrix(in_axes)),
        Rule(f"params/{ours}/bias", f"{theirs}.bias", Flat()),
    ]


def _fused(ours: str, theirs: str) -> list[Rule]:
    """Query, key and value, side by side in one matrix."""
    return [
        rule
        for i, name in enumerate(("query", "key", "value"))
        for rule in (
            Rule(
                f"params/{ours}/{name}/kernel",
                f"{theirs}.weight",
                Part(i, 3, Matrix(), axis=1),
            ),
            Rule(f"params/{ours}/{name}/bias", f"{theirs}.bias", Part(i, 3, Flat())),
        )
    ]


GPT2 = Naming(
    "hugging_face_gpt2",
    (
        *same("token_embedding/embedding", "wte.weight"),
        *same("position_embedding/embedding", "wpe.weight"),
        *torch_norm(f"{_BLOCK}/attention_norm", "h.{}.ln_1"),
        *_fused(f"{_BLOCK}/attention", "h.{}.attn.c_attn"),
        *_matrix(f"{_BLOCK}/attention/out", "h.{}.attn.c_proj", in_axes=2),
        *torch_norm(f"{_BLOCK}/mlp_norm", "h.{}.ln_2"),
        *_matrix(f"{_BLOCK}/mlp/up", "h.{}.mlp.c_fc"),
        *_matrix(f"{_BLOCK}/mlp/down", "h.{}.mlp.c_proj"),
        *torch_norm("encoder/norm", "ln_f"),
        Rule("params/head/kernel", "lm_head.weight", Linear()),
    ),
    # The embedding once more, where the head is tied; old files hold the causal mask.
    ignored=(r"lm_head\.weight", r"h\.\d+\.attn\.(bias|masked_bias)"),
    prefixes=("transformer.",),
)

NAMINGS = (GPT2,)
