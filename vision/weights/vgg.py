"""VGG in torchvision's files, which number the layers: one table per depth and form.

ReLU, pooling and dropout count as layers there, and so move the numbers of the rest.
"""

from training.weight_naming import (
    Naming,
    Rule,
    torch_batch_norm,
    torch_conv,
    torch_linear,
)

DEPTHS = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}


def _features(stage_sizes: tuple[int, ...], batch_norm: bool) -> list[Rule]:
    rules, layer = [], 0
    for i, size in enumerate(stage_sizes):
        for j in range(size):
            rules += torch_conv(f"stage_{i}_conv_{j}", f"features.{layer}")
            if batch_norm:
                rules += torch_batch_norm(
                    f"stage_{i}_norm_{j}", f"features.{layer + 1}"
                )
            layer += 3 if batch_norm else 2  # and ReLU
        layer += 1  # pooling
    return rules


def _naming(depth: int, batch_norm: bool) -> Naming:
    return Naming(
        f"torchvision vgg{depth}{'_bn' if batch_norm else ''}",
        (
            *_features(DEPTHS[depth], batch_norm),
            *torch_linear("dense_0", "classifier.0"),
            *torch_linear("dense_1", "classifier.3"),
            *torch_linear("head", "classifier.6"),
        ),
        # A counter that only torch's cumulative average reads.
        ignored=(r".*\.num_batches_tracked",),
    )


NAMINGS = tuple(
    _naming(depth, batch_norm) for depth in DEPTHS for batch_norm in (False, True)
)
