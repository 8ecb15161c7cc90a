"""Transformer in the files of Hugging Face's Marian, which hold OPUS-MT's models."""

from nlp.weights.bart import TIED, shared_rules
from training.weight_naming import Naming

NAMINGS = (
    Naming(
        "hugging_face_marian",
        tuple(shared_rules()),
        # The fixed table of positions, which some files keep.
        ignored=(TIED, r"model\.(encoder|decoder)\.embed_positions\.weight"),
    ),
)
