"""Jigsaw: permutations by hand and by property, tiles, labels that decode, learning."""

import functools

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from training import state as states
from training.step import eval_step, train_step
from vision import visualize
from vision.tasks.jigsaw import Jigsaw, cut, permutations, pixel_hash

KEY = jax.random.key(0)


class Linear(nn.Module):
    """The least model: one product over all tiles."""

    num_permutations: int = 4

    @nn.compact
    def __call__(self, tiles, *, train=False):
        x = tiles.reshape(len(tiles), -1)
        return nn.Dense(self.num_permutations, name="head")(x)

    def represent(self, image, *, train=False):
        return image.mean((1, 2))


def make_batch(size=6, height=8, width=8, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (size, height, width, channels), dtype=np.uint8)
    return {"image": image, "label": np.arange(size, dtype=np.int32)}


def puzzle(**fields):
    return Jigsaw(**{"model": Linear(), "grid": 2, "tile_size": 3, **fields})


@functools.cache
def preparation(task, train):
    """Compiled as one program: much faster here than operation by operation."""
    return jax.jit(lambda batch, rng: task.prepare(batch, rng=rng, train=train))


def prepare(task, batch, *, rng=KEY, train=False):
    return jax.device_get(preparation(task, train)(batch, rng))


def distances(found):
    return (found[:, None] != found[None]).sum(-1)


def test_the_farthest_permutations_of_four_by_hand():
    # Each of the first four has no tile where another has it. All others agree with these
    # four in four places together; the fifth agrees with each of them in one.
    expected = [[0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 0, 1], [3, 2, 1, 0], [0, 2, 3, 1]]
    np.testing.assert_array_equal(permutations(4, 5), expected)


@pytest.mark.parametrize("mode", ["max", "mean", "min"])
def test_all_permutations_of_four(mode):
    found = permutations(4, 24, mode=mode)
    assert len({tuple(row) for row in found.tolist()}) == 24
    np.testing.assert_array_equal(
        np.sort(found, axis=1), np.tile(np.arange(4), (24, 1))
    )


@pytest.mark.parametrize("mode", ["max", "mean", "min"])
def test_each_one_is_the_greedy_choice(mode):
    found = permutations(4, 12, mode=mode)
    every = permutations(4, 24)
    for k in range(1, 12):
        free = [p for p in every if not (p == found[:k]).all(1).any()]
        sums = sorted((p != found[:k]).sum() for p in free)
        expected = {"max": sums[-1], "mean": sums[len(sums) // 2], "min": sums[0]}
        assert (found[k] != found[:k]).sum() == expected[mode]


@pytest.mark.parametrize(("count", "nearest"), [(9, 9), (64, 4), (100, 4), (1000, 2)])
def test_permutations_of_nine(count, nearest):
    found = permutations(9, count)
    assert found.shape == (count, 9) and found.dtype == np.int32
    apart = distances(found)[~np.eye(count, dtype=bool)]
    assert apart.min() == nearest
    # Two random ones differ in 8 of 9 places in the mean.
    assert apart.mean() > 8
    np.testing.assert_array_equal(np.sort(found, 1), np.tile(np.arange(9), (count, 1)))


def test_modes_are_ordered_and_sets_are_nested_and_kept():
    means = [
        distances(permutations(9, 32, mode=m)).mean() for m in ("max", "mean", "min")
    ]
    assert means[0] > means[1] + 0.1 and means[1] > means[2] + 1
    np.testing.assert_array_equal(permutations(9, 64)[:9], permutations(9, 9))
    assert permutations(9, 64) is permutations(9, 64)
    with pytest.raises(ValueError):
        permutations(9, 64)[0, 0] = 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((16, 10), "16 tiles; take 2 to 9"),
        ((4, 25), "25 permutations of 4 tiles; there are 1 to 24"),
        ((4, 0), "0 permutations"),
    ],
)
def test_permutations_that_do_not_exist(arguments, message):
    with pytest.raises(ValueError, match=message):
        permutations(*arguments)
    with pytest.raises(ValueError, match="mode is 'median'"):
        permutations(4, 4, mode="median")


