"""ConvMixer in the files of timm, whose layers carry their position in nested sequences."""

from training.weight_naming import Naming, torch_batch_norm, torch_conv, torch_linear

TIMM = Naming(
    "timm convmixer",
    (
        *torch_conv("stem_conv", "stem.0"),
        *torch_batch_norm("stem_norm", "stem.2"),
        *torch_conv("block_{}/depthwise_conv", "blocks.{}.0.fn.0"),
        *torch_batch_norm("block_{}/depthwise_norm", "blocks.{}.0.fn.2"),
        *torch_conv("block_{}/pointwise_conv", "blocks.{}.1"),
        *torch_batch_norm("block_{}/pointwise_norm", "blocks.{}.3"),
        *torch_linear("head", "head"),
    ),
    # A counter that only torch's cumulative average reads.
    ignored=(r".*\.num_batches_tracked",),
)

NAMINGS = (TIMM,)
