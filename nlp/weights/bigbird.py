"""BigBird in the files of Hugging Face: BERT's names, but for the pooler's."""

from nlp.weights.bert import TIED, block, embeddings, masked_head
from training.weight_naming import Naming, torch_linear

BIGBIRD = Naming(
    "hugging_face_bigbird",
    (
        *embeddings("embeddings", "embeddings"),
        *block("encoder/block_{}", "encoder.layer.{}"),
        *masked_head(),
        *torch_linear("pooler", "pooler"),
        *torch_linear("next_head", "cls.seq_relationship"),
    ),
    ignored=TIED,
    prefixes=("bert.",),
)

NAMINGS = (BIGBIRD,)
