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
# What `--resize_positions` asks: tables of absolute positions of another image size.
POSITION_ADAPTERS = (ResizePositions(),)


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
