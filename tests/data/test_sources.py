import pickle

import numpy as np
import pytest
from sklearn.datasets import load_digits

from data.features import Image, Label
from data.sources import Arrays, Digits, ImageFolder, Subset, Synthetic


def test_digits_are_split_once_and_for_all():
    train, test = Digits("train"), Digits("test")
    assert (len(train), len(test)) == (1442, 355)
    labels = [np.array([s[i]["label"] for i in range(len(s))]) for s in (train, test)]
    share = np.bincount(labels[1]) / (np.bincount(labels[0]) + np.bincount(labels[1]))
    assert np.all((share > 0.19) & (share <= 0.2))
    # The fifth zero of the dataset is the first zero of the test split.
    digits = load_digits()
    fifth = np.flatnonzero(digits.target == 0)[4]
    first = test[int(np.flatnonzero(labels[1] == 0)[0])]["image"]
    np.testing.assert_array_equal(
        first[..., 0], np.round(digits.images[fifth] * 255 / 16)
    )
    together = {s[i]["image"].tobytes() for s in (train, test) for i in range(len(s))}
    assert together == {
        np.round(image * 255 / 16).astype(np.uint8).tobytes() for image in digits.images
    }


def test_digits_are_what_they_declare():
    for split in ("train", "test"):
        source = Digits(split)
        for i in range(len(source)):
            for name, feature in source.features.items():
                feature.check(source[i][name])
    with pytest.raises(ValueError, match="'valid'"):
        Digits("valid")


def test_digits_cannot_be_overwritten():
    with pytest.raises(ValueError, match="read-only"):
        Digits("train")[0]["image"][0] = 1


def test_an_image_folder_is_read_in_order(tmp_path):
    for name in ("cat/b.jpg", "cat/a.PNG", "ant/c.jpeg", "ant/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "readme.md").write_text("no class")
    source = pickle.loads(pickle.dumps(ImageFolder(tmp_path)))
    assert source.classes == ["ant", "cat"]
    assert [source[i] for i in range(len(source))] == [
        {"image": b"ant/c.jpeg", "label": 0, "file_name": "ant/c.jpeg"},
        {"image": b"cat/a.PNG", "label": 1, "file_name": "cat/a.PNG"},
        {"image": b"cat/b.jpg", "label": 1, "file_name": "cat/b.jpg"},
    ]
    assert source.features == {"image": Image(encoding="jpeg"), "label": Label(2)}
    assert "cat/b.jpg" in source.describe(2)


def test_missing_and_empty_image_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.*root/class/name"):
        ImageFolder(tmp_path / "nowhere")
    (tmp_path / "cat").mkdir()
    with pytest.raises(ValueError, match="holds no pictures"):
        ImageFolder(tmp_path)


def test_arrays_from_a_file_under_other_names(tmp_path):
    images = np.arange(60, dtype=np.uint8).reshape(5, 4, 3)
    np.savez(tmp_path / "x.npz", x_train=images, y_train=np.arange(5), other=0)
    source = Arrays(
        tmp_path / "x.npz",
        keys={"image": "x_train", "label": "y_train"},
        features={"image": Image(4, 3, 1), "label": Label(5)},
    )
    assert len(source) == 5
    example = pickle.loads(pickle.dumps(source))[3]
    np.testing.assert_array_equal(example["image"], images[3][..., None])
    assert example["label"] == 3
    for name, feature in source.features.items():
        feature.check(example[name])


def test_what_arrays_refuse(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.npz"):
        Arrays(tmp_path / "none.npz")
    with pytest.raises(ValueError, match="differ in length.*'a': 2, 'b': 3"):
        Arrays(arrays={"a": np.zeros(2), "b": np.zeros(3)})
    with pytest.raises(ValueError, match="no array 'c'; there are: a"):
        Arrays(arrays={"a": np.zeros(2)}, keys=("c",))
    with pytest.raises(ValueError, match="one of the two"):
        Arrays()


def test_synthetic_examples_depend_on_seed_and_index():
    features = {"image": Image(4, 4, 3), "label": Label(1000)}
    one, again, other = (Synthetic(features, 8, seed) for seed in (0, 0, 1))
    assert len(one) == 8
    np.testing.assert_array_equal(one[5]["image"], again[5]["image"])
    assert not np.array_equal(one[5]["image"], one[6]["image"])
    assert not np.array_equal(one[5]["image"], other[5]["image"])
    for name, feature in features.items():
        feature.check(one[5][name])


@pytest.mark.parametrize("source", [ImageFolder, Arrays])
def test_a_source_without_declared_features_cannot_be_invented(source):
    with pytest.raises(ValueError, match="declares no features"):
        source.synthetic_node({"path": "x"})


@pytest.mark.parametrize("source", [ImageFolder, Arrays, Synthetic])
def test_invented_data_has_the_declared_features(source):
    features = {"label": {"type": "data.features.Label", "num_classes": 7}}
    node = source.synthetic_node({"features": features, "length": 3})
    assert node["type"] == "data.sources.Synthetic"
    assert node["features"] == features
    assert node["length"] > 0


def test_invented_digits_are_declared_as_the_real_ones():
    node = Digits.synthetic_node({"split": "train"})
    types = {"data.features.Image": Image, "data.features.Label": Label}
    features = {
        name: types[f["type"]](**{k: v for k, v in f.items() if k != "type"})
        for name, f in node["features"].items()
    }
    assert features == Digits.features


def test_a_subset_is_always_the_same_part():
    whole = Digits("train")
    part, again = Subset(whole, 0.1), Subset(Digits("train"), 0.1)
    assert len(part) == 144 and part.features is Digits.features
    images = [part[i]["image"].tobytes() for i in range(len(part))]
    assert images == [again[i]["image"].tobytes() for i in range(len(again))]
    everything = [whole[i]["image"].tobytes() for i in range(len(whole))]
    assert set(images) <= set(everything)
    other = Subset(whole, 0.1, seed=1)
    assert images != [other[i]["image"].tobytes() for i in range(len(other))]
    assert len(Subset(whole, 1)) == len(whole) and len(Subset(whole, 1e-9)) == 1
    labels = {part[i]["label"] for i in range(len(part))}
    assert len(labels) == 10
    assert pickle.loads(pickle.dumps(part))[3]["label"] == part[3]["label"]


def test_a_subset_names_the_record_of_its_source(tmp_path):
    source = Arrays(arrays={"x": np.arange(10)})
    part = Subset(source, 0.5)
    place = int(part[2]["x"])
    assert part.describe(2) == f"record {place}"


@pytest.mark.parametrize("share", [0, -0.1, 1.1])
def test_a_share_beyond_sense_is_named(share):
    with pytest.raises(ValueError, match=f"share is {share}"):
        Subset(Digits("test"), share)
