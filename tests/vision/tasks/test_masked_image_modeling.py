"""Masked image modeling: masks by count and cell, losses by hand, padding, learning."""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vision.ops.color_tokens import ColorTokens
from vision.tasks.masked_image_modeling import (
    MaskedImageModeling,
    MaskedTokenPrediction,
)


@flax.struct.dataclass
class Pixels:
    prediction: jax.Array
    mask: jax.Array


class Mean(nn.Module):
    """The least model: one learned patch, guessed everywhere; visible pixels count."""

    patch_size: int = 2

    @nn.compact
    def __call__(self, image, mask, *, train=False):
        P, C = self.patch_size, image.shape[-1]
        patch = self.param("patch", nn.initializers.normal(1.0), (P * P * C,))
        level = image.mean((1, 2, 3))[:, None, None]
        return Pixels(jnp.broadcast_to(patch, (*mask.shape, P * P * C)) + level, mask)

    def represent(self, image, *, train=False):
        return image.mean((1, 2))


def make_batch(size=6, height=8, width=12, seed=0):
    rng = np.random.default_rng(seed)
    shape = (size, height, width, 3)
    return {"image": rng.integers(0, 256, shape, dtype=np.uint8)}


def prepared(task, batch, seed=0, train=False):
    return task.prepare(batch, rng=jax.random.key(seed), train=train)


def cut(image, P=2):
    """Patches by loops: [B, T, P * P * C]."""
    B, H, W = image.shape[:3]
    return np.stack(
        [
            [
                image[b, i : i + P, j : j + P].ravel()
                for i in range(0, H, P)
                for j in range(0, W, P)
            ]
            for b in range(B)
        ]
    )


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("ratio", [0.05, 0.5, 0.6, 0.97])
def test_every_image_hides_exactly_so_many_patches(ratio, train):
    task = MaskedImageModeling(model=Mean(), mask_ratio=ratio)
    batch = prepared(task, make_batch(64), train=train)
    mask = np.asarray(batch["patch_mask"])
    assert mask.dtype == bool and mask.shape == (64, 24)
    np.testing.assert_array_equal(mask.sum(1), int(ratio * 24))
    if 1 < mask.sum(1)[0] < 23:
        assert len(np.unique(mask, axis=0)) > 50
    # The rng decides, and nothing else.
    again = prepared(task, make_batch(64, seed=9), train=not train)["patch_mask"]
    np.testing.assert_array_equal(again, mask)
    other = prepared(task, make_batch(64), seed=1)["patch_mask"]
    assert (other != mask).any()


def test_every_patch_is_hidden_equally_often():
    task = MaskedImageModeling(model=Mean(), mask_ratio=0.5)
    share = np.asarray(prepared(task, make_batch(2000))["patch_mask"]).mean(0)
    np.testing.assert_allclose(share, 0.5, atol=0.06)  # five standard deviations


def test_cells_of_several_patches_are_hidden_as_one():
    task = MaskedImageModeling(model=Mean(), mask_patch_size=(4, 6), mask_ratio=0.5)
    mask = np.asarray(prepared(task, make_batch(16))["patch_mask"])
    cells = mask.reshape(16, 2, 2, 2, 3)  # [B, rows, height, columns, width]
    assert (cells == cells[:, :, :1, :, :1]).all()
    np.testing.assert_array_equal(cells[:, :, 0, :, 0].sum((1, 2)), 2)


def test_masks_do_not_depend_on_the_number_of_devices():
    task = MaskedImageModeling(model=Mean())
    batch = make_batch(16)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec("data"))
    sharded = {"image": jax.device_put(batch["image"], split)}
    run = jax.jit(lambda b, rng: task.prepare(b, rng=rng, train=True)["patch_mask"])
    one = run(batch, jax.random.key(3))
    many = run(sharded, jax.random.key(3))
    np.testing.assert_array_equal(one, many)


