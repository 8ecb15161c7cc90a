"""Published weight files of vision models to our parameter trees.

The tables of names lie in `vision.weights`, one file per architecture.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from training import weight_files
from training.weight_files import load_file

__all__ = ["NAMINGS", "convert", "load_file"]

NAMINGS = weight_files.namings_in("vision.weights")


def convert(
    weights: Mapping[str, np.ndarray], template: Mapping[str, Any], naming: str = "auto"
) -> tuple[dict[str, Any], dict[str, Any]]:
    """`training.weight_files.convert` with the tables of vision."""
    return weight_files.convert(weights, template, NAMINGS, naming)
