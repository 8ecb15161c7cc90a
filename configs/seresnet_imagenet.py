"""SE-ResNet-50 on ImageNet, with the recipe of the paper.

Hu et al. 2017, https://arxiv.org/abs/1709.01507: batches of 1024, a learning rate of 0.6
divided by 10 every 30 epochs, 100 epochs; 23.29 % top-1 error at a 224 crop (101: 22.38 %,
152: 21.57 %, ResNet-50 itself: 24.80 %).

Deviations: five epochs of warm-up, as Goyal et al. 2017 have for batches of this size; blocks
stride in their 3x3 convolution.

Command: TFDS_DATA_DIR=... python train.py --config=configs/seresnet_imagenet.py
Other sizes: --config=configs/seresnet_imagenet.py:Net101 (Net152, NeXt50_32x4d).

Result: untested; paper: 76.7 % top-1
"""

from ml_collections import ConfigDict

TRAIN_EXAMPLES = 1_281_167


def get_config(size="Net50"):
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 1024
    steps_per_epoch = TRAIN_EXAMPLES // 1024
    config.total_steps = 100 * steps_per_epoch

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
            dict(type="vision.transforms.RandomResizedCrop", size=224),
            dict(type="vision.transforms.RandomFlip"),
        ),
    )
    config.task = dict(
        type="vision.tasks.classification.Classification",
        model=dict(
            type=f"vision.models.resnet.SERes{size}",
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
                peak=0.6,
                warmup_steps=5 * steps_per_epoch,
                boundaries=tuple(n * steps_per_epoch for n in (30, 60, 90)),
            ),
            momentum=0.9,
        ),
        l2=1e-4,
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
