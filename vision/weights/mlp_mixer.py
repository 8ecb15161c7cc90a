"""MLP-Mixer in the files of timm and of Google's vision_transformer repository."""

from training.weight_naming import (
    Naming,
    flax_dense,
    flax_norm,
    torch_conv,
    torch_linear,
    torch_norm,
)

TIMM = Naming(
    "timm",
    (
        *torch_conv("patch_embedding", "stem.proj"),
        *torch_norm("block_{}/token_norm", "blocks.{}.norm1"),
        *torch_linear("block_{}/token_mixing/up", "blocks.{}.mlp_tokens.fc1"),
        *torch_linear("block_{}/token_mixing/down", "blocks.{}.mlp_tokens.fc2"),
        *torch_norm("block_{}/channel_norm", "blocks.{}.norm2"),
        *torch_linear("block_{}/channel_mixing/up", "blocks.{}.mlp_channels.fc1"),
        *torch_linear("block_{}/channel_mixing/down", "blocks.{}.mlp_channels.fc2"),
        *torch_norm("norm", "norm"),
        *torch_linear("head", "head"),
    ),
)

GOOGLE = Naming(
    "google",
    (
        *flax_dense("patch_embedding", "stem"),
        *flax_norm("block_{}/token_norm", "MixerBlock_{}/LayerNorm_0"),
        *flax_dense("block_{}/token_mixing/up", "MixerBlock_{}/token_mixing/Dense_0"),
        *flax_dense("block_{}/token_mixing/down", "MixerBlock_{}/token_mixing/Dense_1"),
        *flax_norm("block_{}/channel_norm", "MixerBlock_{}/LayerNorm_1"),
        *flax_dense(
            "block_{}/channel_mixing/up", "MixerBlock_{}/channel_mixing/Dense_0"
        ),
        *flax_dense(
            "block_{}/channel_mixing/down", "MixerBlock_{}/channel_mixing/Dense_1"
        ),
        *flax_norm("norm", "pre_head_layer_norm"),
        *flax_dense("head", "head"),
    ),
)

NAMINGS = (TIMM, GOOGLE)