@pytest.mark.parametrize("distance", ["l1", "l2"])
@pytest.mark.parametrize("normalize", [False, True])
def test_loss_by_hand(distance, normalize):
    task = MaskedImageModeling(
        model=Mean(),
        distance=distance,
        normalize_target=normalize,
        mean=(0.3,),
        std=(0.2,),
    )
    batch = prepared(task, make_batch())
    guess = np.random.default_rng(1).normal(size=(6, 24, 12)).astype(np.float32)
    scalar, metrics = task.loss(Pixels(guess, batch["patch_mask"]), batch)
    target = cut((make_batch()["image"] / 255 - 0.3) / 0.2)
    if normalize:
        variance = target.var(-1, ddof=1, keepdims=True)
        target = (target - target.mean(-1, keepdims=True)) / np.sqrt(variance + 1e-6)
    error = np.abs(guess - target) ** (1 if distance == "l1" else 2)
    np.testing.assert_allclose(
        scalar, error[np.asarray(batch["patch_mask"])].mean(), rtol=1e-5
    )
    assert scalar.dtype == jnp.float32 and metrics["loss"].count == 6 * 14


def test_guesses_for_visible_patches_do_not_count():
    task = MaskedImageModeling(model=Mean())
    batch = prepared(task, make_batch())
    mask = np.asarray(batch["patch_mask"])
    guess = np.zeros((6, 24, 12), np.float32)
    plain = task.loss(Pixels(guess, mask), batch)[0]
    wild = np.where(mask[..., None], guess, np.nan)
    loss = lambda x: task.loss(Pixels(x, mask), batch)[0]
    value, gradient = jax.value_and_grad(loss)(wild)
    assert value == plain
    np.testing.assert_array_equal(gradient[~mask], 0)
    assert (np.abs(gradient[mask]) > 0).all()


@pytest.mark.parametrize("junk", [0.0, 1e30, np.nan])
def test_padding_has_no_influence(junk):
    task = MaskedImageModeling(model=Mean())
    batch = make_batch()
    image = batch["image"].astype(np.float32) / 255
    params, _ = task.init(jax.random.key(0), batch)
    rows = np.full((3, *image.shape[1:]), junk, np.float32)
    long = {"image": np.concatenate([image, rows]), "mask": np.arange(9) < 6}
    # The same masks for the real rows: they depend on the batch's size.
    long["patch_mask"] = np.asarray(prepared(task, long)["patch_mask"])
    short = {"image": image, "mask": np.ones(6, bool)}
    short["patch_mask"] = long["patch_mask"][:6]

    def loss(params, batch):
        outputs, batch, _ = task.apply(
            params, {}, batch, rng=jax.random.key(1), train=False
        )
        return task.loss(outputs, batch)

    grad = jax.value_and_grad(loss, has_aux=True)
    (plain, metrics), plain_grad = grad(params, short)
    (value, padded), value_grad = grad(params, long)
    np.testing.assert_allclose(value, plain, rtol=1e-6)
    assert metrics["loss"].count == padded["loss"].count == 6 * 14
    np.testing.assert_allclose(value_grad["patch"], plain_grad["patch"], rtol=1e-5)
    nothing = {**prepared(task, long), "mask": np.zeros(9, bool)}
    empty = task.loss(Pixels(jnp.zeros((9, 24, 12)), long["patch_mask"]), nothing)
    assert empty[0] == 0 and empty[1]["loss"].count == 0


def test_the_batch_may_bring_its_masks():
    task = MaskedImageModeling(model=Mean())
    own = np.arange(24) % 3 == np.arange(6)[:, None] % 3
    batch = {**make_batch(), "patch_mask": own.astype(np.uint8)}
    task.check(batch)
    seen = prepared(task, batch, train=True)["patch_mask"]
    assert seen.dtype == bool
    np.testing.assert_array_equal(seen, own)
    with pytest.raises(
        ValueError, match=r"patch_mask has shape \(6, 23\).*4x6 patches"
    ):
        task.check({**batch, "patch_mask": own[:, 1:]})


