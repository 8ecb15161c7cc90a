"""Files of another image size, for every kind of position table: only on request."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision import import_weights
from vision.models.beit import BEiT
from vision.models.deit import DeiT
from vision.models.swin import Swin
from vision.models.vit import ViT

SIZES = {"num_classes": 3, "patch_size": 4, "embed_dim": 8, "num_layers": 2}
SIZES |= {"num_heads": 2, "mlp_dim": 12}
SWIN = {"num_classes": 3, "embed_dim": 8, "stage_sizes": (2, 1), "num_heads": (1, 2)}


def shapes(model, size):
    image = jnp.zeros((1, size, size, 3))
    return jax.eval_shape(model.init, jax.random.key(0), image)


@pytest.mark.parametrize(
    ("small", "large", "name"),
    [
        (ViT(**SIZES), ViT(**SIZES), "pos_embed"),
        (DeiT(**SIZES), DeiT(**SIZES), "pos_embed"),
        (BEiT(**SIZES), BEiT(**SIZES), "relative_position_bias_table"),
        (
            Swin(**SWIN, window_size=4),
            Swin(**SWIN, window_size=6),
            "relative_position_bias_table",
        ),
    ],
    ids=["vit", "deit", "beit", "swin"],
)
def test_a_file_of_another_image_size_fits_on_request(small, large, name):
    rng = np.random.default_rng(0)
    template = shapes(large, 48)
    variables = jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes(small, 32)
    )
    _, file = import_weights.export(variables["params"], {})
    with pytest.raises(ValueError, match=f"wrong shape: [^;]*{name}"):
        import_weights.convert(file, template)
    params, _ = import_weights.convert(
        file, template, adapters=import_weights.POSITION_ADAPTERS
    )
    jax.tree.map(
        lambda leaf, x: np.testing.assert_(leaf.shape == x.shape),
        template["params"],
        params,
    )
    # What is no table of positions comes as it is.
    np.testing.assert_array_equal(
        params["head"]["kernel"], variables["params"]["head"]["kernel"]
    )
