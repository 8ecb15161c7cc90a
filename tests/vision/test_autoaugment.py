"""AutoAugment: the published policies, their odds, and the operations of RandAugment."""

import numpy as np
import pytest

from data.features import Image
from vision.autoaugment import CIFAR10, IMAGENET, AutoAugment
from vision.randaugment import CODE, RandAugment


def photo(channels=3, height=30, width=40):
    image = Image(height, width, channels).sample(np.random.default_rng(1))
    image.flags.writeable = False
    return image


def test_the_policies_have_the_shape_and_a_few_cells_of_the_papers_tables():
    for policy in (IMAGENET, CIFAR10):
        assert [len(steps) for steps in policy] == [2] * 25
        for name, probability, magnitude in (s for steps in policy for s in steps):
            assert name in CODE and round(10 * probability) == 10 * probability
            assert magnitude in range(10)
    assert IMAGENET[0] == (("Posterize", 0.4, 8), ("Rotate", 0.6, 9))
    assert IMAGENET[18] == (("ShearX", 0.6, 5), ("Equalize", 1.0, 9))
    assert CIFAR10[0] == (("Invert", 0.1, 7), ("Contrast", 0.2, 6))
    assert CIFAR10[24] == (("TranslateY", 0.7, 9), ("AutoContrast", 0.9, 1))
    names = lambda policy: [name for steps in policy for name, _, _ in steps]
    # As the paper has it: colour on ImageNet, which needs no shifts.
    assert names(IMAGENET).count("Equalize") == 17
    assert not [n for n in names(IMAGENET) if n.startswith("Translate")]
    assert len([n for n in names(CIFAR10) if n.startswith("Translate")]) == 7


@pytest.mark.parametrize("policy", ["imagenet", "cifar10"])
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_stay_uint8_of_their_shape_and_draws_are_the_generators(
    policy, channels
):
    given = {"image": photo(channels), "label": 3}
    seen = set()
    for seed in range(40):
        found, again = (
            AutoAugment(policy)(given, np.random.default_rng(seed)) for _ in range(2)
        )
        assert found["image"].shape == given["image"].shape and found["label"] == 3
        assert found["image"].dtype == np.uint8
        np.testing.assert_array_equal(found["image"], again["image"])
        seen.add(found["image"].tobytes())
    assert len(seen) > 9  # some steps leave this picture as it is


def test_steps_come_one_after_the_other_with_their_strength():
    policy = ((("Posterize", 1.0, 5), ("Solarize", 1.0, 6)),)
    found = AutoAugment(policy)({"image": photo()}, np.random.default_rng(0))
    posterized = photo() >> 6 << 6  # int(4 * 0.5) upper bits
    threshold = int(256 * 0.6)
    expected = np.where(posterized < threshold, posterized, 255 - posterized)
    np.testing.assert_array_equal(found["image"], expected)


def test_operations_are_those_of_randaugment():
    for name, magnitude in (("Color", 3), ("Equalize", 9), ("Sharpness", 7)):
        ours = AutoAugment((((name, 1.0, magnitude),),))
        theirs = RandAugment(1, magnitude, (name,))
        np.testing.assert_array_equal(
            ours({"image": photo()}, np.random.default_rng(0))["image"],
            theirs({"image": photo()}, np.random.default_rng(1))["image"],
        )
    shifted = AutoAugment(((("ShearX", 1.0, 9),),), fill=7)
    found = shifted({"image": photo() // 2 + 100}, np.random.default_rng(0))["image"]
    assert (found == 7).all(-1).any()


def test_probabilities_and_sequences_are_as_frequent_as_they_should():
    image = np.full((2, 2, 1), 10, np.uint8)
    policy = (
        (("Invert", 0.25, 0), ("Identity", 1.0, 0)),
        (("Identity", 1.0, 0), ("Invert", 0.75, 0)),
    )
    draws, transform = np.random.default_rng(0), AutoAugment(policy)
    inverted = [
        transform({"image": image}, draws)["image"].max() == 245 for _ in range(1000)
    ]
    assert abs(np.mean(inverted) - 0.5) < 0.07  # over four standard deviations
    rare, often = (AutoAugment((policy[i],)) for i in (0, 1))
    for one, share in ((rare, 0.25), (often, 0.75)):
        hits = [one({"image": image}, draws)["image"].max() == 245 for _ in range(1000)]
        assert abs(np.mean(hits) - share) < 0.06


def test_another_field_and_mistakes():
    found = AutoAugment(key="view")({"view": photo()}, np.random.default_rng(0))
    assert set(found) == {"view"}
    with pytest.raises(ValueError, match="policy is 'svhn'; give imagenet, cifar10"):
        AutoAugment("svhn")
    with pytest.raises(ValueError, match="unknown operation 'Blur'"):
        AutoAugment(((("Blur", 1.0, 1),),))
    with pytest.raises(ValueError, match="'Invert' has probability 1.5"):
        AutoAugment(((("Invert", 1.5, 1),),))
    with pytest.raises(ValueError, match="magnitude 11"):
        AutoAugment(((("Color", 1.0, 11),),))
    with pytest.raises(ValueError, match="policy is empty"):
        AutoAugment(())
    with pytest.raises(TypeError, match="still encoded"):
        AutoAugment(((("Invert", 1.0, 1),),))({"image": b"x"}, np.random.default_rng(0))
