"""Distilled DeiT: parity, published counts, two heads, learning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.import_weights import convert
from vision.models import deit
from vision.models.deit import DeiT

FIXTURE = DeiT(
    num_classes=10,
    patch_size=8,
    embed_dim=32,
    num_layers=3,
    num_heads=4,
    mlp_dim=128,
)


@pytest.mark.parametrize("scan", [False, True])
def test_parity(scan, parity, imported, assert_parity, tap_error):
    model = FIXTURE.clone(scan=scan)
    variables = imported(model, "deit_distilled_timm")
    arrays = parity("deit_distilled_timm")[1]

    @jax.jit
    def run(image):
        logits, captured = model.apply(
            variables,
            image,
            capture_intermediates=lambda module, method: (
                method == "features"
                or (module.name == "block_0" and method == "__call__")
            ),
            mutable="intermediates",
        )
        return logits, captured["intermediates"]

    logits, captured = run(arrays["in_x_nhwc"])
    assert_parity("deit_distilled_timm", "logits", logits)
    assert_parity("deit_distilled_timm", "features", captured["features"][0])
    if not scan:
        ours = captured["encoder"]["block_0"]["__call__"][0]
        assert tap_error("deit_distilled_timm", "blocks.0", ours) < 1e-5


def test_hugging_face_names(parity):
    weights, arrays = parity("deit_distilled_timm")
    template = jax.eval_shape(FIXTURE.init, jax.random.key(0), arrays["in_x_nhwc"])
    expected, _ = convert(weights, template)
    rename = [
        ("cls_token", "embeddings.cls_token"),
        ("dist_token", "embeddings.distillation_token"),
        ("pos_embed", "embeddings.position_embeddings"),
        ("patch_embed.proj", "embeddings.patch_embeddings.projection"),
        ("blocks.", "encoder.layer."),
        ("norm1", "layernorm_before"),
        ("norm2", "layernorm_after"),
        ("attn.proj", "attention.output.dense"),
        ("mlp.fc1", "intermediate.dense"),
        ("mlp.fc2", "output.dense"),
    ]
    heads = {"head": "cls_classifier", "head_dist": "distillation_classifier"}
    other = {}
    for name, tensor in weights.items():
        module, _, leaf = name.rpartition(".")
        if module in heads:
            other[f"{heads[module]}.{leaf}"] = tensor
            continue
        for old, new in rename:
            name = name.replace(old, new)
        if name in ("norm.weight", "norm.bias"):
            name = f"layer{name}"
        if ".attn.qkv." not in name:
            other[f"deit.{name}"] = tensor
            continue
        for part, piece in zip(
            ("query", "key", "value"), np.split(tensor, 3), strict=True
        ):
            path = name.replace("attn.qkv", f"attention.attention.{part}")
            other[f"deit.{path}"] = piece
    found, _ = convert(other, template)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (deit.DeiT_Ti16, 5_910_800),
        pytest.param(deit.DeiT_S16, 22_436_432, marks=pytest.mark.slow),
        pytest.param(deit.DeiT_B16, 87_338_192, marks=pytest.mark.slow),
    ],
)
def test_published_parameter_counts(make, expected, count_parameters):
    assert count_parameters(make(num_classes=1000), (1, 224, 224, 3)) == expected


IMAGE = jnp.asarray(np.random.default_rng(3).normal(size=(5, 8, 8, 3)), jnp.float32)


def tiny(**fields):
    fields = {"num_classes": 4, "num_layers": 1, **fields}
    return DeiT(patch_size=4, embed_dim=16, num_heads=2, mlp_dim=24, **fields)


def test_each_head_reads_its_token_and_evaluation_takes_their_mean(random_variables):
    model = tiny()
    variables = random_variables(model, IMAGE)

    @jax.jit
    def run(variables, image):
        return (
            model.apply(variables, image, train=True),
            model.apply(variables, image),
            model.apply(variables, image, method="features"),
            model.apply(variables, image, method="represent"),
        )

    (first, second), evaluated, tokens, vector = run(variables, IMAGE)
    assert tokens.shape == (5, 2 + 4, 16)
    params = variables["params"]
    for logits, name, token in (
        (first, "head", tokens[:, 0]),
        (second, "distillation_head", tokens[:, 1]),
    ):
        expected = token @ params[name]["kernel"] + params[name]["bias"]
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(evaluated, (first + second) / 2, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(vector, tokens[:, :2].mean(1), rtol=1e-4, atol=1e-5)
    bare = jax.jit(tiny(num_classes=0).apply)
    np.testing.assert_allclose(
        bare({"params": {k: v for k, v in params.items() if "head" not in k}}, IMAGE),
        vector,
        rtol=1e-4,
        atol=1e-5,
    )


def test_the_tokens_differ_and_only_by_what_is_learned(random_variables):
    """With equal tokens and positions the two heads would see the same."""
    model = tiny()
    variables = random_variables(model, IMAGE)
    features = jax.jit(lambda v: model.apply(v, IMAGE, method="features"))
    tokens = features(variables)
    assert not np.allclose(tokens[:, 0], tokens[:, 1], atol=1e-2)
    params = variables["params"]
    params["distillation_token"] = params["class_token"]
    params["position_embedding"][:, 1] = params["position_embedding"][:, 0]
    tokens = features(variables)
    np.testing.assert_allclose(tokens[:, 0], tokens[:, 1], rtol=1e-5, atol=1e-6)


def test_half_precision_keeps_float32_parameters(assert_half_precision):
    assert_half_precision(tiny(dtype="bfloat16"), IMAGE)


class Evaluated(DeiT):
    """Trained on what evaluation answers."""

    def __call__(self, image, *, train=False):
        logits = super().__call__(image, train=train)
        return (logits[0] + logits[1]) / 2 if train else logits


@pytest.mark.slow
def test_it_learns_a_handful_of_images(overfit):
    fields = {"patch_size": 4, "embed_dim": 16, "num_heads": 2, "mlp_dim": 24}
    model = Evaluated(num_classes=4, num_layers=1, **fields)
    losses = overfit(model, IMAGE, steps=40, learning_rate=1e-2)
    assert losses[0] > 1 and losses[-1] < 0.1


def test_errors_name_the_value():
    with pytest.raises(ValueError, match="8x8 cannot be cut into patches of 3x3"):
        jax.eval_shape(tiny().clone(patch_size=3).init, jax.random.key(0), IMAGE)
    with pytest.raises(ValueError, match="num_heads=3 does not divide 16"):
        jax.eval_shape(tiny().clone(num_heads=3).init, jax.random.key(0), IMAGE)
