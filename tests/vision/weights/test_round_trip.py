"""Weights in and out again: the same tensors, bit for bit, for every table there is.

Fixtures go through the models they belong to. Tables go by themselves, through leaves made
up from their rules, so that a new table is tested without a line here.
"""

import json
import re

import jax
import numpy as np
import pytest

from training import config as configs
from training.errors import ConfigError
from training.weight_files import convert, export, naming_for
from vision.import_weights import NAMINGS

VIT = {"num_classes": 10, "patch_size": 8, "embed_dim": 32, "num_layers": 3}
VIT |= {"type": "vision.models.vit.ViT", "num_heads": 4, "mlp_dim": 128}
HUGGING_FACE = VIT | {"mlp_dim": 64, "norm_epsilon": 1e-12}
RESNET = {"type": "vision.models.resnet.ResNet", "num_classes": 10}
RESNET |= {"stage_sizes": (1, 1, 2, 1), "stage_widths": (16, 24, 32, 48)}
VGG = {"type": "vision.models.vgg.VGG11", "num_classes": 10, "hidden_dims": (64, 64)}
VGG |= {"stage_widths": (8, 16, 24, 32, 32)}
MIXER = {**VIT, "type": "vision.models.mlp_mixer.MlpMixer", "token_mlp_dim": 16}
MIXER = {k: v for k, v in MIXER.items() if k not in ("num_heads", "mlp_dim")}
HYBRID_STEM = {
    "type": "vision.models.bit.BiT",
    "num_classes": 0,
    "stage_sizes": (1, 1, 2),
    "stage_widths": (32, 32, 64),
    "stem_width": 32,
    "preactivation": False,
    "padding": "SAME",
}
MAE = {"decoder_embed_dim": 24, "decoder_num_layers": 2, "decoder_num_heads": 2}
MAE |= {"type": "vision.models.mae.MAE", "decoder_mlp_dim": 48}
MAE["backbone"] = {
    **VIT,
    "num_classes": 0,
    "num_layers": 2,
    "mlp_dim": 64,
    "positions": "sincos2d_mae",
}
BEIT = {**VIT, "type": "vision.models.beit.BEiT"}
BEIT_BACKBONE = {
    **BEIT,
    "num_classes": 0,
    "num_layers": 2,
    "mlp_dim": 64,
    "pooling": "token",
    "shared_position_bias": True,
}


def zoo(name, **fields):
    return {"type": f"vision.models.{name}", "num_classes": 10, **fields}


def without(node, *keys):
    return {key: value for key, value in node.items() if key not in keys}