def test_plain_inputs_are_the_image_alone():
    task = MaskedImageModeling(model=Mean())
    batch = make_batch()
    params, _ = task.init(jax.random.key(0), batch)
    expected = (batch["image"] / 255 - 0.5) / 0.5
    found = task.represent(params, {}, batch)
    np.testing.assert_allclose(found, expected.mean((1, 2)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mask_ratio": 0}, "mask_ratio is 0; "),
        ({"mask_ratio": 1.0}, "mask_ratio is 1.0; "),
        ({"mask_ratio": 0.04}, "mask_ratio 0.04 hides 0 of 24 cells"),
        ({"mask_ratio": 0.2, "mask_patch_size": 4}, None),
        ({"mask_ratio": 0.1, "mask_patch_size": 4}, "hides 0 of 6 cells"),
        ({"mask_patch_size": 3}, "mask_patch_size 3x3 does not fit"),
        ({"mask_patch_size": 1}, "mask_patch_size 1x1 does not fit"),
        ({"mask_patch_size": 6}, "mask_patch_size 6x6 does not fit images of 8x12"),
        ({"model": Mean(5)}, "8x12 cannot be cut into patches of 5x5"),
        ({"distance": "huber"}, "distance is 'huber'; known: l1, l2"),
        ({"mask_key": "mask"}, "mask_key is 'mask'"),
    ],
)
def test_what_cannot_be_hidden_is_named(fields, message):
    if message is None:
        MaskedImageModeling(**{"model": Mean(), **fields}).check(make_batch())
        return
    with pytest.raises(ValueError, match=message) as error:
        MaskedImageModeling(**{"model": Mean(), **fields}).check(make_batch())
    assert "\n" not in str(error.value)


def test_pictures_show_what_was_seen_and_guessed():
    task = MaskedImageModeling(model=Mean(), mean=(0.3,), std=(0.2,))
    batch = jax.device_get(prepared(task, make_batch()))
    mask = batch["patch_mask"]
    truth = cut(batch["image"])
    perfect = task.pictures(Pixels(truth, mask), batch)["reconstructions"]
    assert perfect.dtype == np.uint8 and perfect.shape[-1] == 3
    # Guesses for visible patches are not shown; those for hidden ones are.
    wild = np.where(mask[..., None], truth, 99)
    again = task.pictures(Pixels(wild, mask), batch)["reconstructions"]
    np.testing.assert_array_equal(perfect, again)
    wrong = task.pictures(Pixels(truth - 99, mask), batch)["reconstructions"]
    assert (perfect != wrong).any()
    # A perfect guess under normalised targets is the truth too.
    normalised = MaskedImageModeling(
        model=Mean(), mean=(0.3,), std=(0.2,), normalize_target=True
    )
    guess = (truth - truth.mean(-1, keepdims=True)) / np.sqrt(
        truth.var(-1, ddof=1, keepdims=True) + 1e-6
    )
    same = normalised.pictures(Pixels(guess, mask), batch)["reconstructions"]
    assert np.abs(same.astype(int) - perfect).max() <= 1
    nothing = {**batch, "mask": np.zeros(6, bool)}
    assert task.pictures(Pixels(truth, mask), nothing) == {}


