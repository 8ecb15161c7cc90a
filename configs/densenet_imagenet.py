"""DenseNet-121 on ImageNet, with the recipe of the paper.

Huang et al. 2016, https://arxiv.org/abs/1608.06993: 90 epochs of batches of 256, a learning
rate of 0.1 divided by 10 after 30 and 60; augmented as Facebook's ResNets; 25.02 % top-1
error at a 224 crop (169: 23.80 %, 201: 22.58 %, 161: 22.33 %).

Command: TFDS_DATA_DIR=... python train.py --config=configs/densenet_imagenet.py
Other depths: --config=configs/densenet_imagenet.py:169 (121 161 169 201).

Result: untested; paper: 75.0 % top-1
"""

from ml_collections import ConfigDict

TRAIN_EXAMPLES = 1_281_167


def get_config(depth="121"):
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
            type=f"vision.models.densenet.DenseNet{depth}",
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
