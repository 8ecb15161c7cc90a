"""Swin: parity, published counts, windows by hand, linear cost, learning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from training import flops
from vision.import_weights import convert
from vision.models import swin
from vision.models.swin import Swin

FIXTURE = Swin(
    num_classes=10,
    embed_dim=16,
    stage_sizes=(2, 2, 2),
    num_heads=(2, 4, 8),
    window_size=4,
)
TAPS = {
    "patch_norm": "patch_embed",
    "stage_0_block_0": "layers.0.blocks.0",
    "stage_0_block_1": "layers.0.blocks.1",
    "stage_1_merging": "layers.1.downsample",
    "stage_1_block_1": "layers.1",
    "stage_2_block_1": "layers.2",
}


def test_parity(parity, imported, assert_parity, tap_error):
    variables = imported(FIXTURE, "swin_timm")
    arrays = parity("swin_timm")[1]

    @jax.jit
    def run(image):
        logits, captured = FIXTURE.apply(
            variables,
            image,
            capture_intermediates=lambda module, method: (
                method == "features" or module.name in TAPS
            ),
            mutable="intermediates",
        )
        return logits, captured["intermediates"]

    logits, captured = run(arrays["in_x_nhwc"])
    assert_parity("swin_timm", "logits", logits)
    assert_parity("swin_timm", "features", captured["features"][0])
    for ours, theirs in TAPS.items():
        assert tap_error("swin_timm", theirs, captured[ours]["__call__"][0]) < 1e-5


def renamed(weights, *, merging, rename):
    """The fixture in the names of another publisher."""
    found = {}
    for name, tensor in weights.items():
        if ".downsample." in name:
            stage = int(name.split(".")[1])
            name = name.replace(f"layers.{stage}.downsample", merging(stage))
        for old, new in rename:
            name = name.replace(old, new)
        found[name] = tensor
    return found


def in_hugging_face_names(weights):
    rename = [
        ("patch_embed.proj", "embeddings.patch_embeddings.projection"),
        ("patch_embed.norm", "embeddings.norm"),
        ("head.fc", "classifier"),
        ("layers.", "encoder.layers."),
        ("norm1", "layernorm_before"),
        ("norm2", "layernorm_after"),
        ("attn.relative", "attention.self.relative"),
        ("attn.proj", "attention.output.dense"),
        ("mlp.fc1", "intermediate.dense"),
        ("mlp.fc2", "output.dense"),
    ]
    earlier = lambda stage: f"layers.{stage - 1}.downsample"
    found = {}
    for name, tensor in renamed(weights, merging=earlier, rename=rename).items():
        name = f"layer{name}" if name in ("norm.weight", "norm.bias") else name
        prefix = "" if name.startswith("classifier") else "swin."
        if ".attn.qkv." not in name:
            found[prefix + name] = tensor
            continue
        for part, piece in zip(
            ("query", "key", "value"), np.split(tensor, 3), strict=True
        ):
            found[prefix + name.replace("attn.qkv", f"attention.self.{part}")] = piece
    return found


def test_other_publishers_number_mergings_differently(parity):
    weights, arrays = parity("swin_timm")
    template = jax.eval_shape(FIXTURE.init, jax.random.key(0), arrays["in_x_nhwc"])
    expected, _ = convert(weights, template, "timm swin")
    files = {
        "microsoft swin": renamed(
            weights,
            merging=lambda stage: f"layers.{stage - 1}.downsample",
            rename=[("head.fc", "head")],
        ),
        "torchvision swin": renamed(
            weights,
            merging=lambda stage: f"features.{2 * stage}",
            rename=[
                ("patch_embed.proj", "features.0.0"),
                ("patch_embed.norm", "features.0.2"),
                *((f"layers.{i}.blocks", f"features.{2 * i + 1}") for i in range(3)),
                ("mlp.fc1", "mlp.0"),
                ("mlp.fc2", "mlp.3"),
                ("head.fc", "head"),
            ],
        ),
        "hugging_face swin": in_hugging_face_names(weights),
    }
    for naming, other in files.items():
        assert other.keys() != weights.keys()
        # Found out, and asked for.
        for found in (convert(other, template), convert(other, template, naming)):
            jax.tree.map(np.testing.assert_array_equal, found[0], expected)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (swin.Swin_T, 28_288_354),
        pytest.param(swin.Swin_S, 49_606_258, marks=pytest.mark.slow),
        pytest.param(swin.Swin_B, 87_768_224, marks=pytest.mark.slow),
    ],
)
def test_published_parameter_counts(make, expected, count_parameters):
    assert count_parameters(make(num_classes=1000), (1, 224, 224, 3)) == expected


def test_the_large_size_by_hand(count_parameters):
    count = (3 * 16 + 1) * 192 + 2 * 192
    for i, (size, heads) in enumerate(zip((2, 2, 18, 2), (6, 12, 24, 48), strict=True)):
        C = 192 * 2**i
        count += size * (12 * C * C + 13 * C + 13 * 13 * heads)
        count += (4 * C * 2 * C + 8 * C) if i < 3 else 0
    count += 2 * 1536 + 1000 * 1537
    assert count_parameters(swin.Swin_L(num_classes=1000), (1, 224, 224, 3)) == count
    assert round(count / 1e6) == 197  # the paper's table 1


def forward_flops(model, *sides):
    """For images of each side; the parameters are the same for all."""
    images = [jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32) for side in sides]
    variables = jax.eval_shape(model.init, jax.random.key(0), images[0])
    return [flops.count(model.apply, variables, image) for image in images]


def test_cost_is_linear_in_pixels():
    """Doubling the sides costs four times as much, where global attention would cost up
    to sixteen; at 224 pixels it is what the paper's table 1 says."""
    costs = forward_flops(swin.Swin_T(num_classes=0), 224, 448)
    np.testing.assert_allclose(costs[1] / costs[0], 4, rtol=1e-6)
    # One for a multiplication and an addition together, as papers count.
    assert round(costs[0] / 2e9, 1) == 4.5
    # One window for the whole map is global attention.
    whole = {"num_classes": 0, "embed_dim": 8, "stage_sizes": (1,), "num_heads": (1,)}
    everything = [
        forward_flops(Swin(window_size=side // 4, **whole), side)[0]
        for side in (64, 128)
    ]
    assert everything[1] / everything[0] > 12


def loop_attention(x, window, shift, params):
    """Shifted-window attention of one [h, w, C] map, token by token, in numpy."""
    attention, table = params["attention"], params["position_bias"]
    size = (int(len(table) ** 0.5) + 1) // 2
    sides = [-(-n // m) * m for n, m in zip(x.shape, window, strict=False)]
    padded = np.zeros((*sides, x.shape[-1]))
    padded[: x.shape[0], : x.shape[1]] = x
    query, key, value = (
        np.einsum("HWC,CND->HWND", padded, attention[name]["kernel"])
        + attention[name]["bias"]
        for name in ("query", "key", "value")
    )

    def home(*token):
        """A token's place in the rolled map, its window, and whether it came round."""
        rolled = [(p - s) % n for p, s, n in zip(token, shift, sides, strict=True)]
        windows = [p // m for p, m in zip(rolled, window, strict=True)]
        ends = [p >= n - s for p, s, n in zip(rolled, shift, sides, strict=True)]
        return np.array(rolled), (windows, ends)

    out = np.zeros(x.shape)
    for i, j in np.ndindex(*x.shape[:2]):
        place, region = home(i, j)
        logits, values = [], []
        for a, b in np.ndindex(*sides):
            other, its_region = home(a, b)
            if its_region != region:
                continue
            dy, dx = place - other + size - 1
            product = (query[i, j] * key[a, b]).sum(-1) / query.shape[-1] ** 0.5
            logits.append(product + table[dy * (2 * size - 1) + dx])
            values.append(value[a, b])
        weights = np.exp(logits) / np.exp(logits).sum(0)
        mixed = np.einsum("SN,SND->ND", weights, values)
        layer = attention["out"]
        out[i, j] = np.einsum("ND,NDC->C", mixed, layer["kernel"]) + layer["bias"]
    return out


@pytest.mark.parametrize(
    ("grid", "shifted", "window", "shift"),
    [
        ((8, 8), True, (4, 4), (2, 2)),
        ((5, 7), True, (4, 4), (2, 2)),
        ((5, 7), False, (4, 4), (0, 0)),
        # One window high: clipped to the map, and shifted sideways only.
        ((2, 6), True, (2, 4), (0, 2)),
    ],
)
def test_a_block_is_what_a_loop_over_tokens_gives(
    grid, shifted, window, shift, random_variables
):
    """Also where windows do not tile the map."""
    x = np.random.default_rng(1).normal(size=(2, *grid, 6)).astype(np.float32)
    block = swin.SwinBlock(
        num_heads=2,
        window_size=4,
        shifted=shifted,
        mlp_dim=8,
        drop_path_rate=0.0,
        norm=swin.LayerNorm,
        implementation=None,
        dtype=None,
        param_dtype=jnp.float32,
    )
    variables = random_variables(block, x)
    params = variables["params"]
    params["mlp"] = jax.tree.map(np.zeros_like, params["mlp"])  # attention alone
    ours = jax.jit(block.apply)(variables, x) - x
    norm = params["attention_norm"]
    normal = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    normal = normal * norm["scale"] + norm["bias"]
    for image, y in zip(normal, ours, strict=True):
        expected = loop_attention(image, window, shift, params)
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def tiny(**fields):
    fields = {"stage_sizes": (2, 2), "num_heads": (2, 4), "window_size": 2, **fields}
    return Swin(num_classes=3, patch_size=2, embed_dim=8, **fields)


IMAGE = jnp.asarray(np.random.default_rng(7).normal(size=(6, 16, 16, 3)), jnp.float32)


def test_windows_of_the_next_block_join_those_of_the_first(random_variables):
    """A token sees its window after one block, parts of four after two."""
    one = {"stage_sizes": (2,), "num_heads": (2,), "window_size": 4}
    image = IMAGE[:1]

    def support(sizes):
        model = tiny(**{**one, "stage_sizes": sizes})
        variables = random_variables(model, image)

        def token(image):
            return model.apply(variables, image, method="features")[0, 4, 4].sum()

        pixels = np.abs(jax.jit(jax.grad(token))(image)).sum((0, 3)) > 0
        return pixels[::2, ::2]  # one pixel of each patch

    expected = np.zeros((8, 8), bool)
    expected[4:, 4:] = True
    np.testing.assert_array_equal(support((1,)), expected)
    # Shifted by two, its window is tokens 2 to 5: those have seen four windows.
    assert support((2,)).all()


def test_a_rolled_map_does_not_join_its_two_ends(random_variables):
    one = {"stage_sizes": (2,), "num_heads": (2,), "window_size": 4}
    model, image = tiny(**one), IMAGE[:1]
    variables = random_variables(model, image)

    def corner(image):
        return model.apply(variables, image, method="features")[0, 0, 0].sum()

    pixels = np.abs(jax.jit(jax.grad(corner))(image)).sum((0, 3))[::2, ::2]
    expected = np.zeros((8, 8), bool)
    expected[:4, :4] = True
    np.testing.assert_array_equal(pixels > 0, expected)


@pytest.mark.parametrize(
    ("side", "sides"), [(16, (8, 4)), (13, (7, 4)), (1, (1, 1)), (3, (2, 1))]
)
def test_any_size_of_image_will_do(side, sides, stage_shapes):
    shapes = stage_shapes(tiny(window_size=4), (1, side, 2 * side, 3))
    assert tuple(shape[1] for shape in shapes) == sides


def test_parameters_do_not_depend_on_the_size_of_the_image():
    shapes = [
        jax.eval_shape(
            tiny(window_size=4).init, jax.random.key(0), jnp.zeros((1, side, side, 3))
        )
        for side in (5, 40)
    ]
    for other in shapes[1:]:
        assert jax.tree.map(lambda x: x.shape, other) == jax.tree.map(
            lambda x: x.shape, shapes[0]
        )


def test_windows_and_back():
    x = np.arange(2 * 4 * 6).reshape(2, 4, 6, 1)
    windows = swin.to_windows(x, (2, 3))
    assert windows.shape == (8, 6, 1)
    np.testing.assert_array_equal(windows[1, :, 0], [3, 4, 5, 9, 10, 11])
    np.testing.assert_array_equal(swin.from_windows(windows, (4, 6), (2, 3)), x)


def test_the_mask_of_a_small_map_by_hand():
    mask = swin.window_mask((4, 2), (2, 2), (1, 0))
    assert mask.shape == (2, 4, 4)
    assert mask[0].all()
    # The last row came round from the top: rows of the last window do not mix.
    np.testing.assert_array_equal(
        mask[1], np.kron(np.eye(2, dtype=bool), np.ones((2, 2), bool))
    )


def test_offsets_in_a_clipped_window_use_the_middle_of_the_table():
    full = swin.relative_position_index((3, 3), 3)
    assert full.min() == 0 and full.max() == 24 and (np.diag(full) == 12).all()
    assert full[0, 1] == 11 and full[1, 0] == 13  # query less key, in columns
    assert full[0, 3] == 7 and full[3, 0] == 17  # in rows: five columns apart
    clipped = swin.relative_position_index((1, 2), 3)
    np.testing.assert_array_equal(clipped, [[12, 11], [13, 12]])


def test_drop_path_acts_in_training_alone(assert_drop_path_in_training_only):
    plain = tiny(stage_sizes=(2,), num_heads=(2,))
    dropping = plain.copy(drop_path_rate=0.9)
    assert_drop_path_in_training_only(plain, dropping, IMAGE)


def test_half_precision_keeps_float32_parameters(assert_half_precision):
    assert_half_precision(tiny(dtype="bfloat16"), IMAGE)


def test_it_learns_a_handful_of_images(overfit):
    losses = overfit(
        tiny(stage_sizes=(1,), num_heads=(2,)),
        IMAGE[:, :8, :8],
        steps=40,
        learning_rate=1e-2,
    )
    assert losses[0] > 0.8 and losses[-1] < 0.1


def test_errors_name_the_value():
    with pytest.raises(ValueError, match="1 stage_sizes for 2 num_heads"):
        jax.eval_shape(tiny(stage_sizes=(2,)).init, jax.random.key(0), IMAGE)
