"""MobileNet v3 on ImageNet, with the paper's RMSProp, dropout and averaged weights.

Howard et al. 2019, https://arxiv.org/abs/1905.02244: 75.2 % top-1 (large), 67.4 % (small), batches
of 4096, learning rate 0.1 that loses 1 % every three epochs, dropout 0.2, weight decay 1e-5, average
of weights with 0.9999. Deviation: 600 epochs and five of warm-up, which the paper does not say.

Command: TFDS_DATA_DIR=... python train.py --config=configs/mobilenet_v3_imagenet.py
The other size: --config=configs/mobilenet_v3_imagenet.py:Large (Small Large).

Result: untested; paper: 67.4 % top-1 (small)
"""

from ml_collections import ConfigDict

TRAIN_EXAMPLES = 1_281_167


def get_config(size="Small"):
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 4096
    steps_per_epoch = TRAIN_EXAMPLES // 4096
    config.total_steps = 600 * steps_per_epoch

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
            type=f"vision.models.mobilenet_v3.MobileNetV3{size}",
            num_classes=1000,
            dropout_rate=0.2,
            dtype="bfloat16",
        ),
    )
    config.optimizer = dict(
        type="training.optimizer.with_rules",
        rule=dict(
            type="optax.rmsprop",
            learning_rate=dict(
                type="optax.warmup_exponential_decay_schedule",
                init_value=0.0,
                peak_value=0.1,
                warmup_steps=5 * steps_per_epoch,
                transition_steps=3 * steps_per_epoch,
                decay_rate=0.99,
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
