"""Swin-T on ImageNet from scratch, with the paper's recipe.

Liu et al. 2021, https://arxiv.org/abs/2103.14030: 300 epochs of AdamW, 20 of warm-up; 81.3 %
top-1 (T), 83.0 % (S), 83.5 % (B). Deviation: RandAugment without noise in its magnitude.

Command: TFDS_DATA_DIR=... python train.py --config=configs/swin_imagenet.py
Other sizes: --config=configs/swin_imagenet.py:B (T S B; L, which the paper trains on
ImageNet-22k only).

Result: untested; paper: 81.3 % top-1
"""

from ml_collections import ConfigDict

TRAIN_EXAMPLES = 1_281_167

DROP_PATH_RATES = dict(T=0.2, S=0.3, B=0.5, L=0.5)


def get_config(size="T"):
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 1024
    steps_per_epoch = TRAIN_EXAMPLES // 1024
    config.total_steps = 300 * steps_per_epoch
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
            type=f"vision.models.swin.Swin_{size}",
            num_classes=1000,
            drop_path_rate=DROP_PATH_RATES[size],
            dtype="bfloat16",
        ),
        label_smoothing=0.1,
        mixing=dict(
            type="vision.ops.mixing.RandomMixing",
            choices=(
                dict(type="vision.ops.mixing.Mixup", alpha=0.8),
                dict(type="vision.ops.mixing.CutMix", alpha=1.0),
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
                type="training.optimizer.warmup_cosine",
                peak=1e-3,
                warmup_steps=20 * steps_per_epoch,
                total_steps=total_steps,
                end=1e-5,
            ),
            weight_decay=0.05,
            mask=dict(type="training.optimizer.paths", match="kernel$"),
        ),
        clip_norm=5.0,
    )
    config.evals = dict(
        eval=dict(
            type="training.evaluation.Evaluation",
            data=dict(
                type="data.pipeline.Pipeline",
                source=dict(**imagenet, split="validation"),
                transforms=(
                    dict(
                        type="vision.transforms.Resize",
                        size=256,
                        interpolation="cubic",
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
