"""BEiT: parity, published counts, what the position bias knows, what masks hide."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from layers.attention import MultiHeadAttention
from vision.import_weights import convert
from vision.models import beit
from vision.models.beit import BEiT, BEiTPretraining, relative_position_index

SMALL = {"patch_size": 8, "embed_dim": 32, "num_heads": 4}
TIMM = BEiT(num_classes=10, num_layers=3, mlp_dim=128, **SMALL)
HUGGING_FACE = BEiTPretraining(
    BEiT(
        num_classes=0,
        num_layers=2,
        mlp_dim=64,
        pooling="token",
        shared_position_bias=True,
        norm_epsilon=1e-12,
        **SMALL,
    ),
    vocab_size=50,
    extra_norm=True,
)
TINY = {"patch_size": 4, "embed_dim": 8, "num_layers": 1, "num_heads": 2, "mlp_dim": 12}
TWO = {**TINY, "num_layers": 2}
IMAGE = np.random.default_rng(0).normal(size=(2, 8, 12, 3)).astype(np.float32)
MASK = np.array([[1, 0, 0, 1, 0, 0], [0, 1, 1, 0, 1, 0]], bool)


def pretraining(**fields):
    fields = {"pooling": "token", "shared_position_bias": True, **fields}
    return BEiTPretraining(BEiT(num_classes=0, **TINY, **fields), vocab_size=7)


@pytest.fixture(scope="module")
def filled():
    """filled(model, *arguments): variables without zeros."""

    def draw(model, *arguments):
        shapes = jax.eval_shape(model.init, jax.random.key(0), *arguments)
        rng = np.random.default_rng(1)
        leaf = lambda x: rng.normal(size=x.shape, scale=0.5).astype(np.float32)
        return jax.tree.map(leaf, shapes)

    return draw


@pytest.mark.parametrize("remat", ["none", "block"])
def test_parity_with_timm(remat, parity, imported, assert_parity):
    model = TIMM.copy(remat=remat)
    variables = imported(model, "beit_timm")

    @jax.jit
    def run(image):
        features = model.apply(variables, image, method="features")
        return model.apply(variables, image), features

    logits, features = run(parity("beit_timm")[1]["in_x_nhwc"])
    assert_parity("beit_timm", "logits", logits)
    assert_parity("beit_timm", "features", features)


def test_parity_with_hugging_face_in_both_of_its_namings(parity, assert_parity):
    name = "beit_hf_mim"
    weights, arrays = parity(name)
    image, mask = arrays["in_x_nhwc"], arrays["in_mask"]
    template = jax.eval_shape(HUGGING_FACE.init, jax.random.key(0), image, mask)
    params, _ = convert(weights, template)
    output = jax.jit(HUGGING_FACE.apply)({"params": params}, image, mask)
    assert_parity(name, "logits", output.logits)
    np.testing.assert_array_equal(output.mask, mask)
    names = json.loads((parity.folder / name / "hub_names.json").read_text())
    published = {hub: weights[memory] for hub, memory in names["map"].items()}
    again, _ = convert(published, template)
    jax.tree.map(np.testing.assert_array_equal, again, params)


@pytest.mark.parametrize(
    ("size", "published"),
    [
        ("BEiT_B16", 86_530_984),
        pytest.param("BEiT_L16", 304_430_568, marks=pytest.mark.slow),
    ],
)
def test_published_parameter_counts(size, published, count_parameters):
    model = getattr(beit, size)(num_classes=1000)
    assert count_parameters(model, (1, 224, 224, 3)) == published


def test_published_parameter_count_of_pretraining():
    backbone = beit.BEiT_B16(num_classes=0, pooling="token", shared_position_bias=True)
    model = BEiTPretraining(backbone, extra_norm=True)
    shapes = jax.eval_shape(
        model.init,
        jax.random.key(0),
        jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32),
        jax.ShapeDtypeStruct((1, 196), jnp.bool_),
    )
    assert sum(x.size for x in jax.tree.leaves(shapes)) == 91_967_312


@pytest.mark.parametrize("grid", [(1, 1), (2, 3), (3, 2), (4, 4)])
def test_a_row_of_the_table_is_an_offset_and_the_class_token_has_its_own(grid):
    h, w = grid
    index = relative_position_index(h, w)
    cells = [(y, x) for y in range(h) for x in range(w)]
    rows = {}
    for q, (qy, qx) in enumerate(cells):
        for k, (ky, kx) in enumerate(cells):
            rows.setdefault((qy - ky, qx - kx), set()).add(index[1 + q, 1 + k])
    assert all(len(found) == 1 for found in rows.values())
    flat = [found.pop() for _, found in sorted(rows.items())]
    # Every offset that occurs, in order: the table has no row to spare.
    assert flat == list(range((2 * h - 1) * (2 * w - 1)))
    n = len(flat)
    assert set(index[0, 1:]) == {n} and set(index[1:, 0]) == {n + 1}
    assert index[0, 0] == n + 2


def test_bias_moves_with_the_patches():
    """The bias between two patches is that of the two patches beside them."""
    layer = beit.RelativePositionBias(3)
    table = np.random.default_rng(0).normal(size=(7 * 9 + 3, 3)).astype(np.float32)
    bias = layer.apply({"params": {"table": table}}, (4, 5))
    assert bias.shape == (1, 3, 21, 21)
    patches = np.asarray(bias)[0, :, 1:, 1:].reshape(3, 4, 5, 4, 5)
    np.testing.assert_array_equal(patches[:, 1:, :, 1:], patches[:, :-1, :, :-1])
    np.testing.assert_array_equal(patches[:, :, 1:, :, 1:], patches[:, :, :-1, :, :-1])
    assert (patches[:, 1:, :, 1:] != patches[:, 1:, :, :-1]).any()


def test_without_bias_the_network_knows_no_positions(filled, run):
    """Patches in another order: the representation notices through the bias alone."""
    model = BEiT(num_classes=0, **TINY)
    variables = filled(model, IMAGE)
    turned = IMAGE.reshape(2, 2, 4, 12, 3)[:, ::-1].reshape(IMAGE.shape)
    assert (
        np.abs(run(model, variables, turned) - run(model, variables, IMAGE)).max()
        > 1e-3
    )
    still = jax.tree_util.tree_map_with_path(
        lambda path, x: 0 * x if path[-1].key == "table" else x, variables
    )
    assert np.abs(run(model, still, IMAGE) - run(model, variables, IMAGE)).max() > 1e-3
    np.testing.assert_allclose(
        run(model, still, turned), run(model, still, IMAGE), rtol=1e-4, atol=1e-5
    )


def test_one_shared_table_is_the_same_table_in_every_block(filled, run):
    shared = BEiT(num_classes=3, shared_position_bias=True, **TWO)
    variables = filled(shared, IMAGE)
    params = dict(variables["params"])
    table = params.pop("position_bias")
    params |= {f"position_bias_{i}": table for i in range(2)}
    own = BEiT(num_classes=3, **TWO)
    np.testing.assert_allclose(
        run(own, {"params": params}, IMAGE), run(shared, variables, IMAGE), rtol=1e-5
    )


@pytest.mark.parametrize("pooling", ["token", "average"])
def test_pooling(pooling, filled, run):
    model = BEiT(num_classes=3, pooling=pooling, **TINY)
    variables = filled(model, IMAGE)
    params = variables["params"]
    assert ("bias" in params["block_0"]["attention"]["query"]) and (
        "bias" not in params["block_0"]["attention"]["key"]
    )
    tokens = np.asarray(run(model, variables, IMAGE, method="features"))
    assert tokens.shape == (2, 7, 8)
    x = tokens[:, 0]
    if pooling == "average":
        x = tokens[:, 1:].mean(1)
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        x = x * params["norm"]["scale"] + params["norm"]["bias"]
    found = run(model, variables, IMAGE, method="represent")
    np.testing.assert_allclose(found, x, rtol=1e-4, atol=1e-5)
    logits = found @ params["head"]["kernel"] + params["head"]["bias"]
    np.testing.assert_allclose(run(model, variables, IMAGE), logits, rtol=1e-4)


def test_a_bias_of_the_keys_would_change_nothing(filled, run):
    x = IMAGE.reshape(2, -1, 8)
    with_bias, without = (
        MultiHeadAttention(2),
        MultiHeadAttention(2, use_key_bias=False),
    )
    variables = filled(with_bias, x)
    params = jax.tree.map(lambda leaf: leaf, variables["params"])
    assert "bias" in params["key"]
    del params["key"]["bias"]
    assert jax.tree.structure(params) == jax.tree.structure(
        filled(without, x)["params"]
    )
    np.testing.assert_allclose(
        run(without, {"params": params}, x),
        run(with_bias, variables, x),
        rtol=1e-4,
        atol=1e-5,
    )


def pixels(mask, inside, outside):
    """Images that are `inside` on the mask's patches and `outside` elsewhere."""
    where = mask.reshape(2, 2, 3, 1).repeat(4, 1).repeat(4, 2)
    return np.where(where, inside, outside)


