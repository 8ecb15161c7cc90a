"""A user's own text as a source: one file, a folder of files, or parallel files.

Files are UTF-8, with or without a byte order mark; lines end with a line feed, whatever they
end with in the file. Bytes that are no UTF-8 are an error that names the file and the place.
"""

import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from data.features import Feature, Text
from data.synthetic import synthetic_texts_node

_MARK = b"\xef\xbb\xbf"
_UNITS = ("file", "line", "paragraph")


class TextFile:
    """A text file, as one example or as many.

    Args:
        path: of the file.
        field: the name of the examples' field.
        per: an example is the whole 'file', each 'line' that is not blank, or each
            'paragraph' (paragraphs are set apart by blank lines).
        part: (from, to), shares of the whole: `(0, 0.9)` for training and `(0.9, 1)` for
            validation take every character once if `per` is 'file', else every example.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the part holds no text, or the file is not UTF-8.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        field: str = "text",
        per: str = "file",
        part: Sequence[float] = (0.0, 1.0),
    ):
        _check_unit(per)
        self.path = pathlib.Path(path).expanduser()
        if not self.path.is_file():
            raise FileNotFoundError(f"text file {str(self.path)!r} not found")
        self.field, self.per = field, per
        self.features: Mapping[str, Feature] = {field: Text()}
        text = read_text(self.path)
        if per == "file":
            self._texts = [text[_part(len(text), part)]]
        else:
            pieces = _pieces(text, per)
            self._texts = pieces[_part(len(pieces), part)]
        if not any(piece.strip() for piece in self._texts):
            raise ValueError(
                f"text file {str(self.path)!r} holds no text in part {tuple(part)}"
            )

    def __len__(self) -> int:
        return len(self._texts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {self.field: self._texts[index]}

    def describe(self, index: int) -> str:
        """Names the record in an error."""
        return f"record {index} of {self.path}"

    @staticmethod
    def synthetic_node(kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Invented texts in the same field."""
        return synthetic_texts_node([kwargs.get("field", "text")])


class TextFolder:
    """The text files of a folder, *.txt, in the order of their names.

    Whole files are read when they are asked for; lines and paragraphs of all files are
    kept in memory.

    Args:
        root: the folder; folders in it are searched too.
        field: the name of the examples' field.
        per: an example is a whole 'file', each 'line' that is not blank, or each
            'paragraph'.
        part: (from, to), shares of the examples, as for `TextFile`.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it holds no text, or a file is not UTF-8.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        field: str = "text",
        per: str = "file",
        part: Sequence[float] = (0.0, 1.0),
    ):
        _check_unit(per)
        self.root = pathlib.Path(root).expanduser()
        if not self.root.is_dir():
            raise FileNotFoundError(f"text folder {str(self.root)!r} not found")
        self.field, self.per = field, per
        self.features: Mapping[str, Feature] = {field: Text()}
        files = sorted(path for path in self.root.rglob("*.txt") if path.is_file())
        places = [(path, None) for path in files if path.stat().st_size]
        if per != "file":
            places = [
                (path, piece)
                for path, _ in places
                for piece in _pieces(read_text(path), per)
            ]
        self._places = places[_part(len(places), part)]
        if not self._places:
            what = f"in part {tuple(part)} of {len(places)} examples" if places else ""
            raise ValueError(
                f"text folder {str(self.root)!r} holds no text {what}".rstrip()
                + "; expected files named *.txt"
            )

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path, text = self._places[index]
        return {self.field: read_text(path) if text is None else text}

    def describe(self, index: int) -> str:
        """Names the record in an error."""
        return f"record {index} ({self._places[index][0]})"

    @staticmethod
    def synthetic_node(kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Invented texts in the same field."""
        return synthetic_texts_node([kwargs.get("field", "text")])


class ParallelText:
    """Files whose lines belong together: line i of one translates line i of another.

    Args:
        paths: field -> file; `dict(en="train.en", de="train.de")` say.
        part: (from, to), shares of the lines, as for `TextFile`.

    Raises:
        FileNotFoundError: if a file is not there.
        ValueError: if the files differ in their numbers of lines, hold none in this part,
            or are not UTF-8.
    """

    def __init__(
        self,
        paths: Mapping[str, str | os.PathLike],
        part: Sequence[float] = (0.0, 1.0),
    ):
        if not paths:
            raise ValueError("paths is empty; give field -> file, as en='train.en'")
        self.paths = {f: pathlib.Path(p).expanduser() for f, p in paths.items()}
        for path in self.paths.values():
            if not path.is_file():
                raise FileNotFoundError(f"text file {str(path)!r} not found")
        self.features: Mapping[str, Feature] = {field: Text() for field in self.paths}
        columns = {field: _lines(read_text(p)) for field, p in self.paths.items()}
        counts = {str(self.paths[f]): len(lines) for f, lines in columns.items()}
        if len(set(counts.values())) > 1:
            raise ValueError(
                f"parallel files differ in their numbers of lines: {counts}"
            )
        chosen = _part(next(iter(counts.values())), part)
        self._columns = {field: lines[chosen] for field, lines in columns.items()}
        self._start = chosen.start
        if not len(self):
            raise ValueError(f"{', '.join(counts)} hold no lines in part {tuple(part)}")

    def __len__(self) -> int:
        return len(next(iter(self._columns.values())))

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {field: lines[index] for field, lines in self._columns.items()}

    def describe(self, index: int) -> str:
        """Names the record in an error."""
        files = ", ".join(str(path) for path in self.paths.values())
        return f"line {self._start + index + 1} of {files}"

    @staticmethod
    def synthetic_node(kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Invented texts in the same fields."""
        return synthetic_texts_node(kwargs["paths"])


def read_text(path: pathlib.Path) -> str:
    """A file's text.

    Raises:
        ValueError: in one line: it is not UTF-8, and where.
    """
    content = path.read_bytes()
    mark = len(_MARK) if content.startswith(_MARK) else 0
    try:
        text = content[mark:].decode()
    except UnicodeDecodeError as error:
        place = mark + error.start
        raise ValueError(
            f"text file {str(path)!r} is not valid UTF-8 at byte {place} "
            f"(0x{content[place]:02x}); convert it, with iconv -t utf-8 say"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _lines(text: str) -> list[str]:
    # Not str.splitlines, which breaks at form feeds and other marks too.
    lines = text.split("\n")
    return lines if lines[-1] else lines[:-1]


def _pieces(text: str, per: str) -> list[str]:
    found = (
        _lines(text) if per == "line" else re.split(r"\n[^\S\n]*(?:\n[^\S\n]*)+", text)
    )
    return [piece.strip("\n") for piece in found if piece.strip()]


def _part(length: int, part: Sequence[float]) -> slice:
    if len(part) != 2 or not 0 <= part[0] < part[1] <= 1:
        raise ValueError(f"part is {tuple(part)}; give 0 <= from < to <= 1")
    return slice(int(part[0] * length), int(part[1] * length))


def _check_unit(per: str) -> None:
    if per not in _UNITS:
        raise ValueError(f"per is {per!r}; it must be one of {', '.join(_UNITS)}")
