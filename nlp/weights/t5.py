"""T5 in the files of Hugging Face."""

from training.weight_naming import Naming, Rule, same, torch_linear, torch_norm

_PROJECTIONS = {"query": "q", "key": "k", "value": "v"}
_IGNORED = (
    # The embedding once more, in files that keep what is shared twice.
    r"(encoder|decoder)\.embed_tokens\.weight",
    # Nothing reads it; the first files have it.
    r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",
)


def _attention(ours: str, theirs: str, kind: str) -> list[Rule]:
    """An attention and the norm before it."""
    return [
        *torch_norm(f"{ours}_norm", f"{theirs}.layer_norm"),
        *(
            rule
            for name, projection in _PROJECTIONS.items()
            for rule in torch_linear(f"{ours}/{name}", f"{theirs}.{kind}.{projection}")
        ),
        *torch_linear(f"{ours}/out", f"{theirs}.{kind}.o", in_axes=2),
    ]


def _stack(name: str, mlp_layer: int, mlp: dict[str, str]) -> list[Rule]:
    """A stack whose layers number their MLP so."""
    block, layer = f"{name}/block_{{}}", f"{name}.block.{{}}.layer"
    dense = f"{layer}.{mlp_layer}.DenseReluDense"
    return [
        *same(
            f"{name}_position_bias/embedding",
            f"{name}.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        ),
        *_attention(f"{block}/attention", f"{layer}.0", "SelfAttention"),
        *_attention(f"{block}/cross_attention", f"{layer}.1", "EncDecAttention"),
        *torch_norm(f"{block}/mlp_norm", f"{layer}.{mlp_layer}.layer_norm"),
        *(
            rule
            for ours, theirs in {**mlp, "down": "wo"}.items()
            for rule in torch_linear(f"{block}/mlp/{ours}", f"{dense}.{theirs}")
        ),
        *torch_norm(f"{name}/norm", f"{name}.final_layer_norm"),
    ]


def _hugging_face(name: str, mlp: dict[str, str], *ignored: str) -> Naming:
    return Naming(
        name,
        (
            *same("embedding/embedding", "shared.weight"),
            *_stack("encoder", 1, mlp),
            *_stack("decoder", 2, mlp),
            *torch_linear("head", "lm_head"),
        ),
        ignored=(*_IGNORED, *ignored),
    )


NAMINGS = (
    # Version 1.0 is tied: its head, if a file has one, is the embedding again.
    _hugging_face("hugging_face_t5", {"up": "wi"}, r"lm_head\.weight"),
    _hugging_face("hugging_face_t5_gated", {"gate": "wi_0", "up": "wi_1"}),
)
