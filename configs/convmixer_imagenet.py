"""ConvMixer on ImageNet, with the recipe of the paper's code.

Trockman and Kolter 2022, https://arxiv.org/abs/2201.09792: 81.4 % top-1 (1536/20, 150 epochs), 80.2 %
(768/32, 300 epochs); AdamW with one triangle of the learning rate, RandAugment, mixup, CutMix, random
erasing, gradients of norm 1. Deviations: RandAugment without noise in its magnitude; mixup or
CutMix for a whole batch; the triangle's top at three tenths of the run.

Command: TFDS_DATA_DIR=... python train.py --config=configs/convmixer_imagenet.py
Other sizes: --config=configs/convmixer_imagenet.py:768_32 (1536_20 1024_20 768_32).

Result: untested; paper: 81.4 % top-1 (1536/20)
"""

from ml_collections import ConfigDict

TRAIN_EXAMPLES = 1_281_167
EPOCHS = {"1536_20": 150, "1024_20": 150, "768_32": 300}


def get_config(size="1536_20"):
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 640
    steps_per_epoch = TRAIN_EXAMPLES // 640
    config.total_steps = EPOCHS[size] * steps_per_epoch
    total_steps = config.get_oneway_ref("total_steps")

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
            dict(
                type="vision.transforms.RandomResizedCrop",
                size=224,
                interpolation="cubic",
            ),
            dict(type="vision.transforms.RandomFlip"),
            dict(
                type="vision.transforms.RandAugment",
                num_layers=2,
                magnitude=9,
                increasing=True,
            ),
            dict(type="vision.transforms.RandomErasing", probability=0.25),
        ),
    )
    config.task = dict(
        type="vision.tasks.classification.Classification",
        model=dict(
            type=f"vision.models.convmixer.ConvMixer{size}",
            num_classes=1000,
            dtype="bfloat16",
        ),
        label_smoothing=0.1,
        mixing=dict(
            type="vision.ops.mixing.RandomMixing",
            choices=(
                dict(type="vision.ops.mixing.Mixup", alpha=0.5),
                dict(type="vision.ops.mixing.CutMix", alpha=0.5),
            ),
        ),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )
    config.optimizer = dict(
        type="training.optimizer.with_rules",
        rule=dict(
            type="optax.adamw",
            learning_rate=dict(
                type="training.optimizer.warmup_linear",
                peak=0.01,
                warmup_steps=3 * total_steps // 10,
                total_steps=total_steps,
            ),
            eps=1e-3,
            weight_decay=2e-5,
            mask=dict(type="training.optimizer.paths", match="kernel$"),
        ),
        clip_norm=1.0,
    )
    config.evals = dict(
        eval=dict(
            type="training.evaluation.Evaluation",
            data=dict(
                type="data.pipeline.Pipeline",
                source=dict(**imagenet, split="validation"),
                transforms=(
                    dict(
                        type="vision.transforms.Resize", size=234, interpolation="cubic"
                    ),
                    dict(type="vision.transforms.CenterCrop", size=224),
                ),
            ),
        )
    )
    config.eval_steps = 5 * steps_per_epoch
    config.checkpoint_steps = steps_per_epoch
    config.best_metric = "eval/accuracy"
    return config
