"""Where examples come from. A source has a length, `source[i]`, and declared `features`.

Example i is a dictionary: encoded pictures as bytes, others as uint8 [H, W, C], labels
as integers, text as str. Sources are safe to read from several threads and can be sent to worker
processes. `synthetic_node` turns the config of a source into the config of invented data
of the same kind, so that a run can be tried where its dataset is not.
"""

import functools
import importlib.util
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data.features import Feature, Image, Label
from data.synthetic import SYNTHETIC_LENGTH, Synthetic, declared_synthetic_node
from data.text import ParallelText, TextFile, TextFolder
from data.tfds import TFDS

__all__ = [
    "TFDS",
    "Arrays",
    "Digits",
    "ImageFolder",
    "ParallelText",
    "Subset",
    "Synthetic",
    "TextFile",
    "TextFolder",
]

Example = dict[str, Any]

_ENCODINGS = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png"}


class ImageFolder:
    """Pictures in one folder per class: root/class/name.jpg (.jpeg, .png).

    Classes and files are taken in the order of their names; fields: 'image' (the file's
    bytes), 'label', 'file_name' (class/name).

    Args:
        root: the folder of the classes' folders.
        features: of 'image' and 'label'; by default what the folder shows.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it holds no pictures.
    """

    def __init__(
        self, root: str | os.PathLike, features: Mapping[str, Feature] | None = None
    ):
        self.root = pathlib.Path(root).expanduser()
        if not self.root.is_dir():
            raise FileNotFoundError(
                f"image folder {str(self.root)!r} not found; expected one folder per "
                "class in it: root/class/name.jpg"
            )
        self.classes = sorted(
            entry.name for entry in self.root.iterdir() if entry.is_dir()
        )
        self._files = [
            (f"{name}/{file}", label)
            for label, name in enumerate(self.classes)
            for file in sorted(os.listdir(self.root / name))
            if pathlib.PurePath(file).suffix.lower() in _ENCODINGS
        ]
        if not self._files:
            raise ValueError(
                f"image folder {str(self.root)!r} holds no pictures; expected "
                "root/class/name.jpg (.jpeg, .png)"
            )
        if features is None:
            first = pathlib.PurePath(self._files[0][0])
            features = {
                "image": Image(encoding=_ENCODINGS[first.suffix.lower()]),
                "label": Label(len(self.classes)),
            }
        self.features = dict(features)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Example:
        name, label = self._files[index]
        image = (self.root / name).read_bytes()
        return {"image": image, "label": label, "file_name": name}

    def describe(self, index: int) -> str:
        """Names the record in an error."""
        return f"record {index} ({self.root / self._files[index][0]})"

    @staticmethod
    def synthetic_node(kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Invented data with the declared features.

        Raises:
            ValueError: if none are declared.
        """
        return declared_synthetic_node(kwargs, f"ImageFolder({kwargs.get('root')!r})")


class Digits:
    """Scikit-learn's handwritten digits: 1797 grey 8x8 pictures of ten writers' classes.

    The test split is every fifth example of each class, in the dataset's order (the
    5th, 10th, ...): 355 test and 1442 training examples, the same writers in both.
    Values 0..16 are spread to 0..255.

    Args:
        split: 'train' or 'test'.
    """

    features: Mapping[str, Feature] = {"image": Image(8, 8, 1), "label": Label(10)}

    def __init__(self, split: str):
        if split not in ("train", "test"):
            raise ValueError(f"split must be 'train' or 'test', not {split!r}")
        self.split = split
        self._images, self._labels = _digits(split)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Example:
        return {"image": self._images[index], "label": self._labels[index]}

    @staticmethod
    def synthetic_node(kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Invented data of the same size."""
        del kwargs
        return {
            "type": "data.sources.Synthetic",
            "features": {
                "image": {
                    "type": "data.features.Image",
                    "height": 8,
                    "width": 8,
                    "channels": 1,
                },
                "label": {"type": "data.features.Label", "num_classes": 10},
            },
            "length": SYNTHETIC_LENGTH,
        }


