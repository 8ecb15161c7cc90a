"""Distilled DeiT in the files of timm (whose names are its authors') and Hugging Face."""

from training.weight_naming import Naming, same, torch_conv, torch_linear, torch_norm
from vision.weights import vit

_BLOCK = "encoder/block_{}"

TIMM = Naming(
    "timm deit",
    (
        *same("class_token", "cls_token"),
        *same("distillation_token", "dist_token"),
        *same("position_embedding", "pos_embed"),
        *torch_conv("patch_embedding", "patch_embed.proj"),
        *vit.timm_block(_BLOCK, "blocks.{}"),
        *torch_norm("encoder/norm", "norm"),
        *torch_linear("head", "head"),
        *torch_linear("distillation_head", "head_dist"),
    ),
)


def _hugging_face(name: str, block: str, names: dict[str, str]) -> Naming:
    return Naming(
        name,
        (
            *same("class_token", "embeddings.cls_token"),
            *same("distillation_token", "embeddings.distillation_token"),
            *same("position_embedding", "embeddings.position_embeddings"),
            *torch_conv("patch_embedding", "embeddings.patch_embeddings.projection"),
            *vit.hugging_face_block(_BLOCK, block, names),
            *torch_norm("encoder/norm", "layernorm"),
            *torch_linear("head", "cls_classifier"),
            *torch_linear("distillation_head", "distillation_classifier"),
        ),
        # DeiTModel's tanh pooler; the classifiers read the tokens without it.
        ignored=(r"pooler\.dense\.(weight|bias)",),
        prefixes=("deit.",),
    )


HUGGING_FACE = _hugging_face(
    "hugging_face deit", "encoder.layer.{}", vit.HUGGING_FACE_BLOCK
)
HUGGING_FACE_5 = _hugging_face(
    "hugging_face_5 deit", "layers.{}", vit.HUGGING_FACE_5_BLOCK
)

NAMINGS = (TIMM, HUGGING_FACE, HUGGING_FACE_5)
