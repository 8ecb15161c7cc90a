"""Published weight files of vision models to our parameter trees, and back.

The tables of names lie in `vision.weights`, one file per architecture.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from layers.positions import ResizePositions
from training import weight_files
from training.weight_files import load_file, save_file

__all__ = [
    "NAMINGS",
    "POSITION_ADAPTERS",
    "convert",
    "export",
    "load_file",
    "save_file",
]

NAMINGS = weight_files.namings_in("vision.weights")
# What `--resize_positions` asks: tables of positions of another image size, or of relative
# ones of another window (Swin) or image (BEiT, whose class token has three offsets more).
POSITION_ADAPTERS = (
    ResizePositions(),
    ResizePositions(match=r"\bposition_bias$", num_prefix=0),
    ResizePositions(match=r"\bposition_bias(_\d+)?/table$", num_prefix=0, num_suffix=3),
)


def convert(
    weights: Mapping[str, np.ndarray],
    template: Mapping[str, Any],
    naming: str = "auto",
    **adapted: Any,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """`training.weight_files.convert` with the tables of vision; `adapted` is its `fresh`
    and `adapters`."""
    return weight_files.convert(weights, template, NAMINGS, naming, **adapted)


def export(
    params: Mapping[str, Any], collections: Mapping[str, Any], naming: str = "timm"
) -> tuple[str, dict[str, np.ndarray]]:
    """`training.weight_files.export` by the best of the tables of vision.

    Returns:
        (the table's name, tensors by name).
    """
    table = weight_files.naming_for(params, collections, NAMINGS, naming)
    return table.name, weight_files.export(params, collections, table)
