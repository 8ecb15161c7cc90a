"""AlexNet in one stream, in torchvision's files."""

from training.weight_naming import Naming, torch_conv, torch_linear

TORCHVISION = Naming(
    "torchvision alexnet",
    (
        *torch_conv("conv_0", "features.0"),
        *torch_conv("conv_1", "features.3"),
        *torch_conv("conv_2", "features.6"),
        *torch_conv("conv_3", "features.8"),
        *torch_conv("conv_4", "features.10"),
        *torch_linear("dense_0", "classifier.1"),
        *torch_linear("dense_1", "classifier.4"),
        *torch_linear("head", "classifier.6"),
    ),
)

NAMINGS = (TORCHVISION,)
