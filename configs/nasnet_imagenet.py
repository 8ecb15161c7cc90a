"""NASNet-A (mobile or large) on ImageNet, with RMSProp, drop path and an auxiliary head.

Zoph et al. 2017, https://arxiv.org/abs/1707.07012: label smoothing 0.1, an auxiliary head at
two thirds of the depth weighted 0.4, dropout 0.5, and for the large network scheduled drop
path up to 0.3. The schedule and the weight decay are those of the same group's Inception
networks, on which the paper builds.

Deviations: one update has 1024 images and four times the learning rate of 0.045; drop path
does not grow with the steps; 250 epochs, for the paper does not say. The mobile network sees
224 pixels, the large one 331.

Command: TFDS_DATA_DIR=... python train.py --config=configs/nasnet_imagenet.py
The large network: --config=configs/nasnet_imagenet.py:Large

Result: untested; paper: 74.0 % top-1 (mobile), 82.7 % (large)
"""

from ml_collections import ConfigDict

TRAIN_EXAMPLES = 1_281_167
BATCH_SIZE = 1024
STEPS_PER_EPOCH = TRAIN_EXAMPLES // BATCH_SIZE


def get_config(size="Mobile"):
    large = size == "Large"
    image_size = 331 if large else 224
    config = ConfigDict()
    config.seed = 0
    config.batch_size = BATCH_SIZE
    config.total_steps = 250 * STEPS_PER_EPOCH

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
            dict(type="vision.transforms.RandomResizedCrop", size=image_size),
            dict(type="vision.transforms.RandomFlip"),
            dict(
                type="vision.color_transforms.ColorJitter",
                brightness=0.125,
                contrast=0.5,
                saturation=0.5,
                hue=0.2,
            ),
        ),
    )
    config.task = dict(
        type="vision.tasks.classification.Classification",
        model=dict(
            type=f"vision.models.nasnet.NASNetA_{size}",
            num_classes=1000,
            auxiliary=True,
            drop_path_rate=0.3 if large else 0.0,
            dtype="bfloat16",
        ),
        label_smoothing=0.1,
        auxiliary_weight=0.4,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )
    config.optimizer = dict(
        type="training.optimizer.with_rules",
        rule=dict(
            type="optax.rmsprop",
            learning_rate=dict(
                type="optax.exponential_decay",
                init_value=4 * 0.045,
                transition_steps=2 * STEPS_PER_EPOCH,
                decay_rate=0.94,
                staircase=True,
            ),
            decay=0.9,
            eps=1.0,
            initial_scale=1.0,
            momentum=0.9,
        ),
        clip_norm=10.0,
        l2=4e-5,
        l2_mask=dict(type="training.optimizer.paths", match="kernel$"),
    )
    # The papers evaluate a running average of the weights.
    config.ema_decay = 0.9999
    config.evals = dict(
        eval=dict(
            type="training.evaluation.Evaluation",
            data=dict(
                type="data.pipeline.Pipeline",
                source=dict(**imagenet, split="validation"),
                transforms=(
                    # The middle 87.5 %.
                    dict(
                        type="vision.transforms.Resize", size=round(image_size / 0.875)
                    ),
                    dict(type="vision.transforms.CenterCrop", size=image_size),
                ),
            ),
        )
    )
    config.eval_steps = 5 * STEPS_PER_EPOCH
    config.checkpoint_steps = STEPS_PER_EPOCH
    config.best_metric = "eval/accuracy"
    return config
