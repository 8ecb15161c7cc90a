import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from data.features import Image, Label, Text
from data.sources import TFDS

CIFAR10 = {"image": Image(32, 32, 3, "png"), "label": Label(10)}


def test_splits_and_fields(tfds_dir):
    source = TFDS("cifar10", "train[49990:]+test[:5]", tfds_dir, CIFAR10)
    assert len(source) == 15
    assert set(source[0]) == {"image", "label"}
    for name, feature in CIFAR10.items():
        feature.check(source[14][name])
    assert len(TFDS("cifar10", "train[:10%]", tfds_dir)) == 5000
    whole = TFDS("cifar10:3.0.2", "train", tfds_dir)
    assert whole[49990]["image"] == source[0]["image"]


def test_features_are_the_datasets_own_unless_declared(tfds_dir):
    source = TFDS("caltech101_mini", "test", tfds_dir)
    assert source.features == {"image": Image(encoding="jpeg"), "label": Label(20)}
    assert set(source[0]) == {"image", "label", "image/file_name"}
    assert source[0]["image/file_name"].decode() in source.describe(0)


def test_texts_are_decoded_and_declared(tfds_dir):
    source = TFDS("multi30k", "train", tfds_dir)
    assert source.features == {"de": Text(), "fr": Text(), "en": Text()}
    example = source[0]
    assert {type(value) for value in example.values()} == {str}
    assert "Männer" in example["de"]
    one = TFDS("multi30k", "train", tfds_dir, {"en": Text()})
    assert one[0] == {"en": example["en"]}
    assert pickle.loads(pickle.dumps(one))[0] == one[0]
    sentiment = TFDS("sst2_sentence", "test", tfds_dir)
    assert sentiment.features["label"] == Label(2)
    for name, feature in sentiment.features.items():
        feature.check(sentiment[0][name])


def test_text_that_is_no_utf8_is_named_with_its_record(tfds_dir):
    source = TFDS("multi30k", "test", tfds_dir, {"en": Text(), "de": Text()})
    source._records = [{"en": b"fine", "de": b"M\xe4nner"}]
    with pytest.raises(
        ValueError,
        match=r"field 'de' of record 0 of multi30k 'test' is not valid UTF-8 at byte 1",
    ):
        source[0]


def test_pictures_declared_as_arrays_are_decoded(tfds_dir):
    source = TFDS("cifar10", "test", tfds_dir, {"image": Image(32, 32, 3)})
    source.features["image"].check(source[0]["image"])


def test_the_environment_names_the_folder(tfds_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tfds_dir))
    assert len(TFDS("cifar10", "test")) == 10000


def test_it_travels_to_other_processes(tfds_dir):
    source = TFDS("cifar10", "test[100:]", tfds_dir, CIFAR10)
    expected = source[7]  # opens the files
    found = pickle.loads(pickle.dumps(source))
    assert len(found) == 9900
    assert found[7] == expected


@pytest.mark.parametrize(
    ("name", "split", "features", "text"),
    [
        ("cifar10", "validation", None, "no split 'validation'.*train, test"),
        ("cifar10", "train+valid[:5]", None, "no split 'valid'"),
        ("cifar10", "train[:x]", None, r"train\[:x\]"),
        ("cifar10", "train[60000:]", None, "60000:50000"),
        ("cifar10", "train", {"img": Image()}, "no field 'img'.*image"),
    ],
)
def test_what_is_not_there_is_named(tfds_dir, name, split, features, text):
    with pytest.raises(ValueError, match=text) as caught:
        TFDS(name, split, tfds_dir, features)
    assert "\n" not in str(caught.value)


def test_a_missing_dataset_comes_with_the_command_that_prepares_it(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        TFDS("imagenet2012", "train", tmp_path)
    text = str(caught.value)
    assert "\n" not in text
    assert "'imagenet2012' not found" in text
    assert (
        f"tfds build imagenet2012 --file_format=array_record --data_dir={tmp_path}"
        in text
    )


def test_versions_and_configs_are_found(tmp_path):
    from data.tfds import _directory

    for path in ("a/1.9.0", "a/1.10.0", "b/one/1.0.0", "c/x/1.0.0", "c/y/1.0.0"):
        (tmp_path / path).mkdir(parents=True)
        (tmp_path / path / "dataset_info.json").write_text("{}")
    assert _directory("a", tmp_path) == tmp_path / "a/1.10.0"
    assert _directory("a:1.9.0", tmp_path) == tmp_path / "a/1.9.0"
    assert _directory("b", tmp_path) == tmp_path / "b/one/1.0.0"
    assert _directory("c/y", tmp_path) == tmp_path / "c/y/1.0.0"
    with pytest.raises(ValueError, match="several configs.*c/x, c/y"):
        _directory("c", tmp_path)
    with pytest.raises(FileNotFoundError, match="version 3.0.0 not among"):
        _directory("a:3.0.0", tmp_path)


def test_invented_data_needs_no_dataset():
    features = {"label": {"type": "data.features.Label", "num_classes": 7}}
    node = TFDS.synthetic_node({"name": "nowhere", "features": features})
    assert node["features"] == features
    with pytest.raises(ValueError, match=r"TFDS\('nowhere'\) declares no features"):
        TFDS.synthetic_node({"name": "nowhere"})


def test_reading_imports_no_other_framework(tfds_dir, tmp_path, request):
    frameworks = {"tensorflow", "torch", "pandas"}
    for name in frameworks:  # to be found if anybody looks for them
        (tmp_path / f"{name}.py").touch()
    script = """
import json, sys
from data.pipeline import Pipeline
from data.sources import TFDS, Digits
from vision.transforms import RandomResizedCrop
source = TFDS("caltech101_mini", "train", sys.argv[1])
pipeline = Pipeline(source, (RandomResizedCrop(32),))
with pipeline.train_batches(batch_size=4, seed=0) as batches:
    mean = float(next(batches)["image"].mean())
Digits("train")
print(json.dumps([mean, sorted(sys.modules)]))
"""
    found = subprocess.run(
        [sys.executable, "-c", script, str(tfds_dir)],
        capture_output=True,
        text=True,
        check=True,
        cwd=request.config.rootpath,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    mean, modules = json.loads(found.stdout)
    assert 0 < mean < 255
    assert not frameworks & set(modules)


def test_a_damaged_record_is_unreadable_and_named(tfds_dir, tmp_path):
    from data.loading import Reader, UnreadableError

    folder = tmp_path / "caltech101_mini" / "1.0.0"
    folder.mkdir(parents=True)
    for file in (tfds_dir / "caltech101_mini" / "1.0.0").iterdir():
        content = bytearray(file.read_bytes())
        if "test.array_record" in file.name:
            content[len(content) // 2] ^= 1
        (folder / file.name).write_bytes(content)
    reader = Reader(TFDS("caltech101_mini", "test", tmp_path))
    failures = []
    for index in range(300):
        try:
            reader.source[index]
        except RuntimeError:
            failures.append(index)
    assert len(failures) == 1
    with pytest.raises(
        UnreadableError, match=f"record {failures[0]} of.*hash mismatch"
    ):
        reader(failures[0], np.random.default_rng(0))
