"""TwoViews: two draws of the same transforms, and what becomes of the example."""

import numpy as np
import pytest

from data.pipeline import Pipeline
from data.sources import Arrays
from vision.transforms import PadAndCrop, RandomFlip, RandomResizedCrop
from vision.views import TwoViews


def rng(seed=0):
    return np.random.default_rng(seed)


def example(height=9, width=12, channels=3, **fields):
    image = rng().integers(0, 256, (height, width, channels), dtype=np.uint8)
    image.flags.writeable = False
    return {"image": image, **fields}


def test_views_are_two_draws_one_after_the_other():
    crop, flip = RandomResizedCrop(8), RandomFlip()
    given = example(label=3, other=b"text")
    found = TwoViews((crop, flip))(given, rng(5))
    draws = rng(5)
    expected = [flip(crop(given, draws), draws)["image"] for _ in range(2)]
    assert found["views"].shape == (2, 8, 8, 3) and found["views"].dtype == np.uint8
    np.testing.assert_array_equal(found["views"], expected)
    assert (found["views"][0] != found["views"][1]).any()
    assert {k: v for k, v in found.items() if k != "views"} == {
        "label": 3,
        "other": b"text",
    }
    assert set(given) == {"image", "label", "other"}


def test_names_of_the_fields():
    given = {"x": example()["image"], "image": 0}
    found = TwoViews((RandomFlip(key="x"),), key="x", out="x")(given, rng())
    assert found["x"].shape == (2, 9, 12, 3) and found["image"] == 0


def test_grey_pictures_keep_their_channel():
    found = TwoViews((PadAndCrop(2),))(example(channels=1), rng())
    assert found["views"].shape == (2, 9, 12, 1)


def test_views_that_cannot_be_made():
    with pytest.raises(ValueError, match="transforms is empty"):
        TwoViews(())

    def shrink(given, draws):
        return {"image": given["image"][: draws.integers(1, 9)]}

    with pytest.raises(ValueError, match=r"views of shapes .*RandomResizedCrop"):
        for seed in range(9):
            TwoViews((shrink,))(example(), rng(seed))


def test_in_a_pipeline_every_step_draws_anew_and_repeatably():
    image = rng().integers(0, 256, (4, 6, 6, 3), dtype=np.uint8)
    pipeline = Pipeline(
        source=Arrays(arrays={"image": image}), transforms=(TwoViews((PadAndCrop(2),)),)
    )
    assert pipeline.element()["views"].shape == (2, 6, 6, 3)
    runs = []
    for _ in range(2):
        with pipeline.train_batches(batch_size=4, seed=1) as batches:
            runs.append([next(batches) for _ in range(2)])
    for one, other in zip(*runs, strict=True):
        assert set(one) == {"views"}
        np.testing.assert_array_equal(one["views"], other["views"])
    assert (runs[0][0]["views"] != runs[0][1]["views"]).any()
