import cv2
import numpy as np
import pytest

from data.features import Image, Label, Text


@pytest.mark.parametrize("encoding", [None, "jpeg", "png"])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_sample_is_what_the_feature_says(encoding, channels):
    image = Image(20, None, channels, encoding)
    value = image.sample(np.random.default_rng(0))
    image.check(value)
    if encoding:
        start = {"jpeg": b"\xff\xd8", "png": b"\x89PNG"}[encoding]
        assert value.startswith(start)
        value = cv2.imdecode(np.frombuffer(value, np.uint8), cv2.IMREAD_UNCHANGED)
        value = value.reshape(*value.shape[:2], -1)
    assert value.shape[0] == 20
    assert 400 <= value.shape[1] <= 600
    assert value.shape[2] == channels
    assert value.std() > 20


def test_samples_follow_the_generator():
    image = Image(encoding="jpeg")
    values = [image.sample(np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert values[0] == values[1] != values[2]


@pytest.mark.parametrize(
    ("feature", "value", "text"),
    [
        (Image(4, 5, 1), np.zeros((4, 6, 1), np.uint8), r"uint8 \[4, 5, 1\].*4, 6, 1"),
        (Image(4, None, 3), np.zeros((4, 6), np.uint8), r"\[4, \?, 3\], got uint8"),
        (Image(4, 4, 3), np.zeros((4, 4, 3), np.float32), "got float32"),
        (Image(), b"abc", "got bytes"),
        (Image(encoding="png"), np.zeros((4, 4, 3), np.uint8), "encoded bytes"),
        (Label(10), 10, r"10 is outside 0\.\.9 \(num_classes=10\)"),
        (Label(10), np.int64(-1), "-1 is outside"),
        (Label(10), 1.0, "one integer, got float64"),
        (Label(10), np.zeros(3, np.int32), "one integer, got int32"),
    ],
)
def test_a_wrong_value_is_named(feature, value, text):
    with pytest.raises(ValueError, match=text) as caught:
        feature.check(value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [0, 9, np.int32(9), np.uint8(9), np.array(9)])
def test_integers_of_every_kind_are_labels(value):
    Label(10).check(value)


def test_label_samples_cover_the_classes():
    rng = np.random.default_rng(0)
    assert {Label(3).sample(rng) for _ in range(100)} == {0, 1, 2}


def test_an_unknown_encoding_is_refused():
    with pytest.raises(ValueError, match="gif"):
        Image(encoding="gif")


def test_invented_text_is_like_language():
    rng = np.random.default_rng(0)
    samples = [Text().sample(rng) for _ in range(200)]
    for text in samples:
        Text().check(text)
        assert text.endswith(".") and text[0].isupper() and 2 <= text.count(".") <= 5
    words = " ".join(samples).lower().replace(".", "").split()
    counts = sorted((words.count(word) for word in set(words)), reverse=True)
    assert counts[0] > 20 * np.median(counts), "some words come often, most rarely"
    assert len(set("".join(samples))) < 50
    assert len(set(samples)) == 200


def test_invented_text_is_as_long_as_declared():
    text = Text(max_length=12)
    for seed in range(20):
        value = text.sample(np.random.default_rng(seed))
        assert len(value) == 12
        text.check(value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"bytes", r"expected text \(str\), got bytes"),
        (np.zeros(2), "got float64"),
        ("abcdef", "has 6 characters, more than max_length=5"),
    ],
)
def test_what_is_no_text_is_named(value, message):
    with pytest.raises(ValueError, match=message):
        Text(max_length=5).check(value)
    with pytest.raises(ValueError, match="max_length is 0"):
        Text(max_length=0)
