"""Published weight files of language models to our parameter trees, and back.

The tables of names lie in `nlp.weights`, one file per architecture.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

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

NAMINGS = weight_files.namings_in("nlp.weights")
# Tables of text positions have one length; there is nothing to interpolate between.
POSITION_ADAPTERS = ()


def convert(
    weights: Mapping[str, np.ndarray],
    template: Mapping[str, Any],
    naming: str = "auto",
    **adapted: Any,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """`training.weight_files.convert` with the tables of language; `adapted` is its `fresh`
    and `adapters`."""
    return weight_files.convert(weights, template, NAMINGS, naming, **adapted)


def export(
    params: Mapping[str, Any],
    collections: Mapping[str, Any],
    naming: str,
) -> tuple[str, dict[str, np.ndarray]]:
    """`training.weight_files.export` by the best of the tables of language.

    Returns:
        (the table's name, tensors by name).
    """
    table = weight_files.naming_for(params, collections, NAMINGS, naming)
    return table.name, weight_files.export(params, collections, table)
