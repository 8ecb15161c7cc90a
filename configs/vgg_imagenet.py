"""VGG-16 on ImageNet, with the paper's recipe.

Simonyan & Zisserman 2014, https://arxiv.org/abs/1409.1556: 74 epochs of SGD, the shorter
side random in [256, 512], crops of 224, flips, random principal colours; VGG-16 reaches
74.4 % top-1 at one test scale (25.6 % error), VGG-19 74.5 %. Deviations: He's initial
weights where the paper starts from its 11-layer network's; the paper divided the learning
rate when validation stalled, here after 30, 50 and 65 epochs; evaluation at 256 pixels and
one crop, where the paper's scale is 384 and dense.

Command: TFDS_DATA_DIR=... python train.py --config=configs/vgg_imagenet.py
Other depths: --config=configs/vgg_imagenet.py:19 (11 13 16 19), and with norms:
--config=configs/vgg_imagenet.py:16BatchNorm

Result: untested; paper: 74.4 % top-1
"""

from ml_collections import ConfigDict

TRAIN_EXAMPLES = 1_281_167


def get_config(size="16"):
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 256
    steps_per_epoch = TRAIN_EXAMPLES // 256
    config.total_steps = 74 * steps_per_epoch

    imagenet = dict(
        type="data.sources.TFDS",
        name="imagenet2012",
        features=dict(
            image=dict(type="data.features.Image", encoding="jpeg"),
            label=dict(type="data.features.Label", num_classes=1000),
        ),
    )
    config.data = dict(
        type="data.pipeline.Pipeline",
        source=dict(**imagenet, split="train"),
        transforms=(
            dict(type="vision.transforms.ScaleJitter", low=256, high=512),
            dict(type="vision.transforms.RandomCrop", size=224),
            dict(type="vision.transforms.RandomFlip"),
            dict(type="vision.color_transforms.PrincipalColors"),
        ),
    )
    config.task = dict(
        type="vision.tasks.classification.Classification",
        model=dict(
            type=f"vision.models.vgg.VGG{size}",
            num_classes=1000,
            dtype="bfloat16",
        ),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )
    config.optimizer = dict(
        type="training.optimizer.with_rules",
        rule=dict(
            type="optax.sgd",
            learning_rate=dict(
                type="training.optimizer.step_decay",
                peak=0.01,
                boundaries=tuple(n * steps_per_epoch for n in (30, 50, 65)),
            ),
            momentum=0.9,
        ),
        l2=0.0005,
        l2_mask=dict(type="training.optimizer.paths", match="kernel$"),
    )
    config.evals = dict(
        eval=dict(
            type="training.evaluation.Evaluation",
            data=dict(
                type="data.pipeline.Pipeline",
                source=dict(**imagenet, split="validation"),
                transforms=(
                    dict(type="vision.transforms.Resize", size=256),
                    dict(type="vision.transforms.CenterCrop", size=224),
                ),
            ),
        )
    )
    config.eval_steps = 5 * steps_per_epoch
    config.checkpoint_steps = steps_per_epoch
    config.best_metric = "eval/accuracy"
    return config
