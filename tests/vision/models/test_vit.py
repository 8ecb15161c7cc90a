"""ViT: parity in three namings, published counts, properties, learning."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from layers.positions import sincos_2d
from vision.import_weights import convert, load_file
from vision.models import vit
from vision.models.vit import ViT

FIXTURES = {
    "vit_timm_cls": {"num_layers": 3, "mlp_dim": 128},
    "vit_hf": {"num_layers": 3, "mlp_dim": 64, "norm_epsilon": 1e-12},
    "google_vit_token": {"num_layers": 2, "mlp_dim": 64, "activation": "gelu_tanh"},
}
FEATURES = {"vit_timm_cls": "features", "vit_hf": "last_hidden"}


def fixture_model(name, **fields):
    fields = {**FIXTURES[name], **fields}
    return ViT(num_classes=10, patch_size=8, embed_dim=32, num_heads=4, **fields)


@pytest.mark.parametrize("name", FIXTURES)
def test_parity(name, parity, imported, assert_parity):
    model = fixture_model(name)
    variables = imported(model, name)

    @jax.jit
    def run(image):
        logits, captured = model.apply(
            variables,
            image,
            capture_intermediates=lambda _, method: method == "features",
            mutable="intermediates",
        )
        return logits, captured["intermediates"]["features"][0]

    logits, features = run(parity(name)[1]["in_x_nhwc"])
    assert_parity(name, "logits", logits)
    if name in FEATURES:
        assert_parity(name, FEATURES[name], features)


@pytest.mark.parametrize("attention", ["einsum", "xla"])
@pytest.mark.parametrize("fields", [{"scan": True}, {"remat": "block"}])
def test_parity_of_other_ways_to_compute_it(
    attention, fields, parity, imported, assert_parity
):
    model = fixture_model("vit_timm_cls", attention_implementation=attention, **fields)
    variables = imported(model, "vit_timm_cls")
    logits = jax.jit(model.apply)(variables, parity("vit_timm_cls")[1]["in_x_nhwc"])
    assert_parity("vit_timm_cls", "logits", logits)


def test_released_google_names_hold_the_same_weights(parity, imported):
    model = fixture_model("google_vit_token")
    now = imported(model, "google_vit_token")
    template = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    file = parity.folder / "google_vit_token" / "released_naming.npz"
    released, _ = convert(load_file(file), template)
    jax.tree.map(np.testing.assert_array_equal, released, now["params"])


def test_published_hugging_face_names_hold_the_same_weights(parity, imported):
    model = fixture_model("vit_hf")
    now = imported(model, "vit_hf")
    names = json.loads((parity.folder / "vit_hf" / "hub_names.json").read_text())
    weights = parity("vit_hf")[0]
    published = {name: weights[memory] for name, memory in names["map"].items()}
    template = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    jax.tree.map(
        np.testing.assert_array_equal, convert(published, template)[0], now["params"]
    )


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (vit.ViT_Ti16, 5_717_416),
        pytest.param(vit.ViT_S16, 22_050_664, marks=pytest.mark.slow),
        pytest.param(vit.ViT_S32, 22_878_952, marks=pytest.mark.slow),
        pytest.param(vit.ViT_B8, 86_576_872, marks=pytest.mark.slow),
        (vit.ViT_B16, 86_567_656),
        pytest.param(vit.ViT_B32, 88_224_232, marks=pytest.mark.slow),
        pytest.param(vit.ViT_L16, 304_326_632, marks=pytest.mark.slow),
        pytest.param(vit.ViT_L32, 306_535_400, marks=pytest.mark.slow),
        pytest.param(vit.ViT_H14, 632_045_800, marks=pytest.mark.slow),
    ],
)
def test_published_parameter_counts(make, expected, count_parameters):
    model = make(num_classes=1000)
    assert count_parameters(model, (1, 224, 224, 3)) == expected
    scanned = make(num_classes=1000, scan=True)
    assert count_parameters(scanned, (1, 224, 224, 3)) == expected


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (vit.ViT_S16, 22_049_896),
        pytest.param(vit.ViT_S32, 22_878_184, marks=pytest.mark.slow),
        pytest.param(vit.ViT_B16, 86_566_120, marks=pytest.mark.slow),
        pytest.param(vit.ViT_B32, 88_222_696, marks=pytest.mark.slow),
        pytest.param(vit.ViT_H14, 632_043_240, marks=pytest.mark.slow),
    ],
)
def test_published_parameter_counts_of_average_pooling(
    make, expected, count_parameters
):
    model = make(num_classes=1000, pooling="average")
    assert count_parameters(model, (1, 224, 224, 3)) == expected


@pytest.mark.parametrize(
    ("make", "sizes", "millions"),
    [
        # (D, L, F) of "Scaling Vision Transformers", table 2, with the sizes given there.
        (vit.ViT_L14, (1024, 24, 4096), 304),
        pytest.param(vit.ViT_g14, (1408, 40, 6144), 1011, marks=pytest.mark.slow),
        pytest.param(vit.ViT_G14, (1664, 48, 8192), 1843, marks=pytest.mark.slow),
    ],
)
def test_parameter_counts_by_hand(make, sizes, millions, count_parameters):
    D, L, F = sizes
    block = 4 * (D * D + D) + (2 * D * F + F + D) + 4 * D
    stem = (14 * 14 * 3 * D + D) + D + (256 + 1) * D
    expected = stem + L * block + 2 * D + 1000 * (D + 1)
    count = count_parameters(make(num_classes=1000, scan=True), (1, 224, 224, 3))
    assert count == expected
    # The papers leave out or add some of head, positions and pooling.
    assert abs(count / 1e6 - millions) < 2.5


def test_attention_pooling_and_representation_counts(count_parameters):
    D, F, shape = 192, 768, (1, 224, 224, 3)
    token = count_parameters(vit.ViT_Ti16(num_classes=1000), shape)
    pooled = vit.ViT_Ti16(num_classes=1000, pooling="attention")
    # No class token and its position, but a probe, an attention, a norm and an MLP.
    pool = D + 4 * (D * D + D) + 2 * D + (2 * D * F + F + D)
    assert count_parameters(pooled, shape) == token - 2 * D + pool
    wider = vit.ViT_Ti16(num_classes=1000, representation_dim=256)
    extra = (D + 1) * 256 + (256 - D) * 1000
    assert count_parameters(wider, shape) == token + extra


IMAGE = jnp.asarray(np.random.default_rng(3).normal(size=(5, 8, 8, 3)), jnp.float32)


def tiny(**fields):
    fields = {"num_classes": 4, "num_layers": 2, **fields}
    return ViT(patch_size=2, embed_dim=16, num_heads=2, mlp_dim=24, **fields)


@pytest.fixture
def started(random_variables):
    return lambda model: random_variables(model, IMAGE)


@pytest.mark.parametrize("pooling", ["token", "average", "attention"])
def test_without_positions_the_order_of_patches_does_not_matter(pooling, started):
    model = tiny(pooling=pooling, positions="none")
    variables = started(model)
    rows = jnp.array([2, 0, 3, 1])
    shuffled = IMAGE.reshape(5, 4, 2, 8, 3)[:, rows].reshape(IMAGE.shape)
    placed = tiny(pooling=pooling, positions="sincos2d")
    run = jax.jit(lambda x: [m.apply(variables, x) for m in (model, placed)])
    (one, placed_one), (other, placed_other) = run(IMAGE), run(shuffled)
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    assert not np.allclose(placed_one, placed_other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("pooling", ["token", "average"])
def test_parts_make_the_whole(pooling, started):
    model = tiny(pooling=pooling)
    variables = started(model)

    @jax.jit
    def run(image):
        tokens = model.apply(variables, image, method="embed")
        encoded = model.apply(variables, tokens, method="encode")
        vectors = model.apply(variables, encoded, method="pool")
        features = model.apply(variables, image, method="features")
        return tokens, encoded, vectors, features, model.apply(variables, image)

    tokens, encoded, vectors, features, logits = run(IMAGE)
    assert tokens.shape == encoded.shape == (5, 16 + (pooling == "token"), 16)
    np.testing.assert_allclose(encoded, features, rtol=1e-5, atol=1e-5)
    head = variables["params"]["head"]
    np.testing.assert_allclose(
        vectors @ head["kernel"] + head["bias"], logits, rtol=1e-4, atol=1e-4
    )


def test_encode_takes_any_number_of_tokens(started):
    model = tiny()
    variables = started(model)
    tokens = jnp.asarray(np.random.default_rng(0).normal(size=(2, 7, 16)), jnp.float32)
    encode = jax.jit(lambda x: model.apply(variables, x, method="encode"))
    few, all_ = encode(tokens[:, :3]), encode(tokens)
    assert few.shape == (2, 3, 16)
    assert not np.allclose(few, all_[:, :3], atol=1e-3)


@pytest.mark.parametrize("positions", ["sincos2d", "sincos2d_mae"])
def test_sincos_positions_are_fixed_and_zero_for_the_class_token(positions, started):
    model = tiny(positions=positions)
    variables = started(model)
    assert "position_embedding" not in variables["params"]
    bare = tiny(positions="none")
    difference = model.apply(variables, IMAGE, method="embed") - bare.apply(
        variables, IMAGE, method="embed"
    )
    np.testing.assert_allclose(difference[:, 0], 0, atol=1e-6)
    table = sincos_2d(4, 4, 16, reach_last=positions == "sincos2d")
    expected = np.broadcast_to(table, (5, 16, 16))
    np.testing.assert_allclose(difference[:, 1:], expected, atol=1e-5)


def test_drop_path_of_rate_zero_changes_nothing_and_above_it_does(started):
    variables = started(tiny())
    models = [tiny(), tiny(drop_path_rate=0.5)]

    @jax.jit
    def run(image):
        rngs = {"dropout": jax.random.key(0)}
        return [
            [m.apply(variables, image, train=t, rngs=rngs) for m in models]
            for t in (False, True)
        ]

    (plain, evaluated), (trained, dropped) = run(IMAGE)
    np.testing.assert_allclose(evaluated, plain, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(trained, plain, rtol=1e-5, atol=1e-5)
    assert not np.allclose(dropped, plain, atol=1e-2)


def test_half_precision_keeps_float32_parameters(started, assert_half_precision):
    model = tiny(dtype="bfloat16")
    assert_half_precision(model, IMAGE)
    variables = started(model)
    half, full = jax.jit(lambda v: [m.apply(v, IMAGE) for m in (model, tiny())])(
        variables
    )
    assert half.dtype == jnp.bfloat16 and full.dtype == jnp.float32
    scale = np.abs(full).max()
    np.testing.assert_allclose(half.astype(np.float32), full, atol=0.05 * scale)


@pytest.mark.parametrize(
    "pooling", ["token", pytest.param("attention", marks=pytest.mark.slow)]
)
def test_it_learns_a_handful_of_images(pooling, overfit):
    model = tiny(pooling=pooling, num_layers=1)
    losses = overfit(model, IMAGE, steps=40, learning_rate=1e-2)
    assert losses[0] > 1 and losses[-1] < 0.1


@pytest.mark.parametrize(
    ("fields", "shape", "message"),
    [
        ({"pooling": "max"}, (1, 8, 8, 3), "pooling is 'max'; known: token"),
        ({"positions": "rotary"}, (1, 8, 8, 3), "positions is 'rotary'"),
        ({}, (1, 8, 9, 3), "8x9 cannot be cut into patches of 2x2"),
    ],
)
def test_errors_name_the_value(fields, shape, message):
    with pytest.raises(ValueError, match=message):
        tiny(**fields).init(jax.random.key(0), jnp.zeros(shape))
