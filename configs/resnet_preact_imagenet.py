"""Pre-activation ResNet-200 on ImageNet, with the recipe of the paper.

He et al. 2016, https://arxiv.org/abs/1603.05027: ResNet's training with crops of random size
and shape; 20.1 % top-1 error at a 320 crop.

Command: TFDS_DATA_DIR=... python train.py --config=configs/resnet_preact_imagenet.py
Other depths: --config=configs/resnet_preact_imagenet.py:50 (50 101 152 200).

Result: untested; paper: 79.9 % top-1
"""

from ml_collections import ConfigDict

TRAIN_EXAMPLES = 1_281_167


def get_config(depth="200"):
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 256
    steps_per_epoch = TRAIN_EXAMPLES // 256
    config.total_steps = 90 * steps_per_epoch

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
            dict(
                type="vision.color_transforms.ColorJitter",
                brightness=0.4,
                contrast=0.4,
                saturation=0.4,
            ),
            dict(type="vision.color_transforms.PrincipalColors", sigma=0.1),
            dict(type="vision.transforms.RandomFlip"),
        ),
    )
    config.task = dict(
        type="vision.tasks.classification.Classification",
        model=dict(
            type=f"vision.models.resnet_preact.PreactResNet{depth}",
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
                peak=0.1,
                boundaries=tuple(n * steps_per_epoch for n in (30, 60)),
            ),
            momentum=0.9,
            nesterov=True,
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
                    dict(type="vision.transforms.Resize", size=320),
                    dict(type="vision.transforms.CenterCrop", size=320),
                ),
            ),
        )
    )
    config.eval_steps = 5 * steps_per_epoch
    config.checkpoint_steps = steps_per_epoch
    config.best_metric = "eval/accuracy"
    return config
