"""Mixing: mass of the targets, images that agree with them, determinism, padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.ops.mixing import CutMix, Mixup, RandomMixing, random_box

MIXINGS = [
    Mixup(alpha=0.8),
    CutMix(),
    RandomMixing(choices=(Mixup(), CutMix(), None), probabilities=(0.4, 0.4, 0.2)),
]


def constant_images(values, size=16):
    """Images of one grey value each, so that a mixed image tells its shares."""
    return jnp.broadcast_to(
        jnp.asarray(values, jnp.float32)[:, None, None, None],
        (len(values), size, size, 1),
    )


@pytest.mark.parametrize("mixing", MIXINGS, ids=lambda m: type(m).__name__)
def test_targets_keep_their_mass_and_images_agree_with_them(mixing):
    size, target = 4, jnp.eye(4)
    values = jnp.asarray([1.0, 2.0, 4.0, 8.0])
    images = constant_images(values)
    mix = jax.jit(lambda rng: mixing(images, target, rng=rng))
    changed = 0
    for seed in range(20):
        mixed, mixed_target = mix(jax.random.key(seed))
        np.testing.assert_allclose(mixed_target.sum(-1), np.ones(size), rtol=1e-6)
        assert mixed_target.min() >= 0
        # The mean grey value of each image is what its target says it is made of.
        np.testing.assert_allclose(
            mixed.mean((1, 2, 3)), mixed_target @ values, rtol=1e-5
        )
        changed += not np.array_equal(mixed, images)
    assert changed > 10


def test_mixup_is_the_formula():
    rng = jax.random.key(3)
    images = jnp.asarray(
        np.random.default_rng(0).normal(size=(3, 4, 4, 2)), jnp.float32
    )
    target = jnp.eye(3)
    share = jax.random.beta(rng, 0.5, 0.5)
    mixed, mixed_target = Mixup(alpha=0.5)(images, target, rng=rng)
    neighbour = images[jnp.array([2, 0, 1])]
    np.testing.assert_allclose(
        mixed, share * images + (1 - share) * neighbour, rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(mixed_target[0], [share, 0, 1 - share], atol=1e-6)


def test_cutmix_pastes_one_box_of_the_neighbour():
    images = constant_images([0.0, 1.0])
    partial = 0
    for seed in range(10):
        mixed, _ = CutMix()(images, jnp.eye(2), rng=jax.random.key(seed))
        pasted = np.asarray(mixed[0, :, :, 0]) == 1
        rows, columns = pasted.any(1), pasted.any(0)
        np.testing.assert_array_equal(pasted, np.outer(rows, columns))
        for line in (rows, columns):
            assert np.abs(np.diff(np.pad(line.astype(int), 1))).sum() in (0, 2)
        partial += 0 < pasted.mean() < 1
    assert partial >= 5


def test_box_area_before_the_border():
    boxes = [
        np.asarray(random_box(jax.random.key(s), 40, 60, jnp.float32(0.25)))
        for s in range(30)
    ]
    # Half of each side unless the border cuts.
    assert max(box.sum() for box in boxes) == 20 * 30
    assert all(box.any() for box in boxes)


@pytest.mark.parametrize("mixing", MIXINGS, ids=lambda m: type(m).__name__)
def test_same_key_same_batch_also_under_jit(mixing):
    images = jnp.asarray(
        np.random.default_rng(0).normal(size=(4, 8, 8, 3)), jnp.float32
    )
    target = jnp.eye(4)
    rng = jax.random.key(11)
    first = mixing(images, target, rng=rng)
    mix = jax.jit(lambda x, t, r: mixing(x, t, rng=r))
    second, other = mix(images, target, rng), mix(images, target, jax.random.key(12))
    np.testing.assert_allclose(first[0], second[0], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(first[1], second[1], rtol=1e-6)
    assert not np.allclose(first[1], other[1])


@pytest.mark.parametrize("mixing", MIXINGS[:2], ids=lambda m: type(m).__name__)
def test_padding_is_given_to_nobody(mixing):
    images = constant_images([1.0, 2.0, np.nan, np.nan])
    target = jnp.eye(4)
    mask = jnp.array([True, True, False, False])
    # Row 0 would take from row 3, which is padding.
    mixed, mixed_target = mixing(images, target, rng=jax.random.key(1), mask=mask)
    np.testing.assert_array_equal(mixed[0], images[0])
    np.testing.assert_array_equal(mixed_target[0], target[0])
    assert np.isfinite(mixed[:2]).all()


def test_choice_follows_the_probabilities():
    mixing = RandomMixing(choices=(None, Mixup(alpha=1.0)), probabilities=(0.75, 0.25))
    images, target = constant_images([0.0, 1.0], size=2), jnp.eye(2)
    keys = jax.random.split(jax.random.key(0), 400)
    mixed = jax.vmap(lambda k: mixing(images, target, rng=k)[1])(keys)
    untouched = np.mean(np.all(mixed == target, axis=(1, 2)))
    assert 0.68 < untouched < 0.82


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mixup(alpha=0), "alpha is 0"),
        (lambda: CutMix(alpha=-1.0), "alpha is -1.0"),
        (lambda: RandomMixing(choices=()), "choices is empty"),
        (
            lambda: RandomMixing(choices=(None,), probabilities=(0.5, 0.5)),
            "2 probabilities for 1 choices",
        ),
        (
            lambda: RandomMixing(choices=(None, None), probabilities=(0.5, 0.6)),
            "sum to 1",
        ),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
