"""Every image classifier, tiny: resumes to the last bit, and does not depend on the devices."""

import jax
import jax.numpy as jnp
import pytest
import repeatability
from test_configs import load
from test_namings import CASES, IMAGE_SIZES

from vision.models.alexnet import AlexNet
from vision.models.beit import BEiTPretraining
from vision.models.lenet import LeNet
from vision.models.mae import MAE
from vision.models.mlp import MLP
from vision.models.zfnet import ZFNet

pytestmark = pytest.mark.slow

ZOO = {
    type(model).__name__: model
    for model, _ in reversed(CASES)
    if not isinstance(model, MAE | BEiTPretraining)
}
ZOO |= {"LeNet": LeNet(3), "MLP": MLP(3, hidden_dims=(8,))}
ZOO |= {
    "AlexNet": AlexNet(3, widths=(4, 4, 8, 8, 4), hidden_dims=(8, 8)),
    "ZFNet": ZFNet(3, widths=(4, 4, 8, 8, 4), hidden_dims=(8, 8)),
}


def tiny(name):
    """Named by the configs below. In float64: with BatchNorm on maps of a few pixels,
    gradients in float32 are rounding to a few per cent."""
    wide = {"dtype": jnp.float64, "param_dtype": jnp.float64}
    return ZOO[name].clone(num_classes=10, **wide)


def config(name, devices):
    found = load("resnet_digits")
    found |= {"batch_size": 16, "evals": {}, "best_metric": None, "ema_decay": None}
    size = IMAGE_SIZES.get(name, 64 if name == "ZFNet" else 32)
    resize = {"type": "vision.transforms.Resize", "size": (size, size)}
    found["data"]["transforms"] = [resize]
    found["task"]["model"] = {"type": "test_zoo.tiny", "name": name}
    found["optimizer"]["rule"]["learning_rate"] = 1e-3
    return found | {"mesh": {"data": devices}}


@pytest.mark.parametrize("name", sorted(ZOO))
def test_it_resumes_to_the_last_bit_and_eight_devices_follow_one(name, tmp_path):
    with jax.enable_x64(True):
        whole = repeatability.unbroken(config(name, 1), steps=4)
        repeatability.assert_resumes(whole, tmp_path)
        repeatability.assert_devices_agree(config(name, 8), whole, rtol=1e-6)
