"""EfficientNetV2 on ImageNet, with the recipe of the paper but for its progressive learning.

Tan and Le 2021, https://arxiv.org/abs/2104.00298: 83.9 % top-1 (S), 85.1 % (M), 85.7 % (L); RMSProp,
learning rate 0.256 times 0.97 every 2.4 epochs, 350 epochs, RandAugment, mixup, dropout, stochastic
depth 0.2, average of weights with 0.9999. Deviation: image size and regularisation are those of
the paper's last stage from the start, not growing in four stages from 128 pixels.

Command: TFDS_DATA_DIR=... python train.py --config=configs/efficientnet_v2_imagenet.py
Other sizes: --config=configs/efficientnet_v2_imagenet.py:M (S M L).

Result: untested; paper: 83.9 % top-1 (S)
"""

from ml_collections import ConfigDict

TRAIN_EXAMPLES = 1_281_167
# The paper's table 6, last stage; and the pixels it tests with.
SIZES = dict(
    S=dict(train=300, test=384, magnitude=15, mixup=0.0, dropout=0.3),
    M=dict(train=380, test=480, magnitude=20, mixup=0.2, dropout=0.4),
    L=dict(train=380, test=480, magnitude=25, mixup=0.5, dropout=0.5),
)


def get_config(size="S"):
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 4096
    steps_per_epoch = TRAIN_EXAMPLES // 4096
    config.total_steps = 350 * steps_per_epoch
    recipe = SIZES[size]

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
            dict(type="vision.transforms.RandomResizedCrop", size=recipe["train"]),
            dict(type="vision.transforms.RandomFlip"),
            dict(
                type="vision.transforms.RandAugment",
                num_layers=2,
                magnitude=recipe["magnitude"],
                operations="code",
            ),
        ),
    )
    mixing = None
    if recipe["mixup"]:
        mixing = dict(type="vision.ops.mixing.Mixup", alpha=recipe["mixup"])
    config.task = dict(
        type="vision.tasks.classification.Classification",
        model=dict(
            type=f"vision.models.efficientnet_v2.EfficientNetV2{size}",
            num_classes=1000,
            dropout_rate=recipe["dropout"],
            drop_path_rate=0.2,
            dtype="bfloat16",
        ),
        label_smoothing=0.1,
        mixing=mixing,
    )
    config.optimizer = dict(
        type="training.optimizer.with_rules",
        rule=dict(
            type="optax.rmsprop",
            learning_rate=dict(
                type="optax.warmup_exponential_decay_schedule",
                init_value=0.0,
                peak_value=0.256,
                warmup_steps=5 * steps_per_epoch,
                transition_steps=12 * steps_per_epoch // 5,
                decay_rate=0.97,
                staircase=True,
            ),
            decay=0.9,
            momentum=0.9,
            eps=1e-3,
            # TensorFlow's running square starts at 1.
            initial_scale=1.0,
        ),
        l2=1e-5,
        l2_mask=dict(type="training.optimizer.paths", match="kernel$"),
    )
    config.ema_decay = 0.9999
    config.evals = dict(
        eval=dict(
            type="training.evaluation.Evaluation",
            data=dict(
                type="data.pipeline.Pipeline",
                source=dict(**imagenet, split="validation"),
                transforms=(
                    dict(
                        type="vision.transforms.Resize",
                        size=recipe["test"],
                        interpolation="cubic",
                    ),
                    dict(type="vision.transforms.CenterCrop", size=recipe["test"]),
                ),
            ),
        )
    )
    config.eval_steps = 5 * steps_per_epoch
    config.checkpoint_steps = steps_per_epoch
    config.best_metric = "eval/accuracy"
    return config
