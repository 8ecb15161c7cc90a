"""How far recognition comes without a network: a bag of visual words on a dataset.

    python benchmarks/bag_of_words.py [--config=FILE.py[:argument]] [--num_threads=2]
        [--out=FILE.json]

Learns from the training pictures and prints the share of test pictures it gets right, over
all and by class. A config, one of configs/classical/ (without --config, that of
Caltech-101), has `train` and `test`, sources of `image` and `label`; their `transforms`; and
the `classifier`, a `vision.bag_of_words.BagOfWords`.
"""

import argparse
import dataclasses
import json
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import numpy as np

from training import config as configs
from training import tables
from training.errors import RunError, first_line

CONFIG = "configs/classical/bag_of_words_caltech101.py"


class Pictures:
    """The pictures of a source, transformed when they are asked for: a sequence."""

    def __init__(self, source: Any, transforms: Sequence[Any]):
        self._source, self._transforms = source, transforms

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> np.ndarray:
        example = self._source[index]
        for transform in self._transforms:
            example = transform(example, np.random.default_rng(index))
        return example["image"]

    @property
    def labels(self) -> np.ndarray:
        """int [N]."""
        return np.array([int(self._source[i]["label"]) for i in range(len(self))])


def measure(config: dict[str, Any], num_threads: int | None = None) -> dict[str, Any]:
    """Builds a plain config, learns and tests.

    Returns:
        `accuracy`, `correct` of `total`, `by_class` (accuracies by name), and the
        `seconds` of both.
    """
    built = configs.build(config)
    classifier = built["classifier"]
    if num_threads is not None:
        classifier = dataclasses.replace(classifier, num_threads=num_threads)
    train, test = (Pictures(built[k], built["transforms"]) for k in ("train", "test"))
    began = time.perf_counter()
    learned = classifier.fit(train, train.labels)
    fitted = time.perf_counter()
    labels = test.labels
    right = learned.predict(test) == labels
    names = getattr(built["test"], "classes", ())
    return {
        "accuracy": float(right.mean()),
        "correct": int(right.sum()),
        "total": len(right),
        "by_class": {
            str(names[k]) if k < len(names) else str(k): float(
                right[labels == k].mean()
            )
            for k in np.unique(labels)
        },
        "seconds": {
            "fit": fitted - began,
            "test": time.perf_counter() - fitted,
            "cpu": time.process_time(),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default=CONFIG, help="FILE.py[:argument]")
    parser.add_argument("--num_threads", type=int, help="instead of the config's")
    parser.add_argument("--out", help="JSON file for the figures")
    options = parser.parse_args()
    try:
        found = measure(configs.load(options.config), options.num_threads)
    except (RunError, ValueError) as error:
        raise SystemExit(first_line(error)) from error
    seconds = found["seconds"]
    print(
        f"{found['correct']} of {found['total']}, {100 * found['accuracy']:.2f} %: "
        f"{seconds['fit']:.0f} s to learn, {seconds['test']:.0f} s to test, "
        f"{seconds['cpu']:.0f} CPU-seconds in all"
    )
    tables.show(
        "test pictures by class",
        ("class", "accuracy, %"),
        [(k, f"{100 * v:.1f}") for k, v in found["by_class"].items()],
    )
    if options.out:
        pathlib.Path(options.out).write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
