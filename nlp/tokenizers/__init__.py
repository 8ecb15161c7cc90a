"""Text to numbers and back: bytes, characters, and subwords trained from the data.

Every tokenizer has the same special tokens, 0 to 4: padding, beginning, end, unknown,
mask. A config names a ready one (`Bytes`, `Characters`), a recipe for one that is trained
once and then kept with the run (`Trained`), or that of another run (`FromRun`).
"""

from nlp.tokenizers.characters import Bytes, Characters
from nlp.tokenizers.recipes import FromRun, Saved, Trained, load, parse
from nlp.tokenizers.subwords import Subwords
from nlp.tokenizers.tokenizer import Tokenizer

__all__ = [
    "Bytes",
    "Characters",
    "FromRun",
    "Saved",
    "Subwords",
    "Tokenizer",
    "Trained",
    "load",
    "parse",
]