def test_tiles_by_hand():
    image = np.arange(25).reshape(1, 5, 5, 1)  # cells of 2x2, one row and column over
    order, offset = np.array([[3, 0, 1, 2]]), np.zeros((1, 4, 2), int)
    cut_once = jax.jit(lambda *x: cut(*x, grid=2, tile_size=2))
    found = np.asarray(cut_once(image, order, offset))[0, ..., 0]
    expected = [
        [[12, 13], [17, 18]],
        [[0, 1], [5, 6]],
        [[2, 3], [7, 8]],
        [[10, 11], [15, 16]],
    ]
    np.testing.assert_array_equal(found, expected)
    offset[0, 1] = (1, 0)
    cut_small = jax.jit(lambda *x: cut(*x, grid=2, tile_size=1))
    found = np.asarray(cut_small(image, order, offset))[0, :, 0, 0, 0]
    np.testing.assert_array_equal(found, [12, 5, 2, 10])


@pytest.mark.parametrize(("height", "width"), [(32, 32), (31, 40)])
def test_tiles_lie_within_their_cells_wherever_they_are_cut(height, width):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (5, height, width, 3), dtype=np.uint8)
    order = np.stack([rng.permutation(9) for _ in range(5)])
    cell = np.array([height // 3, width // 3])
    margin = (np.array([height, width]) - 3 * cell) // 2
    offset = rng.integers(0, cell - 8 + 1, (5, 9, 2))
    found = jax.jit(lambda *x: cut(*x, grid=3, tile_size=8))(image, order, offset)
    assert found.dtype == np.uint8
    for b in range(5):
        for n in range(9):
            y, x = margin + np.divmod(order[b, n], 3) * cell + offset[b, n]
            np.testing.assert_array_equal(found[b, n], image[b, y : y + 8, x : x + 8])


def test_permuting_places_permutes_tiles():
    """cut(order[p]) is cut(order)[p]."""
    image = make_batch()["image"]
    rng = np.random.default_rng(1)
    order = np.stack([rng.permutation(4) for _ in range(6)])
    offset = rng.integers(0, 2, (6, 4, 2))
    run = jax.jit(lambda *x: cut(*x, grid=2, tile_size=3))
    p = np.array([2, 0, 3, 1])
    np.testing.assert_array_equal(
        run(image, order[:, p], offset[:, p]), run(image, order, offset)[:, p]
    )


@pytest.mark.parametrize("train", [False, True])
def test_the_label_decodes_back(train):
    """A tile of constant cells says which cell it is from."""
    cells = np.repeat(np.repeat(np.arange(9).reshape(3, 3), 10, 0), 10, 1)
    image = np.tile(cells[None, :, :, None], (40, 1, 1, 1)).astype(np.uint8)
    image = np.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=255)
    image[:, 0, 0, 0] = np.arange(40)  # so that evaluation's permutations differ
    task = Jigsaw(
        model=Linear(64), tile_size=8, normalize_tiles=False, mean=(0.0,), std=(1.0,)
    )
    found = prepare(task, {"image": image}, train=train)
    assert found["tiles"].shape == (40, 9, 8, 8, 1)
    assert (np.ptp(found["tiles"], axis=(2, 3)) == 0).all(), "tiles cross their cells"
    shown = np.rint(255 * found["tiles"][..., 0, 0, 0]).astype(int)
    label = found["permutation"]
    np.testing.assert_array_equal(shown, task.permutations[label])
    back = np.take_along_axis(shown, np.argsort(task.permutations[label], -1), -1)
    np.testing.assert_array_equal(back, np.tile(np.arange(9), (40, 1)))
    assert len(set(label.tolist())) > 20


def test_training_draws_places_and_labels_and_evaluation_neither():
    task = puzzle(normalize_tiles=False)
    batch = make_batch(400)
    one, again, other = (
        prepare(task, batch, rng=jax.random.key(k), train=True) for k in (1, 1, 2)
    )
    jax.tree.map(np.testing.assert_array_equal, one, again)
    assert (one["permutation"] != other["permutation"]).mean() > 0.5
    assert np.bincount(one["permutation"], minlength=4).min() > 60
    fixed, same = (prepare(task, batch, rng=jax.random.key(k)) for k in (1, 2))
    jax.tree.map(np.testing.assert_array_equal, fixed, same)
    # All 2x2 places within a cell of 4 occur for a tile of 3.
    order = task.permutations[one["permutation"]]
    image = np.asarray(batch["image"], np.float32) / 255
    image = (image - 0.5) / 0.5
    seen = set()
    for b in range(60):
        y, x = np.divmod(order[b, 0], 2)
        cell = image[b, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4]
        places = [(i, j) for i in (0, 1) for j in (0, 1)]
        fits = [
            p
            for p in places
            if np.allclose(
                cell[p[0] : p[0] + 3, p[1] : p[1] + 3], one["tiles"][b, 0], atol=1e-5
            )
        ]
        assert len(fits) == 1
        seen |= set(fits)
    assert len(seen) == 4


def test_evaluation_depends_on_the_picture_alone():
    batch = make_batch(64)
    task = puzzle(model=Linear(24))
    whole = prepare(task, batch)
    part = prepare(task, {"image": batch["image"][10:20]})
    np.testing.assert_array_equal(whole["permutation"][10:20], part["permutation"])
    np.testing.assert_allclose(whole["tiles"][10:20], part["tiles"], atol=1e-5)
    floats = (batch["image"] / 255).astype(np.float32)
    as_floats = prepare(task, {"image": floats})
    np.testing.assert_array_equal(whole["permutation"], as_floats["permutation"])


def test_the_hash_is_even_and_sees_every_pixel():
    run = jax.jit(pixel_hash)
    image = make_batch(4000, 4, 4, 1)["image"]
    counts = np.bincount(np.asarray(run(image)) % 8, minlength=8)
    assert np.abs(counts - 500).max() < 110  # five standard deviations
    one = np.tile(image[:1], (16, 1, 1, 1)).reshape(16, 16)
    one[np.arange(16), np.arange(16)] ^= 1
    assert len(set(np.asarray(run(one.reshape(16, 4, 4, 1))).tolist())) == 16


def test_tiles_are_normalised_one_by_one():
    batch = make_batch(4, 16, 16)
    found = prepare(puzzle(tile_size=7), batch, train=True)["tiles"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.mean((2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(found.std((2, 3)), 1, atol=1e-3)
    flat = {"image": np.full((1, 8, 8, 3), 77, np.uint8)}
    np.testing.assert_allclose(prepare(puzzle(), flat)["tiles"], 0, atol=1e-3)


def test_loss_by_hand_and_padding_without_influence():
    task = puzzle()
    logits = np.random.default_rng(1).normal(size=(6, 4)).astype(np.float32)
    label = np.array([0, 3, 1, 2, 2, 0])
    run = jax.jit(jax.value_and_grad(task.loss, has_aux=True))
    batch = {"permutation": label, "mask": np.ones(6, bool)}
    (scalar, metrics), gradient = run(logits, batch)
    odds = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = -np.log(odds[np.arange(6), label])
    np.testing.assert_allclose(scalar, expected.mean(), rtol=1e-6)
    assert metrics["loss"].count == 6
    hits = (logits.argmax(-1) == label).sum()
    assert metrics["accuracy"].total == hits
    logits[4:] = np.nan
    (scalar, metrics), gradient = run(logits, {**batch, "mask": np.arange(6) < 4})
    np.testing.assert_allclose(scalar, expected[:4].mean(), rtol=1e-6)
    assert metrics["accuracy"].count == 4
    np.testing.assert_array_equal(gradient[4:], 0)
    (scalar, _), _ = run(logits, {**batch, "mask": np.zeros(6, bool)})
    assert scalar == 0


def test_eight_devices_cut_and_learn_like_one():
    task = puzzle()
    batch = make_batch(16)
    kernel = np.random.default_rng(0).normal(0, 0.1, (4 * 27, 4))
    params = {"head": {"kernel": kernel, "bias": np.zeros(4)}}

    def run(params, batch):
        def loss(params):
            outputs, prepared, _ = task.apply(params, {}, batch, rng=KEY, train=True)
            found = {k: prepared[k] for k in ("tiles", "permutation")}
            return task.loss(outputs, prepared)[0], found

        return jax.value_and_grad(loss, has_aux=True)(params)

    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    whole = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec("data"))
    one = jax.jit(run)(params, batch)
    eight = jax.jit(run, in_shardings=(whole, split), out_shardings=whole)(
        params, batch
    )
    np.testing.assert_array_equal(one[0][1]["permutation"], eight[0][1]["permutation"])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), one, eight
    )


def test_it_learns_to_put_constant_cells_in_order():
    rng = np.random.default_rng(0)
    shade = np.repeat(np.repeat(np.array([[40, 90], [140, 190]]), 4, 0), 4, 1)
    noise = rng.integers(0, 30, (48, 8, 8, 1))
    batch = {"image": (shade[None, :, :, None] + noise).astype(np.uint8)}
    task, optimizer = puzzle(normalize_tiles=False), optax.adam(0.03)
    state = jax.jit(lambda: states.create(task, optimizer, batch, seed=0, ema=False))()
    step = jax.jit(lambda s, b: train_step(s, b, task=task, optimizer=optimizer))
    for _ in range(80):
        state, _ = step(state, batch)
    found = jax.jit(lambda s, b: eval_step(s, b, task=task))(state, batch)
    assert jax.device_get(found["accuracy"]).compute() > 0.98


def test_represent_sees_whole_images():
    task, batch = puzzle(), make_batch()
    found = task.represent({}, {}, batch)
    np.testing.assert_allclose(found, task.normalize(batch["image"]).mean((1, 2)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": nn.Dense(4)}, "Dense has no num_permutations"),
        ({"model": Linear(25)}, "25 permutations of 4 tiles"),
        ({"grid": 4}, "16 tiles; take 2 to 9"),
        ({"mode": "far"}, "mode is 'far'"),
        ({"tile_size": 0}, "tile_size is 0"),
        ({"std": (0.0,)}, "std is"),
    ],
)
def test_bad_fields(fields, message):
    with pytest.raises(ValueError, match=message) as error:
        puzzle(**fields)
    assert "\n" not in str(error.value)


def test_images_too_small_for_their_tiles():
    task = puzzle(tile_size=5)
    batch = make_batch()
    for call in (task.check, lambda b: task.prepare(b, rng=KEY, train=True)):
        with pytest.raises(ValueError, match="8x8 in 2x2.*tile_size to at most 4"):
            call(batch)
    with pytest.raises(ValueError, match="no 'image'"):
        task.check({"label": np.zeros(2)})
    puzzle(tile_size=4).check(batch)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("normalize_tiles", [False, True])
def test_pictures_show_the_puzzle_and_the_guess(channels, normalize_tiles):
    task = puzzle(normalize_tiles=normalize_tiles)
    batch = {**make_batch(channels=channels), "mask": np.arange(6) < 3}
    batch = prepare(task, batch)
    logits = 5 * np.eye(4)[batch["permutation"]]
    right = task.pictures(logits, batch)["puzzles"]
    wrong = task.pictures(-logits, batch)["puzzles"]
    assert right.dtype == np.uint8 and right.shape[-1] == 3
    for picture, color in ((right, visualize.GREEN), (wrong, visualize.RED)):
        assert list(color) in picture.reshape(-1, 3).tolist()
    assert task.pictures(logits, {**batch, "mask": np.zeros(6, bool)}) == {}


def test_the_right_guess_solves_the_picture(monkeypatch):
    shown = []
    monkeypatch.setattr(
        visualize, "predictions", lambda pairs, *_, **__: shown.append(pairs)
    )
    task = puzzle(normalize_tiles=False, tile_size=4)
    batch = prepare(task, make_batch())
    task.pictures(np.eye(4)[batch["permutation"]], batch)
    solved = shown[0][:, :, shown[0].shape[2] // 2 :]
    for row in (0, 1):
        for column in (0, 1):
            y, x = 1 + 5 * row, 1 + 5 * column
            expected = make_batch()["image"][:, 4 * row :, 4 * column :][:, :4, :4]
            np.testing.assert_array_equal(solved[:, y : y + 4, x : x + 4], expected)
