"""The baseline's script: its config builds, and it learns what is in a source."""

import numpy as np
import pytest

from benchmarks import bag_of_words
from data.features import Image
from training import config as configs

DIGITS = {"type": "data.sources.Digits"}


@pytest.fixture
def small():
    """Digits, enlarged, of which little is learned but more than by chance."""
    config = configs.load(f"{bag_of_words.CONFIG}:32,hog")
    config["train"] = {
        "type": "data.sources.Subset",
        "source": DIGITS | {"split": "train"},
        "share": 0.15,
    }
    config["test"] = DIGITS | {"split": "test"}
    config["transforms"] = [{"type": "vision.transforms.Resize", "size": 48}]
    config["classifier"]["vocabulary_images"] = 40
    return config


def test_the_config_names_its_choices():
    plain = configs.load(bag_of_words.CONFIG)
    assert plain["classifier"]["num_words"] == 1000
    assert (
        configs.load(f"{bag_of_words.CONFIG}:4000")["classifier"]["num_words"] == 4000
    )
    for argument in ("1000,sift", "200,hog"):
        classifier = configs.load(f"{bag_of_words.CONFIG}:{argument}")["classifier"]
        image = Image(64, 64, 1).sample(np.random.default_rng(0))
        found, _ = configs.build(classifier).descriptor(image)
        assert found.shape[1] == (128 if "sift" in argument else 36)


def test_digits_are_learned(small):
    found = bag_of_words.measure(small, num_threads=1)
    assert found["total"] == 355 and set(found["by_class"]) == set("0123456789")
    assert found["accuracy"] == found["correct"] / 355 > 0.6
    assert bag_of_words.measure(small)["correct"] == found["correct"]
