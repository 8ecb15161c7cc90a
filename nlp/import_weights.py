"""Published weight files of language models to our parameter trees.

The tables of names lie in `nlp.weights`, one file per architecture.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from nlp.weights import (
    albert,
    bart,
    bert,
    bigbird,
    electra,
    gpt,
    marian,
    rnn_seq2seq,
    t5,
    transformer,
)
from training import weight_files
from training.weight_files import load_file

__all__ = ["NAMINGS", "convert", "load_file"]

NAMINGS = (
    *gpt.NAMINGS,
    *bert.NAMINGS,
    *albert.NAMINGS,
    *electra.NAMINGS,
    *bigbird.NAMINGS,
    *rnn_seq2seq.NAMINGS,
    *transformer.NAMINGS,
    *marian.NAMINGS,
    *t5.NAMINGS,
    *bart.NAMINGS,
)


def convert(
    weights: Mapping[str, np.ndarray], template: Mapping[str, Any], naming: str = "auto"
) -> tuple[dict[str, Any], dict[str, Any]]:
    """`training.weight_files.convert` with the tables of language."""
    return weight_files.convert(weights, template, NAMINGS, naming)
