"""ResNet-18 on 20 classes of Caltech-101: photographs through the ImageNet transforms.

The dataset is a TFDS folder of JPEGs named caltech101_mini (1000 train, 300 test). Small
and trained from scratch, it exercises the input path rather than sets a record.

Command: TFDS_DATA_DIR=... python train.py --config=configs/resnet_caltech101.py

Hardware: 2 shared CPU cores, jax 0.10.2, 2026-11-21; 21 min beside other work.

Result: 57.67 % test accuracy (173 of 300; chance is 5 %)
"""

from ml_collections import ConfigDict


def get_config():
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 64
    config.total_steps = 450
    total_steps = config.get_oneway_ref("total_steps")

    caltech = dict(
        type="data.sources.TFDS",
        name="caltech101_mini",
        features=dict(
            image=dict(type="data.features.Image", encoding="jpeg"),
            label=dict(type="data.features.Label", num_classes=20),
        ),
    )
    config.data = dict(
        type="data.pipeline.Pipeline",
        source=dict(**caltech, split="train"),
        transforms=(
            dict(type="vision.transforms.RandomResizedCrop", size=96, area=(0.25, 1.0)),
            dict(type="vision.transforms.RandomFlip"),
        ),
    )
    config.task = dict(
        type="vision.tasks.classification.Classification",
        model=dict(type="vision.models.resnet.ResNet18", num_classes=20),
        label_smoothing=0.1,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )
    config.optimizer = dict(
        type="training.optimizer.with_rules",
        rule=dict(
            type="optax.sgd",
            learning_rate=dict(
                type="training.optimizer.warmup_cosine",
                peak=0.05,
                warmup_steps=total_steps // 15,
                total_steps=total_steps,
            ),
            momentum=0.9,
            nesterov=True,
        ),
        clip_norm=5.0,
        l2=5e-4,
        l2_mask=dict(type="training.optimizer.paths", match="kernel$"),
    )
    config.evals = dict(
        eval=dict(
            type="training.evaluation.Evaluation",
            batch_size=100,
            data=dict(
                type="data.pipeline.Pipeline",
                source=dict(**caltech, split="test"),
                transforms=(
                    dict(type="vision.transforms.Resize", size=110),
                    dict(type="vision.transforms.CenterCrop", size=96),
                ),
            ),
        )
    )
    config.eval_steps = 75
    config.checkpoint_steps = 75
    config.best_metric = "eval/accuracy"
    return config
