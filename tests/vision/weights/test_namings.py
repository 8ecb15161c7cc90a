"""Every table of names fills every leaf of its architecture and is recognised."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from vision.import_weights import convert
from vision.models.beit import BEiT, BEiTPretraining
from vision.models.mlp_mixer import MlpMixer
from vision.models.resnet import ResNet
from vision.models.vit import ViT
from vision.weights import beit, mlp_mixer, resnet, vit

SIZES = {"num_classes": 3, "patch_size": 4, "embed_dim": 8, "num_layers": 2}
VIT = {**SIZES, "num_heads": 2, "mlp_dim": 12}
MIXER = MlpMixer(**SIZES, token_mlp_dim=5, channel_mlp_dim=12)
TOKEN, AVERAGE = ViT(**VIT), ViT(**VIT, pooling="average")
BEIT_TOKEN = BEiT(**VIT, pooling="token", positions="learned")
BEIT_SHARED = BEiT(
    **{**VIT, "num_classes": 0}, pooling="token", shared_position_bias=True
)
TWO_NORMS = BEiTPretraining(BEIT_SHARED, vocab_size=5, extra_norm=True)
CASES = [
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
    (
        ResNet(num_classes=3, stage_sizes=(1, 2, 1, 1), stage_widths=(4, 4, 8, 8)),
        resnet.TORCHVISION,
    ),
]


def template_of(model):
    inputs = [jnp.zeros((1, 32, 32, 3))]
    if isinstance(model, BEiTPretraining):
        inputs.append(jnp.zeros((1, 64), bool))
    return jax.eval_shape(model.init, jax.random.key(0), *inputs)


@pytest.mark.parametrize(
    ("model", "naming"), CASES, ids=[f"{type(m).__name__}-{n.name}" for m, n in CASES]
)
def test_a_file_of_these_names_fills_the_model(model, naming):
    template = template_of(model)
    rng, weights = np.random.default_rng(0), {}
    for path, leaf in flatten_dict(template, sep="/").items():
        name, layout = naming.find(path)
        if name not in weights:
            shape = layout.theirs(leaf.shape)
            weights[name] = rng.normal(size=shape).astype(np.float32)
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