@functools.lru_cache
def _digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    # The file that sklearn.datasets.load_digits reads; importing scikit-learn would take
    # a second and load pandas where it is installed.
    package = importlib.util.find_spec("sklearn")
    if package is None:
        raise FileNotFoundError("the digits come with scikit-learn, which is missing")
    folder = pathlib.Path(package.origin).parent / "datasets" / "data"
    table = np.loadtxt(folder / "digits.csv.gz", delimiter=",", dtype=np.int32)
    values, labels = table[:, :-1], table[:, -1]
    test = np.zeros(len(labels), bool)
    for label in range(10):
        test[np.flatnonzero(labels == label)[4::5]] = True
    chosen = test if split == "test" else ~test
    images = np.round(values[chosen] * (255 / 16)).astype(np.uint8)
    return _frozen(images.reshape(-1, 8, 8, 1)), _frozen(labels[chosen])


class Arrays:
    """Examples that lie in memory: the rows of arrays.

    Args:
        path: an .npz file.
        arrays: instead of `path`, name -> array [N, ...].
        keys: which arrays to use: their names, or field name -> array name; by default
            all.
        features: optional, of some or all fields. A declared `Image` of one channel may
            be stored without its last dimension.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if an array is missing or the lengths differ.
    """

    def __init__(
        self,
        path: str | os.PathLike | None = None,
        arrays: Mapping[str, np.ndarray] | None = None,
        keys: Sequence[str] | Mapping[str, str] | None = None,
        features: Mapping[str, Feature] | None = None,
    ):
        if (path is None) == (arrays is None):
            raise ValueError("Arrays needs a path or arrays, one of the two")
        if path is not None:
            path = pathlib.Path(path).expanduser()
            if not path.is_file():
                raise FileNotFoundError(f"array file {str(path)!r} not found")
            arrays = np.load(path)
        names = keys if keys is not None else list(arrays)
        if not isinstance(names, Mapping):
            names = {name: name for name in names}
        for name in names.values():
            if name not in arrays:
                raise ValueError(f"no array {name!r}; there are: {', '.join(arrays)}")
        self._arrays = {k: _frozen(np.asarray(arrays[n])) for k, n in names.items()}
        lengths = {name: len(array) for name, array in self._arrays.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"arrays differ in length: {lengths}")
        self._length = next(iter(lengths.values()))
        self.features = dict(features) if features is not None else None
        for name, feature in (features or {}).items():
            grey = isinstance(feature, Image) and feature.channels == 1
            if grey and name in self._arrays and self._arrays[name].ndim == 3:
                self._arrays[name] = self._arrays[name][..., None]

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Example:
        return {name: array[index] for name, array in self._arrays.items()}

    @staticmethod
    def synthetic_node(kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Invented data with the declared features.

        Raises:
            ValueError: if none are declared.
        """
        return declared_synthetic_node(kwargs, f"Arrays({kwargs.get('path')!r})")


def _frozen(array: np.ndarray) -> np.ndarray:
    """The array, protected: a transform that writes into its input fails at once."""
    array = array.view()
    array.flags.writeable = False
    return array


class Subset:
    """A random part of a source, always the same: a share of the labels, say.

    Args:
        source: any source.
        share: of its examples, in (0, 1]; at least one is kept.
        seed: another seed, another part; it is drawn once, whatever the run's seed.

    Raises:
        ValueError: the share is out of range.
    """

    def __init__(self, source: Any, share: float, seed: int = 0):
        if not 0 < share <= 1:
            raise ValueError(f"share is {share}; it must lie in (0, 1]")
        self.source = source
        order = np.random.default_rng(seed).permutation(len(source))
        kept = max(1, round(share * len(source)))
        self._indices = np.sort(order[:kept])

    @property
    def features(self) -> Mapping[str, Feature] | None:
        """Those of the source."""
        return getattr(self.source, "features", None)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Example:
        return self.source[int(self._indices[index])]

    def describe(self, index: int) -> str:
        """Names the record in an error, as the source does."""
        index = int(self._indices[index])
        describe = getattr(self.source, "describe", None)
        return describe(index) if describe else f"record {index}"
