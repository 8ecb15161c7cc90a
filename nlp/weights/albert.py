"""ALBERT, which is BERT with shared layers, in the files of Hugging Face."""

from nlp.weights.bert import embeddings
from training.weight_naming import Naming, same, torch_linear, torch_norm

_OURS = "encoder/block_0"
_THEIRS = "encoder.albert_layer_groups.0.albert_layers.0"

ALBERT = Naming(
    "hugging_face_albert",
    (
        *embeddings("embeddings", "embeddings"),
        *torch_linear("embeddings/projection", "encoder.embedding_hidden_mapping_in"),
        *(
            rule
            for name in ("query", "key", "value")
            for rule in torch_linear(
                f"{_OURS}/attention/{name}", f"{_THEIRS}.attention.{name}"
            )
        ),
        *torch_linear(
            f"{_OURS}/attention/out", f"{_THEIRS}.attention.dense", in_axes=2
        ),
        *torch_norm(f"{_OURS}/attention_norm", f"{_THEIRS}.attention.LayerNorm"),
        *torch_linear(f"{_OURS}/mlp/up", f"{_THEIRS}.ffn"),
        *torch_linear(f"{_OURS}/mlp/down", f"{_THEIRS}.ffn_output"),
        *torch_norm(f"{_OURS}/mlp_norm", f"{_THEIRS}.full_layer_layer_norm"),
        *torch_linear("masked_head/dense", "predictions.dense"),
        *torch_norm("masked_head/norm", "predictions.LayerNorm"),
        *same("masked_head/bias", "predictions.bias"),
        *torch_linear("pooler", "pooler"),
        *torch_linear("next_head", "sop_classifier.classifier"),
    ),
    ignored=(r"predictions\.decoder\.(weight|bias)", r"embeddings\.position_ids"),
    prefixes=("albert.",),
)

NAMINGS = (ALBERT,)
