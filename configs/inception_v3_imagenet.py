"""Inception v3 on ImageNet at 299 pixels, with RMSProp, label smoothing and an auxiliary head.

Szegedy et al. 2015, https://arxiv.org/abs/1512.00567, section 8: 100 epochs; the learning
rate of 0.045 falls by 0.94 every two epochs; gradients are clipped to norm 2.

Deviations: the paper's replicas update asynchronously, each from 32 images; here one update
has 1024, and four times the learning rate. Weight decay, RMSProp's momentum and the colour
jitter are those of the code that the authors released.

Command: TFDS_DATA_DIR=... python train.py --config=configs/inception_v3_imagenet.py
The earlier stage of the network: --config=configs/inception_v3_imagenet.py:2

Result: untested; paper: 78.8 % top-1 (v3), 76.6 % (v2, without what v3 adds)
"""

from ml_collections import ConfigDict

TRAIN_EXAMPLES = 1_281_167
BATCH_SIZE = 1024
STEPS_PER_EPOCH = TRAIN_EXAMPLES // BATCH_SIZE


def get_config(version="3"):
    config = ConfigDict()
    config.seed = 0
    config.batch_size = BATCH_SIZE
    config.total_steps = 100 * STEPS_PER_EPOCH

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
            dict(type="vision.transforms.RandomResizedCrop", size=299),
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
            type=f"vision.models.inception_v3.InceptionV{version}",
            num_classes=1000,
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
        clip_norm=2.0,
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
                    dict(type="vision.transforms.Resize", size=342),
                    dict(type="vision.transforms.CenterCrop", size=299),
                ),
            ),
        )
    )
    config.eval_steps = 5 * STEPS_PER_EPOCH
    config.checkpoint_steps = STEPS_PER_EPOCH
    config.best_metric = "eval/accuracy"
    return config
