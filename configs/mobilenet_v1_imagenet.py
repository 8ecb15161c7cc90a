"""MobileNet v1 on ImageNet, with RMSProp and little regularisation, as in the paper.

Howard et al. 2017, https://arxiv.org/abs/1704.04861: 70.6 % top-1 (63.7 %, 68.4 % and 50.6 % at
widths 0.5, 0.75 and 0.25), small crops limited, no label smoothing, no decay of depthwise
weights. What it leaves open (rates, weight decay, 300 epochs) is MobileNetV2's. Deviation: one
synchronous worker, where the paper has several asynchronous ones.

Command: TFDS_DATA_DIR=... python train.py --config=configs/mobilenet_v1_imagenet.py
Other widths: --config=configs/mobilenet_v1_imagenet.py:50 (25 50 75 100, per cent).

Result: untested; paper: 70.6 % top-1
"""

from ml_collections import ConfigDict

TRAIN_EXAMPLES = 1_281_167


def get_config(width="100"):
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 96
    steps_per_epoch = TRAIN_EXAMPLES // 96
    config.total_steps = 300 * steps_per_epoch

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
            dict(type="vision.transforms.RandomResizedCrop", size=224, area=(0.2, 1.0)),
            dict(type="vision.transforms.RandomFlip"),
        ),
    )
    config.task = dict(
        type="vision.tasks.classification.Classification",
        model=dict(
            type=f"vision.models.mobilenet_v1.MobileNetV1_{width}",
            num_classes=1000,
            dropout_rate=0.001,
            dtype="bfloat16",
        ),
    )
    config.optimizer = dict(
        type="training.optimizer.with_rules",
        rule=dict(
            type="optax.rmsprop",
            learning_rate=dict(
                type="optax.exponential_decay",
                init_value=0.045,
                transition_steps=steps_per_epoch,
                decay_rate=0.98,
                staircase=True,
            ),
            decay=0.9,
            momentum=0.9,
            eps=1.0,
            # TensorFlow's running square starts at 1.
            initial_scale=1.0,
        ),
        l2=4e-5,
        l2_mask=dict(
            type="training.optimizer.paths", match="kernel$", exclude="depthwise"
        ),
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
