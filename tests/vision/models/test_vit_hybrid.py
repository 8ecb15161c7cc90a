"""ViT on a convolutional network's map: parity, published counts, files, learning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from vision.import_weights import convert
from vision.models import bit, vit
from vision.models.bit import BiT
from vision.models.vit import ViT

FIXTURE = "hybrid_r50vit_timm"


def tiny(**fields):
    """The fixture's architecture."""
    stem = BiT(
        num_classes=0,
        stage_sizes=(1, 1, 2),
        stage_widths=(32, 32, 64),
        stem_width=32,
        preactivation=False,
        padding="SAME",
        **fields,
    )
    sizes = {"embed_dim": 32, "num_layers": 2, "num_heads": 4, "mlp_dim": 128}
    return ViT(num_classes=10, patch_size=1, stem=stem, **sizes)


def test_parity(parity, imported, assert_parity, tap_error):
    model = tiny()
    variables = imported(model, FIXTURE)
    arrays = parity(FIXTURE)[1]

    @jax.jit
    def run(image):
        logits, found = model.apply(
            variables,
            image,
            capture_intermediates=lambda _, method: method in ("stages", "features"),
            mutable="intermediates",
        )
        found = found["intermediates"]
        return logits, found["features"][0], found["stem"]["stages"][0]

    logits, features, stages = run(arrays["in_x_nhwc"])
    assert_parity(FIXTURE, "logits", logits)
    assert_parity(FIXTURE, "features", features)
    for i in (2, 0):
        tap = f"patch_embed.backbone.stages.{i}"
        assert tap_error(FIXTURE, tap, stages[i].transpose(0, 3, 1, 2)) < 1e-5


@pytest.mark.parametrize(
    ("make", "stem", "size", "expected"),
    [
        (vit.ViT_B1, bit.HybridStem50, 224, 98_659_112),
        pytest.param(
            vit.ViT_B1, bit.HybridStem50, 384, 98_950_952, marks=pytest.mark.slow
        ),
        (vit.ViT_S1, bit.HybridStem26_32, 224, 36_431_912),
        pytest.param(
            vit.ViT_L1, bit.HybridStem50_32, 224, 328_994_856, marks=pytest.mark.slow
        ),
    ],
)
def test_published_parameter_counts(make, stem, size, expected, count_parameters):
    model = make(num_classes=1000, stem=stem(), scan=True)
    assert count_parameters(model, (1, size, size, 3)) == expected


def google_names(template, released):
    """A file as vision_transformer's code writes it; long ago norms had four axes."""
    numbers = ("1", "2", "3") if released else ("0", "1", "0")
    attention, norm, mlp = numbers
    table = {
        "class_token": "cls",
        "position_embedding": "Transformer/posembed_input/pos_embedding",
        "patch_embedding": "embedding",
        "encoder/norm": "Transformer/encoder_norm",
        "attention_norm": "LayerNorm_0",
        "attention": f"MultiHeadDotProductAttention_{attention}",
        "mlp_norm": f"LayerNorm_{norm}",
        "mlp/up": f"MlpBlock_{mlp}/Dense_0",
        "mlp/down": f"MlpBlock_{mlp}/Dense_1",
        "stem/stem_conv": "conv_root",
        "stem/stem_norm": "gn_root",
        "shortcut_conv": "conv_proj",
        "shortcut_norm": "gn_proj",
    }
    rng, weights = np.random.default_rng(0), {}
    for path, leaf in flatten_dict(template["params"], sep="/").items():
        parts, name = path.split("/"), None
        if path in table:
            name = table[path]
        elif "/".join(parts[:-1]) in table:
            name = f"{table['/'.join(parts[:-1])]}/{parts[-1]}"
        elif parts[0] == "stem":
            _, stage, _, block = parts[1].split("_")
            kind = table.get(parts[2])
            if kind is None:
                kind, number = parts[2].split("_")
                kind = f"{'gn' if kind == 'norm' else kind}{int(number) + 1}"
            name = f"block{int(stage) + 1}/unit{int(block) + 1}/{kind}/{parts[-1]}"
        elif parts[0] == "encoder":
            block = parts[1].replace("block_", "encoderblock_")
            middle = "/".join(parts[2:-1])
            if parts[2] == "attention":
                middle = f"{table['attention']}/{parts[3]}"
            else:
                middle = table[middle]
            name = f"Transformer/{block}/{middle}/{parts[-1]}"
        else:
            name = path
        shape = leaf.shape
        if released and parts[0] == "stem" and leaf.ndim == 1:
            shape = (1, 1, 1, *shape)
        weights[name] = rng.normal(size=shape).astype(np.float32)
    return weights


