"""Where a run's tokenizer comes from: training, a file, another run.

`Trained` and `FromRun` are recipes: before a run is built, `training.artifacts` makes the
tokenizer, keeps it in the run's folder, and puts `Saved` in the recipe's place, so that the
run needs neither the corpus nor the other run again. Called as they stand they give the
tokenizer too.
"""

import functools
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from nlp.tokenizers.characters import Bytes, Characters
from nlp.tokenizers.subwords import Subwords
from nlp.tokenizers.tokenizer import FORMAT, Tokenizer, utf8

# Of invented text (`data.features.Text`), and some more.
_TRIAL_ALPHABET = "\n !,-.?ADEHILNORSTWabcdefghijklmnopqrstuvwxyz"


def parse(content: bytes, name: str) -> Tokenizer:
    """A tokenizer from its file's content.

    Raises:
        ValueError: in one line: it is not a tokenizer's, naming `name`.
    """
    kinds = {"bytes": Bytes, "characters": Characters}
    try:
        data = json.loads(content)
        if data.pop("format") != FORMAT:
            raise ValueError("unknown format")
        kind = data.pop("kind")
        return kinds[kind](**data) if kind in kinds else Subwords(kind, **data)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{name} is not a tokenizer's file of format {FORMAT!r}: {error}"
        ) from error


def load(path: str | os.PathLike) -> Tokenizer:
    """Reads a tokenizer's file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not a tokenizer's.
    """
    path = pathlib.Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"tokenizer file {str(path)!r} not found")
    state = path.stat()
    return _load(path, state.st_mtime_ns, state.st_size)


@functools.lru_cache(maxsize=8)
def _load(path: pathlib.Path, *_: int) -> Tokenizer:
    return parse(path.read_bytes(), str(path))


class Saved(Tokenizer):
    """The tokenizer of a file.

    Args:
        path: of the file.

    Raises: as `load`.
    """

    def __new__(cls, path: str | os.PathLike) -> Tokenizer:
        return load(path)


class _Recipe(Tokenizer):
    """A tokenizer that is made once and kept with the run; see `training.artifacts`."""

    artifact_name: ClassVar[str] = "tokenizer"

    @staticmethod
    def artifact_node(path: str) -> dict[str, Any]:
        """The config of the tokenizer once its file is there."""
        return {"type": "nlp.tokenizers.Saved", "path": path}


class Trained(_Recipe):
    """A tokenizer trained on a source; the same source gives the same tokenizer.

    Args:
        kind: 'characters', 'bpe' or 'unigram'.
        source: examples with fields of text.
        fields: the texts of an example.
        vocab_size: number of tokens, with the special ones; of characters, None keeps all.
            There are fewer if the source does not have so many.
        lowercase, prefix_space: subwords of text in lower case, or with a space before the
            first word, see `Subwords`.
        max_examples: of a long source, take only so many examples, evenly spaced.

    Raises:
        ValueError: an unknown kind, a field that is missing or no text, an empty source,
            a vocabulary too small.
    """

    def __new__(
        cls,
        *,
        kind: str,
        source: Any,
        fields: Sequence[str] = ("text",),
        vocab_size: int | None = None,
        lowercase: bool = False,
        prefix_space: bool = False,
        max_examples: int | None = None,
    ) -> Tokenizer:
        texts = _texts(source, fields, max_examples)
        if kind == "characters":
            if lowercase or prefix_space:
                name = "lowercase" if lowercase else "prefix_space"
                raise ValueError(f"characters have no {name}; leave it out")
            return Characters.learned(texts, vocab_size)
        if kind not in ("bpe", "unigram"):
            raise ValueError(
                f"kind is {kind!r}; trained are 'characters', 'bpe' and 'unigram'"
            )
        if vocab_size is None:
            raise ValueError(f"kind {kind!r} needs a vocab_size, 8000 say")
        return Subwords.learned(kind, texts, vocab_size, lowercase, prefix_space)


class FromRun(_Recipe):
    """The tokenizer of another run, for weights that were trained with it.

    Args:
        path: the run's folder, or a tokenizer's file.
        file: the name of the file in the run's `artifacts`, if it has several tokenizers.

    Raises:
        FileNotFoundError: it has none.
        ValueError: it has several.
    """

    def __new__(cls, path: str | os.PathLike, file: str | None = None) -> Tokenizer:
        place = pathlib.Path(path).expanduser()
        if place.is_file():
            return load(place)
        if file is not None:
            return load(place / "artifacts" / file)
        found = sorted(place.glob(f"artifacts/{cls.artifact_name}-*.json"))
        if not found:
            raise FileNotFoundError(
                f"{place} has no tokenizer (artifacts/{cls.artifact_name}-*.json); train "
                "that run first"
            )
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise ValueError(
                f"{place} has several tokenizers; give file, one of {names}"
            )
        return load(found[0])

    @staticmethod
    def synthetic_node(kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """For a trial on invented text, without the other run: a small alphabet."""
        del kwargs
        return {"type": "nlp.tokenizers.Characters", "alphabet": _TRIAL_ALPHABET}


def _texts(source: Any, fields: Sequence[str], limit: int | None) -> Iterator[str]:
    length = len(source)
    count = min(length, limit or length)
    for i in range(count):
        index = i * length // count
        example = source[index]
        for field in fields:
            text = example.get(field)
            try:
                utf8(text)
            except ValueError as error:
                raise ValueError(
                    f"a tokenizer cannot be trained on field {field!r} of example {index} "
                    f"(with {', '.join(example)}): {error}"
                ) from error
            yield text
