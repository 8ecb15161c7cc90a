"""MAE in the files of its authors and of Hugging Face.

The fixed sin-cos tables that these files carry are computed here and not read.
"""

from training.weight_naming import (
    Naming,
    Rule,
    same,
    torch_conv,
    torch_linear,
    torch_norm,
)
from vision.weights import vit

_BLOCK = "backbone/encoder/block_{}"
_DECODER_BLOCK = "decoder/block_{}"

MAE = Naming(
    "mae",
    (
        *same("backbone/class_token", "cls_token"),
        *torch_conv("backbone/patch_embedding", "patch_embed.proj"),
        *vit.timm_block(_BLOCK, "blocks.{}"),
        *torch_norm("backbone/encoder/norm", "norm"),
        *torch_linear("decoder_embedding", "decoder_embed"),
        *same("mask_token", "mask_token"),
        *vit.timm_block(_DECODER_BLOCK, "decoder_blocks.{}"),
        *torch_norm("decoder/norm", "decoder_norm"),
        *torch_linear("prediction", "decoder_pred"),
    ),
    ignored=("pos_embed", "decoder_pos_embed"),
    prefixes=("model.", "module."),
)


def _hugging_face(name: str, block: str, names: dict[str, str]) -> Naming:
    decoder_block = "decoder.decoder_layers.{}"
    rules: list[Rule] = [
        *same("backbone/class_token", "embeddings.cls_token"),
        *torch_conv(
            "backbone/patch_embedding", "embeddings.patch_embeddings.projection"
        ),
        *vit.hugging_face_block(_BLOCK, block, names),
        *torch_norm("backbone/encoder/norm", "layernorm"),
        *torch_linear("decoder_embedding", "decoder.decoder_embed"),
        *same("mask_token", "decoder.mask_token"),
        *vit.hugging_face_block(_DECODER_BLOCK, decoder_block, names),
        *torch_norm("decoder/norm", "decoder.decoder_norm"),
        *torch_linear("prediction", "decoder.decoder_pred"),
    ]
    return Naming(
        name,
        tuple(rules),
        ignored=("embeddings.position_embeddings", "decoder.decoder_pos_embed"),
        prefixes=("vit.",),
    )


HUGGING_FACE = _hugging_face(
    "hugging_face_mae", "encoder.layer.{}", vit.HUGGING_FACE_BLOCK
)
HUGGING_FACE_5 = _hugging_face(
    "hugging_face_mae_5", "layers.{}", vit.HUGGING_FACE_5_BLOCK
)

NAMINGS = (MAE, HUGGING_FACE, HUGGING_FACE_5)
