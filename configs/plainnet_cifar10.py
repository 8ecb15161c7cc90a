"""PlainNet-20 of He et al. (2015), ResNet without shortcuts, on CIFAR-10, trained as ResNet is.

The two together show degradation: the deeper plain network fits worse than the shallow one,
in training too, the deeper residual one better. Everything but the shortcuts is that of
`configs/resnet_cifar10.py`, of the same number of epochs.

Command: TFDS_DATA_DIR=... python train.py --config=configs/plainnet_cifar10.py
Its depth, and perhaps epochs: --config=configs/plainnet_cifar10.py:56,164 (20 32 44 56);
the residual twin of the same depth: --config=configs/resnet_cifar10.py:164,56

Result: with ":20,20", at step 5,850 of 7,812: 78.70 % test accuracy; with ":56,20": 54.62 % (and 55 %
in training, where 20 layers reach 82 %); the residual twins 83.10 and 83.74 % (an H200 shared by
the four, 165 seconds, 2026-11-26); paper: some 9 % and 13 % test error after 164 epochs
"""

from configs import resnet_cifar10


def get_config(arg="20"):
    depth, _, epochs = arg.partition(",")
    config = resnet_cifar10.get_config(f"{epochs or 8},{depth}")
    config.task.model.type = f"vision.models.resnet.CifarPlainNet{depth}"
    return config
