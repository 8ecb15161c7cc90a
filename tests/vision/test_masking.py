"""Blockwise masks: how many, how large, in blocks, from the generator alone."""

import numpy as np
import pytest

from vision.masking import BlockwiseMask


def draw(transform, *, height=224, width=224, seed=0):
    example = {"image": np.zeros((height, width, 3), np.uint8), "label": 3}
    made = transform(example, np.random.default_rng(seed))
    assert "patch_mask" not in example and made["label"] == 3
    return made["patch_mask"]


def test_at_most_the_wanted_share_and_rarely_less():
    masks = np.stack([draw(BlockwiseMask(), seed=seed) for seed in range(200)])
    assert masks.dtype == bool and masks.shape == (200, 196)
    counts = masks.sum(1)
    assert counts.max() <= int(0.4 * 196) and counts.min() >= 48
    assert counts.mean() > 0.95 * int(0.4 * 196)
    assert len(np.unique(masks, axis=0)) == 200
    # No corner of the image is always seen.
    assert masks.any(0).all()


def test_hidden_patches_have_hidden_neighbours():
    """Far more often than if they were strewn about."""
    shares = []
    for seed in range(50):
        mask = draw(BlockwiseMask(), seed=seed).reshape(14, 14)
        shares.append((mask[:, 1:] & mask[:, :-1]).sum() / mask[:, 1:].sum())
    assert np.mean(shares) > 0.7


def test_one_block_is_one_rectangle_of_the_wanted_shape():
    shapes = []
    for seed in range(300):
        transform = BlockwiseMask(patch_size=1, mask_ratio=0.04, min_patches=16)
        mask = draw(transform, height=20, width=20, seed=seed).reshape(20, 20)
        rows, columns = np.nonzero(mask)
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        if mask.sum() == height * width:  # one block, not several
            shapes.append((height, width))
    shapes = np.array(shapes)
    assert len(shapes) > 100
    ratio = shapes[:, 0] / shapes[:, 1]
    # 0.3 to 1 / 0.3, up to rounding to whole patches; as many lie as stand.
    assert ratio.min() > 0.2 and ratio.max() < 5
    lying, standing = (ratio < 0.6).mean(), (ratio > 1 / 0.6).mean()
    assert min(lying, standing) > 0.1 and abs(lying - standing) < 0.15


def test_the_generator_decides_and_sides_may_differ():
    transform = BlockwiseMask(patch_size=8, min_patches=4)
    mask = draw(transform, height=64, width=128, seed=5)
    assert mask.shape == (8 * 16,) and 0 < mask.sum() <= int(0.4 * 128)
    np.testing.assert_array_equal(mask, draw(transform, height=64, width=128, seed=5))
    other = draw(transform, height=64, width=128, seed=6)
    assert (mask != other).any()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mask_ratio": 0.0}, "mask_ratio is 0.0"),
        ({"mask_ratio": 1}, "mask_ratio is 1;"),
        ({"min_aspect": 0}, "min_aspect is 0;"),
        ({"min_aspect": 1.5}, "min_aspect is 1.5"),
        ({"patch_size": 15}, "224x224 cannot be cut into patches of 15"),
        ({"patch_size": 56}, "min_patches is 16, but 0.4 of 16 patches are 6"),
        ({"min_patches": 0}, "min_patches is 0"),
    ],
)
def test_errors_name_the_value(fields, message):
    with pytest.raises(ValueError, match=message) as error:
        draw(BlockwiseMask(**fields))
    assert "\n" not in str(error.value)