# fixture: (model, whose names).
CASES = {
    "alexnet_96": (zoo("alexnet.AlexNetOneStream"), "torchvision"),
    "beit_hf_mim": (
        {
            "type": "vision.models.beit.BEiTPretraining",
            "backbone": BEIT_BACKBONE,
            "vocab_size": 50,
            "extra_norm": True,
        },
        "hugging_face_5_two_norms",
    ),
    "beit_timm": (BEIT, "timm"),
    "convmixer_tiny": (
        zoo("convmixer.ConvMixer", embed_dim=48, num_layers=3),
        "timm",
    ),
    "convnext_mini_timm": (
        zoo(
            "convnext.ConvNeXt",
            stage_sizes=(1, 1, 2, 1),
            stage_widths=(16, 24, 32, 48),
        ),
        "timm",
    ),
    "deit_distilled_timm": ({**VIT, "type": "vision.models.deit.DeiT"}, "timm"),
    "densenet_tiny": (
        zoo(
            "densenet.DenseNet",
            block_sizes=(2, 3, 2, 2),
            growth_rate=8,
            stem_width=16,
        ),
        "torchvision",
    ),
    "efficientnet_tiny_tf": (
        zoo("efficientnet.EfficientNet", width=0.25, depth=0.5),
        "timm",
    ),
    "efficientnetv2_s": (
        zoo("efficientnet_v2.EfficientNetV2S", padding="symmetric"),
        "torchvision",
    ),
    "gmlp_timm": (
        {
            **without(VIT, "num_heads"),
            "type": "vision.models.gmlp.GMlp",
            "mlp_dim": 192,
        },
        "timm",
    ),
    "google_vit_token": (VIT | {"num_layers": 2, "mlp_dim": 64}, "google"),
    "googlenet_aux": (zoo("googlenet.GoogLeNet"), "torchvision"),
    "hybrid_r50vit_timm": (
        VIT | {"num_layers": 2, "patch_size": 1, "stem": HYBRID_STEM},
        "timm",
    ),
    "inception_resnet_v2": (zoo("inception_resnet.InceptionResNetV2"), "timm"),
    "inception_v3_aux": (zoo("inception_v3.InceptionV3"), "torchvision"),
    "inception_v4": (zoo("inception_v4.InceptionV4"), "timm"),
    "mae_fb": (MAE, "mae"),
    "mae_hf": (MAE, "hugging_face_mae_5"),
    "mae_hf_normpix": (MAE, "hugging_face_mae_5"),
    "mixer_timm": (MIXER | {"channel_mlp_dim": 128}, "timm"),
    "mobilenet_v2": (zoo("mobilenet_v2.MobileNetV2"), "torchvision"),
    "mobilenet_v3_small": (zoo("mobilenet_v3.MobileNetV3Small"), "torchvision"),
    "mobilenetv1_hf_tfpad": (
        zoo("mobilenet_v1.MobileNetV1", num_classes=11, width=0.25),
        "hugging_face",
    ),
    "nasnet_a_tiny": (
        zoo("nasnet.NASNet", penultimate_width=384, num_cells=6, stem_width=12),
        "timm",
    ),
    "resmlp_timm": (
        {**without(VIT, "num_heads"), "type": "vision.models.resmlp.ResMlp"},
        "timm",
    ),
    "resnet_tiny_basic": (
        RESNET | {"block": "basic", "stage_sizes": (2, 2, 1, 1)},
        "torchvision",
    ),
    "resnet_tiny_bottleneck": (
        RESNET | {"stage_sizes": (1, 2, 1, 1), "stage_widths": (8, 12, 16, 24)},
        "torchvision",
    ),
    "resnext_tiny": (RESNET | {"cardinality": 4, "base_width": 32}, "torchvision"),
    "seresnet_tiny": (
        RESNET | {"stage_widths": (16, 32, 32, 64), "squeeze_reduction": 16},
        "torchvision",
    ),
    "swin_timm": (
        zoo(
            "swin.Swin",
            embed_dim=16,
            stage_sizes=(2, 2, 2),
            num_heads=(2, 4, 8),
            window_size=4,
        ),
        "timm",
    ),
    "vgg11_tiny": (VGG, "torchvision"),
    "vgg11_tiny_bn": (VGG | {"batch_norm": True}, "torchvision"),
    "vit_hf": (HUGGING_FACE, "hugging_face_5"),
    "vit_timm_cls": (VIT, "timm"),
    "xception_timm": (zoo("xception.Xception"), "timm"),
}
# Whose models can stack their blocks for a scan.
STACKED = ("vit_timm_cls", "mixer_timm", "deit_distilled_timm")
# Tensors that do not come back: no model of ours needs them.
LOST = {
    # Sines and cosines, which are computed.
    "mae_fb": r"(decoder_)?pos_embed",
    "mae_hf": r"embeddings.position_embeddings|decoder.decoder_pos_embed",
    "mae_hf_normpix": r"embeddings.position_embeddings|decoder.decoder_pos_embed",
}


def template_of(node, image):
    try:
        model = configs.build(node)
    except ConfigError as error:
        if "no module" in str(error) or "has no" in str(error):
            pytest.skip(f"not there yet: {error}")
        raise
    inputs = [jax.ShapeDtypeStruct(image.shape, np.float32)]
    # Pretraining hides some of the 16 patches.
    if kind := {"BEiTPretraining": np.bool_, "MAE": np.float32}.get(
        node["type"].split(".")[-1]
    ):
        inputs.append(jax.ShapeDtypeStruct((len(image), 16), kind))
    return dict(jax.eval_shape(model.init, jax.random.key(0), *inputs))


