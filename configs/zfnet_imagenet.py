"""ZFNet on ImageNet, with the paper's recipe.

Zeiler & Fergus 2013, https://arxiv.org/abs/1311.2901: 70 epochs of SGD, dropout, crops of
256 pixels and flips; 61.6 % top-1 (averaged over ten crops). Deviations: crops anywhere
where the paper took corners and centre; the colours' mean is subtracted, not every
pixel's; filters are not clipped; the paper divided the learning rate when validation
stalled, here after 30, 50 and 65 epochs; one crop in evaluation.

Command: TFDS_DATA_DIR=... python train.py --config=configs/zfnet_imagenet.py
Wider third to fifth convolutions (62.5 %): --config=configs/zfnet_imagenet.py:Wide

Result: untested; paper: 61.6 % top-1
"""

from ml_collections import ConfigDict

TRAIN_EXAMPLES = 1_281_167


def get_config(size=""):
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 128
    steps_per_epoch = TRAIN_EXAMPLES // 128
    config.total_steps = 70 * steps_per_epoch

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
        ),
    )
    config.task = dict(
        type="vision.tasks.classification.Classification",
        model=dict(
            type=f"vision.models.zfnet.ZFNet{size}",
            num_classes=1000,
            dtype="bfloat16",
        ),
        # Pixels keep their scale of 0 to 255, for which the initial weights are made.
        mean=(0.485, 0.456, 0.406),
        std=(1 / 255,) * 3,
    )
    config.optimizer = dict(
        type="training.optimizer.with_rules",
        rule=dict(
            type="optax.sgd",
            learning_rate=dict(
                type="training.optimizer.step_decay",
                peak=0.01,
                boundaries=tuple(n * steps_per_epoch for n in (30, 50, 65)),
            ),
            momentum=0.9,
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
