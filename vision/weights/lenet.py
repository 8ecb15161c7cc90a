"""The small `Net` of PyTorch's introductory example."""

from training.weight_naming import Naming, torch_conv, torch_linear

PYTORCH_EXAMPLE = Naming(
    "pytorch example net",
    (
        *torch_conv("conv_0", "conv1"),
        *torch_conv("conv_1", "conv2"),
        *torch_linear("dense", "fc1"),
        *torch_linear("head", "fc2"),
    ),
)

NAMINGS = (PYTORCH_EXAMPLE,)