@pytest.mark.parametrize("positions", ["none", "learned"])
def test_hidden_pixels_change_nothing_and_visible_ones_everything(
    positions, filled, run
):
    model = pretraining(positions=positions)
    variables = filled(model, IMAGE, MASK)
    apply = jax.jit(lambda image: run(model, variables, image, MASK).logits)
    plain = apply(IMAGE)
    assert plain.shape == (2, 6, 7)
    np.testing.assert_array_equal(apply(pixels(MASK, 1e3, IMAGE)), plain)
    changed = apply(pixels(MASK, IMAGE, IMAGE + 1))
    assert (np.abs(changed - plain).max(-1) > 1e-4).all()
    gradient = np.abs(jax.grad(lambda image: (apply(image) ** 2).sum())(IMAGE))
    assert pixels(MASK, gradient, 0).max() == 0
    assert pixels(MASK, 1, gradient).min() > 0


def test_with_nothing_hidden_it_is_the_backbone_and_a_linear_layer(filled, run):
    model = pretraining()
    variables = filled(model, IMAGE, MASK)
    params = variables["params"]
    assert set(params) == {"backbone", "mask_token", "head"}
    backbone = {"params": params["backbone"]}
    tokens = run(model.backbone, backbone, IMAGE, method="features")[:, 1:]
    expected = tokens @ params["head"]["kernel"] + params["head"]["bias"]
    output = run(model, variables, IMAGE, np.zeros_like(MASK))
    np.testing.assert_allclose(output.logits, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(
        run(model, variables, IMAGE, method="represent"),
        run(model.backbone, backbone, IMAGE, method="represent"),
    )


def test_learned_positions_and_classes_leave_no_parameter_unused(filled, run):
    model = BEiT(num_classes=3, positions="learned", **TINY)
    variables = filled(model, IMAGE)
    assert variables["params"]["position_embedding"].shape == (1, 7, 8)
    loss = lambda v: (run(model, v, IMAGE) ** 2).sum()
    gradients = jax.jit(jax.grad(loss))(variables)
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(gradients))


