"""AlexNet (two streams) on ImageNet, with the paper's recipe.

Krizhevsky et al. 2012: 90 epochs, learning rate divided by 10 three times; random crops of
256 pixels, flips, random principal colours; 59.3 % top-1 (averaged over ten crops).
Deviations: the colours' mean is subtracted, not every pixel's, and pixels keep their scale
of 0 to 255, for which the initial weights are made; the paper divided the learning rate
when validation stalled, here after 30, 60 and 80 epochs; one crop in evaluation.

Command: TFDS_DATA_DIR=... python train.py --config=configs/alexnet_imagenet.py
torchvision's network of one stream: --config=configs/alexnet_imagenet.py:OneStream

Result: untested; paper: 59.3 % top-1
"""

from ml_collections import ConfigDict

TRAIN_EXAMPLES = 1_281_167


def get_config(form="TwoStreams"):
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 128
    steps_per_epoch = TRAIN_EXAMPLES // 128
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
            dict(type="vision.transforms.Resize", size=256),
            dict(type="vision.transforms.RandomCrop", size=224),
            dict(type="vision.transforms.RandomFlip"),
            dict(type="vision.color_transforms.PrincipalColors"),
        ),
    )
    config.task = dict(
        type="vision.tasks.classification.Classification",
        model=dict(
            type=f"vision.models.alexnet.AlexNet{form}",
            num_classes=1000,
            dtype="bfloat16",
        ),
        # The narrower network starts by He's rule: inputs of unit variance.
        mean=(0.485, 0.456, 0.406),
        std=(1 / 255,) * 3 if form == "TwoStreams" else (0.229, 0.224, 0.225),
    )
    config.optimizer = dict(
        type="training.optimizer.with_rules",
        rule=dict(
            type="optax.sgd",
            learning_rate=dict(
                type="training.optimizer.step_decay",
                peak=0.01,
                boundaries=tuple(n * steps_per_epoch for n in (30, 60, 80)),
            ),
            momentum=0.9,
        ),
        l2=0.0005,
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