def test_the_loss_falls_in_training():
    from vision.models.simmim import SimMIM
    from vision.models.vit import ViT

    vit = ViT(
        num_classes=0, patch_size=4, embed_dim=16, num_layers=1, num_heads=2, mlp_dim=32
    )
    task = MaskedImageModeling(model=SimMIM(vit), mask_ratio=0.5)
    # Each image is of one colour, which its visible patches tell.
    colour = np.random.default_rng(0).integers(0, 256, (16, 1, 1, 3), dtype=np.uint8)
    batch = {"image": colour.repeat(8, 1).repeat(8, 2)}
    params, _ = jax.jit(task.init)(jax.random.key(0), batch)
    optimizer = optax.adam(1e-2)

    @jax.jit
    def step(params, opt_state, rng):
        def loss(params):
            outputs, seen, _ = task.apply(params, {}, batch, rng=rng, train=True)
            return task.loss(outputs, seen)[0]

        value, grads = jax.value_and_grad(loss)(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state, value

    opt_state, values = optimizer.init(params), []
    for rng in jax.random.split(jax.random.key(1), 150):
        params, opt_state, value = step(params, opt_state, rng)
        values.append(float(value))
    assert np.mean(values[-10:]) < 0.25 * values[0]


@flax.struct.dataclass
class Logits:
    logits: jax.Array
    mask: jax.Array


class Table(nn.Module):
    """The least model of tokens: one learned vector of logits for every patch."""

    vocab_size: int = 64
    patch_size: int = 2

    @nn.compact
    def __call__(self, image, mask, *, train=False):
        init = nn.initializers.normal(1.0)
        logits = self.param("logits", init, (mask.shape[1], self.vocab_size))
        return Logits(logits + image.mean((1, 2, 3))[:, None, None], mask)


TOKENIZER = ColorTokens(patch_size=2, levels=4)


def test_token_loss_by_hand():
    task = MaskedTokenPrediction(model=Table(), tokenizer=TOKENIZER, mean=(0.3,))
    raw = make_batch()
    task.check(raw)
    batch = prepared(task, raw)
    mask, tokens = np.asarray(batch["patch_mask"]), np.asarray(batch["tokens"])
    np.testing.assert_array_equal(mask.sum(1), int(0.4 * 24))
    # Of the image itself, not of its normalised form.
    colour = cut(raw["image"] / 255).reshape(6, 24, 4, 3).mean(2)
    level = np.floor(colour * 4).astype(int)
    np.testing.assert_array_equal(tokens, level @ [16, 4, 1])
    logits = np.random.default_rng(1).normal(size=(6, 24, 64)).astype(np.float32)
    logits[0, :5] += 9 * np.eye(64)[tokens[0, :5]]
    scalar, metrics = task.loss(Logits(logits, mask), batch)
    odds = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    own = np.take_along_axis(odds, tokens[..., None], -1)[..., 0]
    np.testing.assert_allclose(scalar, -np.log(own[mask]).mean(), rtol=1e-5)
    right = (logits.argmax(-1) == tokens)[mask]
    np.testing.assert_allclose(metrics["accuracy"].compute(), right.mean(), rtol=1e-6)
    assert metrics["loss"].count == metrics["accuracy"].count == mask.sum()


@pytest.mark.parametrize("junk", [0.0, np.nan])
def test_padding_and_visible_patches_have_no_influence_on_tokens(junk):
    task = MaskedTokenPrediction(model=Table(), tokenizer=TOKENIZER)
    image = make_batch()["image"].astype(np.float32) / 255
    rows = np.full((2, *image.shape[1:]), junk, np.float32)
    raw = {"image": np.concatenate([image, rows]), "mask": np.arange(8) < 6}
    batch = prepared(task, raw)
    mask = np.asarray(batch["patch_mask"])
    logits = np.random.default_rng(1).normal(size=(8, 24, 64)).astype(np.float32)
    loss = lambda x, b: task.loss(Logits(x, b["patch_mask"]), b)[0]
    short = {name: value[:6] for name, value in batch.items()}
    counted = mask & raw["mask"][:, None]
    wild = np.where(counted[..., None], logits, junk)
    value, gradient = jax.value_and_grad(loss)(wild, batch)
    np.testing.assert_allclose(value, loss(logits[:6], short), rtol=1e-6)
    np.testing.assert_array_equal(gradient[~counted], 0)
    assert (np.abs(gradient[counted]).max(-1) > 0).all()


def test_tokens_that_do_not_fit_the_model_are_named():
    small = MaskedTokenPrediction(model=Table(vocab_size=63), tokenizer=TOKENIZER)
    with pytest.raises(ValueError, match="has 64 tokens, the model 63; set model.voc"):
        small.check(make_batch())
    coarse = ColorTokens(patch_size=4, levels=4)
    with pytest.raises(ValueError, match=r"makes \(6,\) tokens of .* 4x6 patches"):
        MaskedTokenPrediction(model=Table(), tokenizer=coarse).check(make_batch())


def test_pictures_show_the_colours_of_tokens():
    task = MaskedTokenPrediction(model=Table(), tokenizer=TOKENIZER)
    batch = jax.device_get(prepared(task, make_batch()))
    mask, tokens = batch["patch_mask"], batch["tokens"]
    shown = lambda t: task.pictures(Logits(np.eye(64)[t], mask), batch)["tokens"]
    right = shown(tokens)
    np.testing.assert_array_equal(shown(np.where(mask, tokens, 0)), right)
    assert (shown(63 - tokens) != right).any()
    without = MaskedTokenPrediction(model=Table(), tokenizer=lambda image: tokens)
    assert without.pictures(Logits(np.eye(64)[tokens], mask), batch) == {}
