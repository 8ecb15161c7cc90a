"""Datasets prepared by TensorFlow Datasets, read without TensorFlow.

Only ArrayRecord files can be read at random places; they are written by `tfds build
NAME --file_format=array_record`, which does need TensorFlow (extra `prepare`).
"""

import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from data.features import Feature, Image, Label, Text
from data.synthetic import declared_synthetic_node

# Fields that tell a person which file a record came from, in order of preference.
_FILE_NAMES = ("file_name", "image/file_name", "image/filename", "filename", "id")


class TFDS:
    """One split of a prepared dataset.

    Pictures stay encoded bytes (decoding is a transform), except where they are declared
    with `Image(encoding=None)`. Fields declared as `Text` are str, decoded as UTF-8.

    Args:
        name: 'cifar10', 'name/config', 'name:1.0.0' or 'name/config:1.0.0'; the newest
            version by default.
        split: as in TFDS: 'train', 'train[:99%]', 'train[5000:]', 'train+test', ...
        data_dir: the folder of the datasets; by default the environment variable
            TFDS_DATA_DIR, else ~/tensorflow_datasets.
        features: the fields to read and what they hold; by default every field, of
            which pictures, classes and texts are declared as the dataset describes them
            (but not names of files, which stay bytes).

    Raises:
        FileNotFoundError: if the dataset is not there; the text has the command that
            prepares it.
        ValueError: if the split or a declared field does not exist, or the files are of
            a format without random access.
    """

    def __init__(
        self,
        name: str,
        split: str,
        data_dir: str | os.PathLike | None = None,
        features: Mapping[str, Feature] | None = None,
    ):
        # Half a second: only who reads TFDS waits for it.
        import tensorflow_datasets as tfds

        self._arguments = (name, split, data_dir, features)
        self.name, self.split = name, split
        builder = tfds.builder_from_directory(_directory(name, data_dir))
        known = builder.info.features
        fields = list(known) if features is None else list(features)
        for field in fields:
            if field not in known:
                raise ValueError(
                    f"dataset {name!r} has no field {field!r}; it has: "
                    + ", ".join(known)
                )
        self._fields = fields
        labels = [known[field] for field in fields]
        labels = [x for x in labels if isinstance(x, tfds.features.ClassLabel)]
        # Names of the first label's classes, for people.
        self.classes = tuple(labels[0].names) if labels else ()
        self.features = dict(features or _declared(tfds, known))
        pictures = [k for k in known if isinstance(known[k], tfds.features.Image)]
        decoded = [k for k in pictures if features and _is_decoded(features.get(k))]
        encoded = {k: tfds.decode.SkipDecoding() for k in pictures if k not in decoded}
        self._texts = [k for k, f in self.features.items() if isinstance(f, Text)]
        _check_split(name, split, builder.info.splits)
        try:
            self._records = builder.as_data_source(split, decoders=encoded or None)
        except NotImplementedError as error:
            raise ValueError(
                f"dataset {name!r} is not in ArrayRecord format; "
                + _how_to_prepare(name, data_dir)
            ) from error
        except ValueError as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"dataset {name!r}, split {split!r}: {reason}") from error
        self._length = len(self._records)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self._records[index]
        example = {field: record[field] for field in self._fields}
        for field in self._texts:
            if isinstance(example[field], bytes):
                example[field] = self._text(example[field], field, index)
        return example

    def _text(self, value: bytes, field: str, index: int) -> str:
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise ValueError(
                f"field {field!r} of record {index} of {self.name} {self.split!r} is not "
                f"valid UTF-8 at byte {error.start}"
            ) from error

    def __reduce__(self):
        # Open files do not travel to another process.
        return TFDS, self._arguments

    def describe(self, index: int) -> str:
        """Names the record in an error, with its file where the dataset tells it."""
        place = f"record {index} of {self.name} {self.split!r}"
        try:
            record = self._records[index]
        except (OSError, RuntimeError, ValueError):  # it may be what cannot be read
            return place
        for field in _FILE_NAMES:
            if isinstance(record.get(field), bytes):
                return f"{place} ({record[field].decode(errors='replace')})"
        return place

    @staticmethod
    def synthetic_node(kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Invented data with the declared features.

        Raises:
            ValueError: if none are declared.
        """
        return declared_synthetic_node(kwargs, f"TFDS({kwargs.get('name')!r})")


def _is_decoded(feature: Feature | None) -> bool:
    return isinstance(feature, Image) and feature.encoding is None


def _declared(tfds: Any, known: Mapping[str, Any]) -> dict[str, Feature]:
    declared = {}
    for name, feature in known.items():
        if isinstance(feature, tfds.features.Image):
            height, width, channels = feature.shape
            # Which of the two matters to nobody: the bytes tell.
            declared[name] = Image(height, width, channels, encoding="jpeg")
        elif isinstance(feature, tfds.features.ClassLabel) and feature.num_classes:
            declared[name] = Label(feature.num_classes)
        elif isinstance(feature, tfds.features.Text) and name not in _FILE_NAMES:
            declared[name] = Text()
    return declared


def _root(data_dir: str | os.PathLike | None) -> pathlib.Path:
    folder = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return pathlib.Path(folder).expanduser()


def _how_to_prepare(name: str, data_dir: str | os.PathLike | None) -> str:
    return (
        "prepare it: pip install -e '.[prepare]' && tfds build "
        f"{name} --file_format=array_record --data_dir={_root(data_dir)}"
    )


def _directory(name: str, data_dir: str | os.PathLike | None) -> pathlib.Path:
    """The folder of one version: root/name[/config]/version."""
    path, _, version = name.partition(":")
    folder = _root(data_dir) / path
    configs = sorted({found.parent for found in _versions(folder, "*/*")})
    versions = _versions(folder, "*")
    if not versions and len(configs) == 1:
        versions = _versions(configs[0], "*")
    elif not versions and configs:
        raise ValueError(
            f"dataset {name!r} has several configs; name one: "
            + ", ".join(f"{path}/{config.name}" for config in configs)
        )
    chosen = [v for v in versions if not version or v.name == version]
    if not chosen:
        there = ", ".join(v.name for v in versions)
        missing = f"version {version} not among {there}" if there else "not found"
        raise FileNotFoundError(
            f"dataset {name!r} {missing} in {str(_root(data_dir))!r} (data_dir or "
            f"TFDS_DATA_DIR); {_how_to_prepare(name, data_dir)}"
        )
    return max(chosen, key=lambda v: [int(part) for part in v.name.split(".")])


def _versions(folder: pathlib.Path, pattern: str) -> list[pathlib.Path]:
    found = (info.parent for info in folder.glob(f"{pattern}/dataset_info.json"))
    return [path for path in found if re.fullmatch(r"\d+\.\d+\.\d+", path.name)]


def _check_split(name: str, split: str, there: Mapping[str, Any]) -> None:
    for part in split.split("+"):
        wanted = part.strip().partition("[")[0]
        if wanted not in there and wanted != "all":
            raise ValueError(
                f"dataset {name!r} has no split {wanted!r} (in {split!r}); it has: "
                + ", ".join(there)
            )