@pytest.mark.parametrize("released", [True, False])
def test_googles_files_fill_it(released):
    template = jax.eval_shape(tiny().init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    weights = google_names(template, released)
    assert (
        "block3/unit2/gn3/scale" in weights and "block1/unit1/gn_proj/bias" in weights
    )
    params, _ = convert(weights, template)
    block = params["stem"]["stage_2_block_1"]
    np.testing.assert_array_equal(
        block["norm_2"]["scale"], weights["block3/unit2/gn3/scale"].ravel()
    )
    np.testing.assert_array_equal(
        block["conv_1"]["kernel"], weights["block3/unit2/conv2/kernel"]
    )
    mlp = f"MlpBlock_{3 if released else 0}"
    np.testing.assert_array_equal(
        params["encoder"]["block_1"]["mlp"]["up"]["kernel"],
        weights[f"Transformer/encoderblock_1/{mlp}/Dense_0/kernel"],
    )


def test_googles_epsilons_differ_as_much_as_said(random_variables):
    """(deviation + 1e-5) for sqrt(variance + 1e-8), GroupNorm's 1e-6 for 1e-5."""
    image = jnp.asarray(
        np.random.default_rng(0).normal(size=(1, 64, 64, 3)), jnp.float32
    )
    variables = random_variables(tiny(), image)
    published = bit.GoogleHybridStem50()
    google = {
        name: getattr(published, name)
        for name in ("variance_epsilon", "deviation_epsilon", "norm_epsilon")
    }
    assert google == {
        "variance_epsilon": 0.0,
        "deviation_epsilon": 1e-5,
        "norm_epsilon": 1e-6,
    }
    models = tiny(), tiny(**google)
    one, other = jax.jit(lambda v: [m.apply(v, image) for m in models])(variables)
    difference = np.abs(one - other).max() / np.abs(one).max()
    assert 1e-7 < difference < 5e-3


def test_tokens_are_the_pixels_of_the_map(random_variables):
    image = jnp.asarray(
        np.random.default_rng(0).normal(size=(2, 32, 48, 3)), jnp.float32
    )
    model = tiny()
    variables = random_variables(model, image)
    params = variables["params"]
    run = jax.jit(
        lambda x: (
            model.apply(variables, x, method="embed"),
            model.stem.apply({"params": params["stem"]}, x, method="features"),
        )
    )
    tokens, feature_map = run(image)
    assert feature_map.shape == (2, 2, 3, 256) and tokens.shape == (2, 1 + 6, 32)
    kernel = params["patch_embedding"]["kernel"][0, 0]
    expected = feature_map.reshape(2, 6, 256) @ kernel
    expected += params["patch_embedding"]["bias"] + params["position_embedding"][:, 1:]
    np.testing.assert_allclose(tokens[:, 1:], expected, rtol=1e-4, atol=1e-4)


def small(dtype=None):
    stem = BiT(
        num_classes=0,
        stage_sizes=(1,),
        stage_widths=(4,),
        stem_width=4,
        num_groups=2,
        preactivation=False,
        padding="SAME",
        dtype=dtype,
    )
    sizes = {"embed_dim": 16, "num_layers": 1, "num_heads": 2, "mlp_dim": 24}
    return ViT(num_classes=4, patch_size=1, stem=stem, dtype=dtype, **sizes)


IMAGE = jnp.asarray(np.random.default_rng(3).normal(size=(5, 16, 16, 3)), jnp.float32)


@pytest.mark.slow
def test_it_learns_a_handful_of_images(overfit):
    losses = overfit(small(), IMAGE, steps=40, learning_rate=1e-2)
    assert losses[0] > 1 and losses[-1] < 0.1


def test_half_precision_keeps_float32_parameters(assert_half_precision):
    assert_half_precision(small("bfloat16"), IMAGE, train=True)


def test_a_patch_of_the_map_must_fit():
    model = small().clone(patch_size=3)
    with pytest.raises(ValueError, match="4x4 cannot be cut into patches of 3x3"):
        model.init(jax.random.key(0), IMAGE)
