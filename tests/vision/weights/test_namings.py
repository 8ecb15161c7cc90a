"""Every table of names fills every leaf of its architecture and is recognised."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from vision.import_weights import NAMINGS, convert, export, load_file, save_file
from vision.models.alexnet import AlexNetOneStream
from vision.models.beit import BEiT, BEiTPretraining
from vision.models.bit import BiT
from vision.models.convmixer import ConvMixer
from vision.models.convnext import ConvNeXt, ConvNeXtT
from vision.models.deit import DeiT
from vision.models.densenet import DenseNet
from vision.models.efficientnet import EfficientNet
from vision.models.efficientnet_v2 import MEDIUM, SMALL, EfficientNetV2
from vision.models.gmlp import GMlp
from vision.models.googlenet import GoogLeNet
from vision.models.inception_resnet import InceptionResNet
from vision.models.inception_v3 import InceptionV3
from vision.models.inception_v4 import InceptionV4
from vision.models.lenet import Net
from vision.models.mae import MAE
from vision.models.mlp_mixer import MlpMixer
from vision.models.mobilenet_v1 import MobileNetV1
from vision.models.mobilenet_v2 import MobileNetV2
from vision.models.mobilenet_v3 import MobileNetV3Large, MobileNetV3Small
from vision.models.nasnet import NASNet
from vision.models.resmlp import ResMlp
from vision.models.resnet import ResNet
from vision.models.resnet_preact import PreactResNet
from vision.models.swin import Swin
from vision.models.vgg import VGG
from vision.models.vit import ViT
from vision.models.xception import Xception
from vision.weights import (
    alexnet,
    beit,
    bit,
    convmixer,
    convnext,
    deit,
    densenet,
    efficientnet,
    efficientnet_v2,
    gmlp,
    googlenet,
    inception,
    lenet,
    mae,
    mlp_mixer,
    mobilenet_v1,
    mobilenet_v2,
    mobilenet_v3,
    nasnet,
    resmlp,
    resnet,
    swin,
    vgg,
    vit,
    xception,
)

SIZES = {"num_classes": 3, "patch_size": 4, "embed_dim": 8, "num_layers": 2}
VIT = {**SIZES, "num_heads": 2, "mlp_dim": 12}
MIXER = MlpMixer(**SIZES, token_mlp_dim=5, channel_mlp_dim=12)
TOKEN, AVERAGE = ViT(**VIT), ViT(**VIT, pooling="average")
BEIT_TOKEN = BEiT(**VIT, pooling="token", positions="learned")
BEIT_SHARED = BEiT(
    **{**VIT, "num_classes": 0}, pooling="token", shared_position_bias=True
)
TWO_NORMS = BEiTPretraining(BEIT_SHARED, vocab_size=5, extra_norm=True)
TINY_MAE = MAE(
    ViT(**{**VIT, "num_classes": 0}, positions="sincos2d_mae"),
    decoder_embed_dim=8,
    decoder_num_layers=2,
    decoder_num_heads=2,
    decoder_mlp_dim=12,
)
STAGES = {"stage_sizes": (1, 2, 1, 1), "stage_widths": (4, 4, 8, 8)}
BIT = BiT(3, **STAGES, stem_width=4, num_groups=2)
CONVNEXT = ConvNeXt(3, **STAGES, layer_scale=0.1)
DENSENET = DenseNet(3, (2, 1, 1, 1), growth_rate=4, stem_width=8)
SWIN = Swin(3, embed_dim=8, stage_sizes=(2, 1, 1, 1), num_heads=(1, 2, 2, 2))
VGGS = [
    (VGG(3, sizes, (4, 4, 8, 8, 8), norm, map_size=7, hidden_dims=(6, 6)), naming)
    for (sizes, norm), naming in zip(
        2 * [(x, norm) for x in vgg.DEPTHS.values() for norm in (False, True)],
        vgg.NAMINGS,
        strict=True,
    )
]


def shallow(stages):
    """An EfficientNetV2 of these stages, thin and of one block each."""
    specs = tuple((kind, wider, 8, 1, stride) for kind, wider, _, _, stride in stages)
    return EfficientNetV2(3, specs, head_width=8)


CASES = [
    (
        AlexNetOneStream(3, widths=(4, 4, 6, 6, 4), hidden_dims=(6, 6)),
        alexnet.TORCHVISION,
    ),
    (TOKEN, vit.TIMM),
    (AVERAGE, vit.TIMM),
    (ViT(**VIT, layer_scale=0.1), vit.TIMM),
    (TOKEN, vit.HUGGING_FACE),
    (TOKEN, vit.HUGGING_FACE_5),
    (TOKEN, vit.GOOGLE),
    (TOKEN, vit.GOOGLE_RELEASED),
    (ViT(**VIT, representation_dim=6), vit.GOOGLE_RELEASED),
    (AVERAGE, vit.BIG_VISION),
    (ViT(**VIT, pooling="attention"), vit.BIG_VISION),
    (MIXER, mlp_mixer.TIMM),
    (MIXER, mlp_mixer.GOOGLE),
    (BEiT(**VIT), beit.TIMM),
    (BEiT(**VIT, shared_position_bias=True), beit.TIMM),
    (BEIT_TOKEN, beit.TIMM_TOKEN),
    (BEiT(**VIT), beit.HUGGING_FACE),
    (BEiT(**VIT), beit.HUGGING_FACE_5),
    (BEIT_TOKEN, beit.HUGGING_FACE_TOKEN),
    (BEIT_TOKEN, beit.HUGGING_FACE_5_TOKEN),
    (BEiTPretraining(BEIT_SHARED, vocab_size=5), beit.PRETRAINING),
    (BEiTPretraining(BEIT_SHARED, vocab_size=5), beit.PRETRAINING_5),
    (TWO_NORMS, beit.PRETRAINING_TWO_NORMS),
    (TWO_NORMS, beit.PRETRAINING_5_TWO_NORMS),
    (ResNet(3, **STAGES), resnet.TORCHVISION),
    (ResNet(3, **STAGES), resnet.TIMM),
    (ResNet(3, **STAGES, squeeze_reduction=2), resnet.TORCHVISION),
    (BIT, bit.TIMM),
    (BIT, bit.GOOGLE),
    (PreactResNet(3, **STAGES), bit.TIMM),
    (ConvMixer(3, embed_dim=8, num_layers=2), convmixer.TIMM),
    (CONVNEXT, convnext.TIMM),
    (CONVNEXT, convnext.FACEBOOK),
    (CONVNEXT, convnext.TORCHVISION),
    (DeiT(**VIT), deit.TIMM),
    (DeiT(**VIT), deit.HUGGING_FACE),
    (DeiT(**VIT), deit.HUGGING_FACE_5),
    (DENSENET, densenet.TORCHVISION),
    (DENSENET, densenet.TORCHVISION_RELEASED),
    (DENSENET, densenet.TIMM),
    (EfficientNet(3, width=0.1, depth=0.4), efficientnet.TIMM),
    (EfficientNet(3, width=0.1, depth=0.4), efficientnet.TORCHVISION),
    (shallow(SMALL), efficientnet_v2.TORCHVISION_S),
    (shallow(MEDIUM), efficientnet_v2.TORCHVISION_ML),
    (shallow(SMALL), efficientnet_v2.TIMM),
    (GMlp(**SIZES, mlp_dim=12), gmlp.TIMM),
    (GoogLeNet(3, width_factor=1 / 16), googlenet.TORCHVISION),
    (InceptionV3(3, width_factor=1 / 16), inception.TORCHVISION_V3),
    (InceptionV3(3, width_factor=1 / 16), inception.TIMM_V3),
    (InceptionV4(3, (1, 1, 1), width_factor=1 / 16), inception.TIMM_V4),
    (
        InceptionResNet(3, "v2", (1, 1, 2), width_factor=1 / 16),
        inception.TIMM_RESNET_V2,
    ),
    (Net(3), lenet.PYTORCH_EXAMPLE),
    (TINY_MAE, mae.MAE),
    (TINY_MAE, mae.HUGGING_FACE),
    (TINY_MAE, mae.HUGGING_FACE_5),
    (MobileNetV1(3, width=0.1), mobilenet_v1.HUGGING_FACE),
    (MobileNetV1(3, width=0.1), mobilenet_v1.TIMM),
    (MobileNetV2(3, width=0.1), mobilenet_v2.TORCHVISION),
    (MobileNetV2(3, width=0.1), mobilenet_v2.TIMM),
    (MobileNetV3Large(3, width=0.1), mobilenet_v3.TORCHVISION_LARGE),
    (MobileNetV3Large(3, width=0.1), mobilenet_v3.TIMM_LARGE),
    (MobileNetV3Small(3, width=0.1), mobilenet_v3.TORCHVISION_SMALL),
    (MobileNetV3Small(3, width=0.1), mobilenet_v3.TIMM_SMALL),
    (NASNet(3, 96, num_cells=1, stem_width=4), nasnet.TIMM),
    (ResMlp(**SIZES, mlp_dim=12), resmlp.TIMM),
    (SWIN, swin.TIMM),
    (SWIN, swin.MICROSOFT),
    (SWIN, swin.TORCHVISION),
    (SWIN, swin.HUGGING_FACE),
    *VGGS,
    (Xception(3, (4, 4), (4, 4, 8), exit_widths=(8, 8, 8)), xception.TIMM),
]
# Pixels that a network's unpadded layers ask for; the others take 32.
IMAGE_SIZES = {"AlexNet": 64, "GoogLeNet": 64, "Swin": 56}
IMAGE_SIZES |= {"InceptionV3": 299, "InceptionV4": 96, "InceptionResNet": 96}
# Networks of so many layers that the tracing alone takes seconds.
SLOW = ("NASNet", "Inception", "Xception", "GoogLeNet")


@functools.cache
def template_of(model):
    size = IMAGE_SIZES.get(type(model).__name__, 32)
    inputs = [jnp.zeros((1, size, size, 3))]
    if isinstance(model, BEiTPretraining):
        inputs.append(jnp.zeros((1, 64), bool))
    if isinstance(model, MAE):
        inputs.append(jnp.zeros((1, 64)))
    return jax.eval_shape(model.init, jax.random.key(0), *inputs)


def shapes_of(template, naming):
    """{tensor name: shape} of a file that holds what the template has."""
    shapes = {}
    for path, leaf in flatten_dict(template, sep="/").items():
        name, layout = naming.find(path)
        shapes.setdefault(name, layout.theirs(leaf.shape))
    return shapes


def tensors_of(template, naming):
    """Random tensors of these shapes."""
    rng = np.random.default_rng(0)
    return {
        name: rng.normal(size=shape).astype(np.float32)
        for name, shape in shapes_of(template, naming).items()
    }


def test_every_table_is_tried():
    tried = {id(naming) for _, naming in CASES}
    assert [naming.name for naming in NAMINGS if id(naming) not in tried] == []


def title(case):
    model, naming = case
    return f"{type(model).__name__}-{naming.name}"


@pytest.mark.parametrize(
    ("model", "naming"),
    [
        pytest.param(
            *case,
            id=title(case),
            marks=[pytest.mark.slow] if title(case).startswith(SLOW) else [],
        )
        for case in CASES
    ],
)
def test_a_file_of_these_names_fills_the_model(model, naming):
    template = template_of(model)
    weights = tensors_of(template, naming)
    # Found out by the names alone, also behind any of the known prefixes.
    for prefix in ("", *naming.prefixes):
        file = {prefix + name: tensor for name, tensor in weights.items()}
        params, collections = convert(file, template)
        filled = {"params": params, **collections}
        assert jax.tree.map(np.shape, filled) == jax.tree.map(np.shape, dict(template))
        explicit = convert(file, template, naming.name)
        jax.tree.map(np.testing.assert_array_equal, explicit, (params, collections))
        # Each number of the file arrives once.
        ours = np.sort(np.concatenate([x.ravel() for x in jax.tree.leaves(filled)]))
        theirs = np.sort(np.concatenate([x.ravel() for x in weights.values()]))
        np.testing.assert_array_equal(ours, theirs)


def test_hugging_face_poolers_are_not_asked_for():
    model, naming = TOKEN, vit.HUGGING_FACE
    template = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    weights = {}
    for path, leaf in flatten_dict(template, sep="/").items():
        name, layout = naming.find(path)
        weights[name] = np.ones(layout.theirs(leaf.shape), np.float32)
    weights["vit.pooler.dense.weight"] = np.ones((8, 8), np.float32)
    convert(weights, template)
    weights["vit.pooler.dense.kernel"] = np.ones((8, 8), np.float32)
    with pytest.raises(ValueError, match="unexpected: vit.pooler.dense.kernel"):
        convert(weights, template)


# Parameters and their number are those of the files' publishers.
PUBLISHED = [
    (
        MobileNetV3Large(1000),
        mobilenet_v3.TIMM_LARGE,
        (174, 5_483_032),
        {
            "blocks.0.0.conv_pw.weight": (16, 16, 1, 1),
            "blocks.2.0.se.conv_reduce.weight": (24, 72, 1, 1),
            "blocks.5.2.conv_pwl.weight": (160, 960, 1, 1),
            "blocks.6.0.conv.weight": (960, 160, 1, 1),
            "conv_head.weight": (1280, 960, 1, 1),
            "conv_head.bias": (1280,),
            "classifier.weight": (1000, 1280),
        },
    ),
    (
        ConvNeXtT(1000),
        convnext.TORCHVISION,
        (182, 28_589_128),
        {
            "features.0.1.weight": (96,),
            "features.1.0.layer_scale": (96, 1, 1),
            "features.2.1.weight": (192, 96, 2, 2),
            "features.7.2.block.0.weight": (768, 1, 7, 7),
            "features.7.2.block.3.weight": (3072, 768),
            "features.7.2.block.5.weight": (768, 3072),
            "classifier.0.weight": (768,),
            "classifier.2.weight": (1000, 768),
        },
    ),
]


@pytest.mark.parametrize(
    ("model", "naming", "size", "some"), PUBLISHED, ids=lambda x: getattr(x, "name", "")
)
def test_the_full_size_has_the_published_tensors(model, naming, size, some):
    shapes = shapes_of(template_of(model), naming)
    learned = [x for name, x in shapes.items() if ".running_" not in name]
    assert (len(learned), sum(np.prod(x) for x in learned)) == size
    assert {name: shapes.get(name) for name in some} == some


@pytest.mark.parametrize(
    ("model", "naming"),
    [
        (MobileNetV3Large(3, width=0.1), mobilenet_v3.TIMM_LARGE),
        (MobileNetV3Small(3, width=0.1), mobilenet_v3.TIMM_SMALL),
        (CONVNEXT, convnext.TORCHVISION),
        (ResNet(3, **STAGES), resnet.TIMM),
        (DENSENET, densenet.TIMM),
    ],
    ids=lambda x: getattr(x, "name", ""),
)
def test_a_file_comes_back_bit_for_bit(model, naming, tmp_path):
    """Also where only the publisher is named, whose other tables know the model too."""
    weights = tensors_of(template_of(model), naming)
    save_file(weights, tmp_path / "x.safetensors")
    params, collections = convert(
        load_file(tmp_path / "x.safetensors"), template_of(model)
    )
    name, found = export(params, collections, naming.name.split()[0])
    assert name == naming.name
    counters = {x: y for x, y in found.items() if x.endswith("num_batches_tracked")}
    assert not any(counters.values()) and found.keys() - counters == weights.keys()
    for x, tensor in weights.items():
        assert found[x].dtype == tensor.dtype and found[x].shape == tensor.shape
        assert found[x].tobytes() == tensor.tobytes(), x
