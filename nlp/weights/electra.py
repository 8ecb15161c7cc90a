"""Electra in the files of Hugging Face, which hold one of its halves each."""

from nlp.weights.bert import block, embeddings
from training.weight_naming import Naming, same, torch_linear, torch_norm


def _half(half: str) -> list:
    return [
        *embeddings("embeddings", "embeddings"),
        *torch_linear(f"{half}_projection", "embeddings_project"),
        *block(f"{half}/block_{{}}", "encoder.layer.{}"),
    ]


_IGNORED = (r"embeddings\.position_ids",)

DISCRIMINATOR = Naming(
    "hugging_face_electra_discriminator",
    (
        *_half("discriminator"),
        *torch_linear("discriminator_dense", "discriminator_predictions.dense"),
        *torch_linear(
            "discriminator_head", "discriminator_predictions.dense_prediction"
        ),
    ),
    ignored=_IGNORED,
    prefixes=("electra.",),
)
GENERATOR = Naming(
    "hugging_face_electra_generator",
    (
        *_half("generator"),
        *torch_linear("generator_head/dense", "generator_predictions.dense"),
        *torch_norm("generator_head/norm", "generator_predictions.LayerNorm"),
        *same("generator_head/bias", "generator_lm_head.bias"),
    ),
    ignored=(*_IGNORED, r"generator_lm_head\.weight"),
    prefixes=("electra.",),
)

NAMINGS = (DISCRIMINATOR, GENERATOR)
