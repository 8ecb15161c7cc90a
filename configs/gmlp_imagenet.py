"""gMLP-S/16 on ImageNet from scratch, with the recipe of the paper's appendix.

Liu et al. 2021, https://arxiv.org/abs/2105.08050: 300 epochs of AdamW; 72.3 % top-1 (Ti),
79.6 % (S), 81.6 % (B).

Command: TFDS_DATA_DIR=... python train.py --config=configs/gmlp_imagenet.py
Other sizes: --config=configs/gmlp_imagenet.py:B/16 (Ti/16 S/16 B/16).

Result: untested; paper: 79.6 % top-1
"""

from ml_collections import ConfigDict

TRAIN_EXAMPLES = 1_281_167


def get_config(size="S/16"):
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
            dict(type="vision.autoaugment.AutoAugment"),
        ),
    )
    config.task = dict(
        type="vision.tasks.classification.Classification",
        model=dict(
            type=f"vision.models.gmlp.GMlp_{size.replace('/', '')}",
            num_classes=1000,
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
                warmup_steps=10_000,
                total_steps=total_steps,
            ),
            eps=1e-6,
            weight_decay=0.05,
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