def test_dropping_only_in_training(filled, run):
    plain = BEiT(num_classes=3, **TWO)
    variables = filled(plain, IMAGE)
    dropping = plain.copy(drop_path_rate=0.9, dropout_rate=0.3)
    calm = run(dropping, variables, IMAGE, train=False)
    np.testing.assert_array_equal(calm, run(plain, variables, IMAGE))
    rngs = {"dropout": jax.random.key(0)}
    wild = run(dropping, variables, IMAGE, train=True, rngs=rngs)
    assert np.abs(wild - calm).max() > 1e-3


def test_half_precision_keeps_float32_parameters():
    model = pretraining(dtype=jnp.bfloat16)
    variables = jax.eval_shape(model.init, jax.random.key(0), IMAGE, MASK)
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    output = jax.eval_shape(model.apply, variables, IMAGE, MASK)
    assert output.logits.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (BEiT(num_classes=0, pooling="attention", **TINY), (IMAGE,), "pooling is 'att"),
        (BEiT(num_classes=0, positions="x", **TINY), (IMAGE,), "positions is 'x'"),
        (BEiT(num_classes=0, **TINY), (IMAGE[:, :7],), "images of 7x12"),
        (pretraining(pooling="average"), (IMAGE, MASK), "pooling is 'average'"),
        (pretraining(), (IMAGE, MASK[:, 1:]), r"bool of shape \(2, 5\).*\(2, 6\)"),
        (pretraining(), (IMAGE, MASK * 1.0), "mask is float"),
    ],
)
def test_errors_name_the_value(model, arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        jax.eval_shape(model.init, jax.random.key(0), *arguments)
    assert "\n" not in str(error.value)


def test_tokens_that_make_no_square_need_their_grid(filled, run):
    model = BEiT(num_classes=0, **TINY)
    variables = filled(model, IMAGE)
    tokens = run(model, variables, IMAGE, method="embed")
    encode = lambda **k: run(model, variables, tokens, method="encode", **k)
    np.testing.assert_array_equal(
        encode(grid=(2, 3)), run(model, variables, IMAGE, method="features")
    )
    with pytest.raises(ValueError, match="6 patches do not make a grid of 2x2"):
        encode()


@pytest.mark.slow
def test_it_learns_one_batch(overfit):
    image = np.random.default_rng(0).normal(size=(6, 8, 8, 3)).astype(np.float32)
    losses = overfit(BEiT(num_classes=3, **TINY), image)
    assert losses[-1] < 0.2 * losses[0]
