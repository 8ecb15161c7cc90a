"""GoogLeNet in torchvision's files."""

from training.weight_naming import Naming, Rule, torch_linear
from vision.weights.rules import conv_norm

BLOCKS = ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")


def _inception(ours: str, theirs: str) -> list[Rule]:
    return [
        *conv_norm(f"{ours}/one", f"{theirs}.branch1"),
        *conv_norm(f"{ours}/small_reduce", f"{theirs}.branch2.0"),
        *conv_norm(f"{ours}/small", f"{theirs}.branch2.1"),
        *conv_norm(f"{ours}/large_reduce", f"{theirs}.branch3.0"),
        *conv_norm(f"{ours}/large", f"{theirs}.branch3.1"),
        *conv_norm(f"{ours}/pool_project", f"{theirs}.branch4.1"),
    ]


def _auxiliary(ours: str, theirs: str) -> list[Rule]:
    return [
        *conv_norm(f"{ours}/conv", f"{theirs}.conv"),
        *torch_linear(f"{ours}/dense", f"{theirs}.fc1"),
        *torch_linear(f"{ours}/head", f"{theirs}.fc2"),
    ]


TORCHVISION = Naming(
    "torchvision googlenet",
    (
        *conv_norm("conv_0", "conv1"),
        *conv_norm("conv_1", "conv2"),
        *conv_norm("conv_2", "conv3"),
        *(
            rule
            for block in BLOCKS
            for rule in _inception(f"inception_{block}", f"inception{block}")
        ),
        *_auxiliary("auxiliary_0", "aux1"),
        *_auxiliary("auxiliary_1", "aux2"),
        *torch_linear("head", "fc"),
    ),
    # A counter that only torch's cumulative average reads.
    ignored=(r".*\.num_batches_tracked",),
)

NAMINGS = (TORCHVISION,)
