"""Inception v3 in the files of torchvision and timm, whose names agree; v4 and
Inception-ResNet v2 in timm's.

torchvision's weights want images normalised to -1..1 (mean 0.5, std 0.5), as all three do.
"""

import dataclasses

from training.weight_naming import (
    Naming,
    Rule,
    torch_conv,
    torch_linear,
)
from vision.weights.rules import conv_norm

# A counter that only torch's cumulative average reads.
COUNTERS = r".*\.num_batches_tracked"


def _units(ours: str, theirs: str, names: dict[str, str]) -> list[Rule]:
    return [
        rule
        for mine, other in names.items()
        for rule in conv_norm(f"{ours}/branch_{mine}", f"{theirs}.{other}")
    ]


_V3_A = {
    "0_0": "branch1x1",
    "1_0": "branch5x5_1",
    "1_1": "branch5x5_2",
    "2_0": "branch3x3dbl_1",
    "2_1": "branch3x3dbl_2",
    "2_2": "branch3x3dbl_3",
    "3_1": "branch_pool",
}
_V3_REDUCTION_A = {
    "0_0": "branch3x3",
    "1_0": "branch3x3dbl_1",
    "1_1": "branch3x3dbl_2",
    "1_2": "branch3x3dbl_3",
}
_V3_B = {
    "0_0": "branch1x1",
    **{f"1_{i}": f"branch7x7_{i + 1}" for i in range(3)},
    **{f"2_{i}": f"branch7x7dbl_{i + 1}" for i in range(5)},
    "3_1": "branch_pool",
}
_V3_REDUCTION_B = {
    "0_0": "branch3x3_1",
    "0_1": "branch3x3_2",
    **{f"1_{i}": f"branch7x7x3_{i + 1}" for i in range(4)},
}
_V3_C = {
    "0_0": "branch1x1",
    "1_0": "branch3x3_1",
    "1_1a": "branch3x3_2a",
    "1_1b": "branch3x3_2b",
    "2_0": "branch3x3dbl_1",
    "2_1": "branch3x3dbl_2",
    "2_2a": "branch3x3dbl_3a",
    "2_2b": "branch3x3dbl_3b",
    "3_1": "branch_pool",
}

TORCHVISION_V3 = Naming(
    "torchvision inception_v3",
    (
        *conv_norm("stem_0", "Conv2d_1a_3x3"),
        *conv_norm("stem_1", "Conv2d_2a_3x3"),
        *conv_norm("stem_2", "Conv2d_2b_3x3"),
        *conv_norm("stem_4", "Conv2d_3b_1x1"),
        *conv_norm("stem_5", "Conv2d_4a_3x3"),
        *_units("block_a_0", "Mixed_5b", _V3_A),
        *_units("block_a_1", "Mixed_5c", _V3_A),
        *_units("block_a_2", "Mixed_5d", _V3_A),
        *_units("reduction_a", "Mixed_6a", _V3_REDUCTION_A),
        *_units("block_b_0", "Mixed_6b", _V3_B),
        *_units("block_b_1", "Mixed_6c", _V3_B),
        *_units("block_b_2", "Mixed_6d", _V3_B),
        *_units("block_b_3", "Mixed_6e", _V3_B),
        *_units("reduction_b", "Mixed_7a", _V3_REDUCTION_B),
        *_units("block_c_0", "Mixed_7b", _V3_C),
        *_units("block_c_1", "Mixed_7c", _V3_C),
        *conv_norm("auxiliary_head/conv_0", "AuxLogits.conv0"),
        *conv_norm("auxiliary_head/conv_1", "AuxLogits.conv1"),
        *torch_linear("auxiliary_head/head", "AuxLogits.fc"),
        *torch_linear("head", "fc"),
    ),
    # Published files hold the auxiliary head, which a model may do without.
    ignored=(COUNTERS, r"AuxLogits\..*"),
)
TIMM_V3 = dataclasses.replace(TORCHVISION_V3, name="timm inception_v3")


def _branches(ours: str, theirs: str) -> list[Rule]:
    """timm's names: a lone first convolution `branch0`, in a sequence `branch<i>.<j>`."""
    return [
        *conv_norm(f"{ours}/branch_0_0", f"{theirs}.branch0"),
        *_sequences(ours, theirs),
    ]


def _sequences(ours: str, theirs: str) -> list[Rule]:
    return conv_norm(f"{ours}/branch_{{}}_{{}}", f"{theirs}.branch{{}}.{{}}")


def _v4_c(ours: str, theirs: str) -> list[Rule]:
    return [
        *conv_norm(f"{ours}/branch_0_0", f"{theirs}.branch0"),
        *conv_norm(f"{ours}/branch_3_1", f"{theirs}.branch3.1"),
        *conv_norm(f"{ours}/branch_{{}}_{{}}", f"{theirs}.branch{{}}_{{}}"),
        *conv_norm(f"{ours}/branch_{{}}_{{}}a", f"{theirs}.branch{{}}_{{}}a"),
        *conv_norm(f"{ours}/branch_{{}}_{{}}b", f"{theirs}.branch{{}}_{{}}b"),
    ]


TIMM_V4 = Naming(
    "timm inception_v4",
    (
        *conv_norm("stem_{}", "features.{}"),
        *conv_norm("stem_block_0/branch_1_0", "features.3.conv"),
        *_sequences("stem_block_1", "features.4"),
        *conv_norm("stem_block_2/branch_0_0", "features.5.conv"),
        *_branches("block_a_0", "features.6"),
        *_branches("block_a_1", "features.7"),
        *_branches("block_a_2", "features.8"),
        *_branches("block_a_3", "features.9"),
        *_branches("reduction_a", "features.10"),
        *_branches("block_b_0", "features.11"),
        *_branches("block_b_1", "features.12"),
        *_branches("block_b_2", "features.13"),
        *_branches("block_b_3", "features.14"),
        *_branches("block_b_4", "features.15"),
        *_branches("block_b_5", "features.16"),
        *_branches("block_b_6", "features.17"),
        *_sequences("reduction_b", "features.18"),
        *_v4_c("block_c_0", "features.19"),
        *_v4_c("block_c_1", "features.20"),
        *_v4_c("block_c_2", "features.21"),
        *torch_linear("head", "last_linear"),
    ),
    ignored=(COUNTERS,),
)


def _residual(ours: str, theirs: str) -> list[Rule]:
    return [
        *_branches(ours, theirs),
        *torch_conv(f"{ours}/residual", f"{theirs}.conv2d"),
    ]


TIMM_RESNET_V2 = Naming(
    "timm inception_resnet_v2",
    (
        *conv_norm("stem_0", "conv2d_1a"),
        *conv_norm("stem_1", "conv2d_2a"),
        *conv_norm("stem_2", "conv2d_2b"),
        *conv_norm("stem_4", "conv2d_3b"),
        *conv_norm("stem_5", "conv2d_4a"),
        *_branches("mixed", "mixed_5b"),
        *_residual("block_a_{}", "repeat.{}"),
        *_branches("reduction_a", "mixed_6a"),
        *_residual("block_b_{}", "repeat_1.{}"),
        *_sequences("reduction_b", "mixed_7a"),
        *_residual("block_c_{}", "repeat_2.{}"),
        *_residual("last_block", "block8"),
        *conv_norm("last_conv", "conv2d_7b"),
        *torch_linear("head", "classif"),
    ),
    ignored=(COUNTERS,),
)

NAMINGS = (TORCHVISION_V3, TIMM_V3, TIMM_V4, TIMM_RESNET_V2)
