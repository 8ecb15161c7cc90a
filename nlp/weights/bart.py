"""BART in the files of Hugging Face."""

import dataclasses

import numpy as np

from training.weight_naming import (
    Layout,
    Naming,
    Rule,
    Shape,
    same,
    torch_linear,
    torch_norm,
)

_PROJECTIONS = {"query": "q_proj", "key": "k_proj", "value": "v_proj"}
# The embedding once more under other names, in files that keep what is shared twice.
TIED = r"model\.(encoder|decoder)\.embed_tokens\.weight|lm_head\.weight"


@dataclasses.dataclass(frozen=True)
class _Row(Layout):
    """A vector here, a matrix of one row there."""

    def theirs(self, ours: Shape) -> Shape:
        return (1, *ours)

    def load(self, tensor: np.ndarray, ours: Shape) -> np.ndarray:
        return tensor.reshape(ours)


def _attention(ours: str, theirs: str) -> list[Rule]:
    """An attention and the norm after it."""
    return [
        *(
            rule
            for name, projection in _PROJECTIONS.items()
            for rule in torch_linear(f"{ours}/{name}", f"{theirs}.{projection}")
        ),
        *torch_linear(f"{ours}/out", f"{theirs}.out_proj", in_axes=2),
        *torch_norm(f"{ours}_norm", f"{theirs}_layer_norm"),
    ]


def _stack(name: str) -> list[Rule]:
    block, layer = f"{name}/block_{{}}", f"model.{name}.layers.{{}}"
    return [
        *_attention(f"{block}/attention", f"{layer}.self_attn"),
        *_attention(f"{block}/cross_attention", f"{layer}.encoder_attn"),
        *torch_norm(f"{block}/mlp_norm", f"{layer}.final_layer_norm"),
        *torch_linear(f"{block}/mlp/up", f"{layer}.fc1"),
        *torch_linear(f"{block}/mlp/down", f"{layer}.fc2"),
    ]


def shared_rules() -> list[Rule]:
    """What BART's and Marian's files have in common: all but positions and their norms."""
    return [
        *same("embedding/embedding", "model.shared.weight"),
        Rule("params/head_bias", "final_logits_bias", _Row()),
        *_stack("encoder"),
        *_stack("decoder"),
    ]


def _positions(name: str) -> list[Rule]:
    return [
        *same(f"{name}_positions/embedding", f"model.{name}.embed_positions.weight"),
        *torch_norm(f"{name}_embedding_norm", f"model.{name}.layernorm_embedding"),
    ]


NAMINGS = (
    Naming(
        "hugging_face_bart",
        (*shared_rules(), *_positions("encoder"), *_positions("decoder")),
        ignored=(TIED,),
    ),
)
