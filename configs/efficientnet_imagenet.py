"""EfficientNet on ImageNet, with the recipe of the paper and its code, each size at its own pixels.

Tan and Le 2019, https://arxiv.org/abs/1905.11946: 77.1 % top-1 (B0) to 84.3 % (B7); RMSProp,
learning rate 0.256 times 0.97 every 2.4 epochs, 350 epochs, AutoAugment, stochastic depth 0.2,
dropout that grows with the size, average of weights with 0.9999. Deviation: the last checkpoint
counts by validation images, not by a part of the training images.

Command: TFDS_DATA_DIR=... python train.py --config=configs/efficientnet_imagenet.py
Other sizes: --config=configs/efficientnet_imagenet.py:B4 (B0 to B7).

Result: untested; paper: 77.1 % top-1 (B0)
"""

from ml_collections import ConfigDict

TRAIN_EXAMPLES = 1_281_167
# Pixels for which each size is scaled.
IMAGE_SIZES = dict(B0=224, B1=240, B2=260, B3=300, B4=380, B5=456, B6=528, B7=600)


def get_config(size="B0"):
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 4096
    steps_per_epoch = TRAIN_EXAMPLES // 4096
    config.total_steps = 350 * steps_per_epoch
    pixels = IMAGE_SIZES[size]

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
            dict(type="vision.transforms.RandomResizedCrop", size=pixels),
            dict(type="vision.transforms.RandomFlip"),
            dict(type="vision.autoaugment.AutoAugment", policy="imagenet"),
        ),
    )
    config.task = dict(
        type="vision.tasks.classification.Classification",
        model=dict(
            type=f"vision.models.efficientnet.EfficientNet{size}",
            num_classes=1000,
            drop_path_rate=0.2,
            dtype="bfloat16",
        ),
        label_smoothing=0.1,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
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
                        size=pixels + 32,
                        interpolation="cubic",
                    ),
                    dict(type="vision.transforms.CenterCrop", size=pixels),
                ),
            ),
        )
    )
    config.eval_steps = 5 * steps_per_epoch
    config.checkpoint_steps = steps_per_epoch
    config.best_metric = "eval/accuracy"
    return config
