"""ResNet-50 (v1.5) on ImageNet, with the recipe of "ImageNet in 1 Hour".

Goyal et al. 2017, https://arxiv.org/abs/1706.02677: warm-up, learning rate linear in the
batch size, last scale of each block starting at zero; 76.3 % top-1 after 90 epochs.

Command: python train.py --config=configs/resnet50_imagenet.py
Other depths: --config=configs/resnet50_imagenet.py:101 (18 34 50 101 152).

Result: untested here
"""

from ml_collections import ConfigDict

TRAIN_EXAMPLES = 1_281_167


def get_config(depth="50"):
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 1024
    steps_per_epoch = TRAIN_EXAMPLES // 1024
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
            dict(type="vision.transforms.RandomFlip"),
        ),
    )
    config.task = dict(
        type="vision.tasks.classification.Classification",
        model=dict(
            type=f"vision.models.resnet.ResNet{depth}",
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
                peak=0.1 * 1024 / 256,
                warmup_steps=5 * steps_per_epoch,
                boundaries=tuple(n * steps_per_epoch for n in (30, 60, 80)),
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
