"""ConvNeXt on ImageNet from scratch, with the recipe of the paper's appendix.

Liu et al. 2022, https://arxiv.org/abs/2201.03545: 82.1 % top-1 (T), 83.1 % (S), 83.8 % (B), 84.3 % (L)
after 300 epochs of AdamW; RandAugment, mixup, CutMix, random erasing, stochastic depth, average of
weights. Deviations: RandAugment without noise in its magnitude; mixup or CutMix for a whole batch.

Command: TFDS_DATA_DIR=... python train.py --config=configs/convnext_imagenet.py
Other sizes: --config=configs/convnext_imagenet.py:B (T S B L).

Result: untested; paper: 82.1 % top-1 (T)
"""

from ml_collections import ConfigDict

TRAIN_EXAMPLES = 1_281_167
DROP_PATH_RATES = dict(T=0.1, S=0.4, B=0.5, L=0.5)


def get_config(size="T"):
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 4096
    steps_per_epoch = TRAIN_EXAMPLES // 4096
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
            type=f"vision.models.convnext.ConvNeXt{size}",
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
        type="optax.adamw",
        learning_rate=dict(
            type="training.optimizer.warmup_cosine",
            peak=4e-3,
            warmup_steps=20 * steps_per_epoch,
            total_steps=total_steps,
        ),
        weight_decay=0.05,
        mask=dict(type="training.optimizer.paths", match="kernel$"),
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
                        type="vision.transforms.Resize", size=256, interpolation="cubic"
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
