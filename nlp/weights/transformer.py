"""Transformer's encoder and decoder in the files of torch's `nn.Transformer`.

That has neither embeddings nor a head: the tables cover a tree of `encoder` and `decoder`.
"""

from training.weight_naming import (
    Naming,
    Rule,
    torch_fused,
    torch_linear,
    torch_norm,
)

_QKV = ("query", "key", "value")


def _attention(ours: str, theirs: str) -> list[Rule]:
    """`nn.MultiheadAttention`, which fuses its three projections under names of their own."""
    fused = torch_fused([f"{ours}/{name}" for name in _QKV], f"{theirs}.in_proj")
    return [
        *(
            Rule(r.ours, r.theirs.replace("in_proj.", "in_proj_"), r.layout)
            for r in fused
        ),
        *torch_linear(f"{ours}/out", f"{theirs}.out_proj", in_axes=2),
    ]


def _stack(ours: str, norms: tuple[str, ...]) -> list[Rule]:
    """A stack whose layers call norm1, norm2, ... what ours call `norms`."""
    block, layer = f"{ours}/block_{{}}", f"{ours}.layers.{{}}"
    return [
        *_attention(f"{block}/attention", f"{layer}.self_attn"),
        *_attention(f"{block}/cross_attention", f"{layer}.multihead_attn"),
        *(
            rule
            for i, norm in enumerate(norms, 1)
            for rule in torch_norm(f"{block}/{norm}", f"{layer}.norm{i}")
        ),
        *torch_linear(f"{block}/mlp/up", f"{layer}.linear1"),
        *torch_linear(f"{block}/mlp/down", f"{layer}.linear2"),
        *torch_norm(f"{ours}/norm", f"{ours}.norm"),
    ]


NAMINGS = (
    Naming(
        "torch_transformer",
        (
            *_stack("encoder", ("attention_norm", "mlp_norm")),
            *_stack("decoder", ("attention_norm", "cross_attention_norm", "mlp_norm")),
        ),
    ),
)