def without_prefix(name, naming):
    for prefix in naming.prefixes:
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    return name


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].shape == tensor.shape, name
        assert found[name].tobytes() == np.ascontiguousarray(tensor).tobytes(), name


@pytest.mark.parametrize(
    ("fixture", "fields"),
    [
        *((fixture, {}) for fixture in CASES),
        *((fixture, {"scan": True}) for fixture in STACKED),
    ],
    ids=[*CASES, *(f"{fixture}-stacked" for fixture in STACKED)],
)
def test_a_fixture_comes_back_bit_for_bit(fixture, fields, parity):
    node, publisher = CASES[fixture]
    node = node | fields
    with np.load(parity.folder / fixture / "io.npz") as arrays:
        image = arrays["in_x_nhwc"]
    import load_fixture

    weights = load_fixture.load(fixture)
    template = template_of(node, image)
    params, collections = convert(weights, template, NAMINGS, publisher)
    naming = naming_for(params, collections, NAMINGS, publisher)
    found = export(params, collections, naming)
    # A prefix in front of some names, and counters that a fixture left out.
    expected = {without_prefix(name, naming): x for name, x in weights.items()}
    lost = {n for n in expected if re.fullmatch(LOST.get(fixture, "-"), n)}
    assert bool(lost) == (fixture in LOST)
    counters = {n for n in found if n.endswith("num_batches_tracked")}
    for name in counters - expected.keys():
        assert found.pop(name) == 0
    assert_same(found, {n: x for n, x in expected.items() if n not in lost})


def known_names(naming):
    """A pattern of all the tensors' names that a table knows."""
    patterns = [
        re.escape(rule.theirs).replace(re.escape("{}"), r"\d+") for rule in naming.rules
    ]
    return re.compile("|".join([*patterns, *naming.ignored]))


def test_no_fixture_that_a_table_knows_is_forgotten(parity):
    tables = [(naming, known_names(naming)) for naming in NAMINGS]
    for path in sorted(parity.folder.glob("*/spec.json")):
        names = [x["key"] for x in json.loads(path.read_text())["tensors"]]
        known = any(
            all(pattern.fullmatch(without_prefix(n, naming)) for n in names)
            for naming, pattern in tables
        )
        assert not known or path.parent.name in CASES, path.parent.name


def shape_for(layout):
    """A shape of ours that the layout can be asked about."""
    for shape in ((2, 3, 4, 5), (4, 6), (98, 6), (5,)):
        try:
            layout.load(np.zeros(layout.theirs(shape)), shape)
        except (ValueError, TypeError):
            continue
        return shape
    raise AssertionError(f"no shape for {layout}")


def groups_of_leaves(naming):
    """All rules' leaves, {path: shape} each; no two of a group fill the same numbers."""
    groups = []
    for number in ("0", "3"):
        for rule in naming.rules:
            path = rule.ours.replace("{}", number)
            name, layout = naming.find(path)
            place = name, getattr(layout, "index", None)
            for filled, leaves in groups:
                if path in leaves:
                    break
                if place not in filled:
                    filled.add(place)
                    leaves[path] = shape_for(layout)
                    break
            else:
                groups.append(({place}, {path: shape_for(layout)}))
    return [leaves for _, leaves in groups]


def nested(flat):
    tree = {}
    for path, leaf in flat.items():
        *folders, name = path.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[name] = leaf
    return tree


@pytest.mark.parametrize(
    "naming", [n for n in NAMINGS if n.rules], ids=lambda n: n.name
)
def test_a_table_goes_both_ways(naming):
    rng = np.random.default_rng(0)
    for leaves in groups_of_leaves(naming):
        weights = {}
        for path, shape in leaves.items():
            name, layout = naming.find(path)
            if name not in weights:
                drawn = rng.normal(size=layout.theirs(shape))
                weights[name] = drawn.astype(np.float32)
        template = nested(
            {p: jax.ShapeDtypeStruct(s, np.float32) for p, s in leaves.items()}
        )
        params, collections = convert(weights, template, [naming], naming.name)
        found = export(params, collections, naming)
        assert_same({n: found[n] for n in weights}, weights)
        for name in found.keys() - weights.keys():
            assert name.endswith("num_batches_tracked") and not found[name].any()
