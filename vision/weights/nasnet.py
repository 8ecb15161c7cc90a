"""NASNet-A in timm's files."""

from training.weight_naming import (
    Naming,
    Rule,
    torch_batch_norm,
    torch_conv,
    torch_linear,
)
from vision.weights.rules import conv_norm


def _cell(ours: str, theirs: str) -> list[Rule]:
    """Of any kind: which of these a cell has, depends on its table and its inputs."""
    rules = [
        *conv_norm(f"{ours}/current", f"{theirs}.conv_1x1"),
        *conv_norm(f"{ours}/previous", f"{theirs}.conv_prev_1x1"),
        *torch_conv(f"{ours}/previous_path_0", f"{theirs}.path_1.conv"),
        *torch_conv(f"{ours}/previous_path_1", f"{theirs}.path_2.conv"),
        *torch_batch_norm(f"{ours}/previous_norm", f"{theirs}.final_path_bn"),
    ]
    for side in ("left", "right"):
        for i in range(2):
            mine, other = (
                f"{ours}/{side}_{{}}/conv_{i}",
                f"{theirs}.comb_iter_{{}}_{side}",
            )
            conv = f"{other}.separable_{i + 1}"
            rules += [
                *torch_conv(f"{mine}/conv/depthwise", f"{conv}.depthwise_conv2d"),
                *torch_conv(f"{mine}/conv/pointwise", f"{conv}.pointwise_conv2d"),
                *torch_batch_norm(f"{mine}/norm", f"{other}.bn_sep_{i + 1}"),
            ]
    return rules


TIMM = Naming(
    "timm nasnet",
    (
        *conv_norm("stem", "conv0"),
        *_cell("stem_cell_{}", "cell_stem_{}"),
        *_cell("cell_{}", "cell_{}"),
        *_cell("reduction_cell_{}", "reduction_cell_{}"),
        *torch_linear("head", "last_linear"),
    ),
    # A counter that only torch's cumulative average reads.
    ignored=(r".*\.num_batches_tracked",),
)

NAMINGS = (TIMM,)
