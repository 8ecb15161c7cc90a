"""MLP-Mixer-B/16 on ImageNet from scratch, with the recipe of the paper's appendix.

Tolstikhin et al. 2021, https://arxiv.org/abs/2105.01601: 76.4 % top-1 after 300 epochs.

Command: python train.py --config=configs/mixer_imagenet.py
Other sizes: --config=configs/mixer_imagenet.py:S/16 (S/32 B/32 L/16).

Result: untested here
"""

from ml_collections import ConfigDict

TRAIN_EXAMPLES = 1_281_167


def get_config(size="B/16"):
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 4096
    config.total_steps = 300 * TRAIN_EXAMPLES // 4096
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
                type="vision.transforms.RandomResizedCrop", size=224, area=(0.05, 1.0)
            ),
            dict(type="vision.transforms.RandomFlip"),
            dict(
                type="vision.transforms.RandAugment",
                num_layers=2,
                magnitude=15,
                operations="code",
            ),
        ),
    )
    config.task = dict(
        type="vision.tasks.classification.Classification",
        model=dict(
            type=f"vision.models.mlp_mixer.MlpMixer_{size.replace('/', '')}",
            num_classes=1000,
            drop_path_rate=0.1,
            dtype="bfloat16",
        ),
        mixing=dict(type="vision.ops.mixing.Mixup", alpha=0.5),
    )
    config.optimizer = dict(
        type="training.optimizer.with_rules",
        rule=dict(
            type="optax.adamw",
            learning_rate=dict(
                type="training.optimizer.warmup_linear",
                peak=1e-3,
                warmup_steps=10_000,
                total_steps=total_steps,
            ),
            weight_decay=0.1,
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
                    dict(type="vision.transforms.Resize", size=256),
                    dict(type="vision.transforms.CenterCrop", size=224),
                ),
            ),
        )
    )
    config.eval_steps = 5_000
    config.checkpoint_steps = 2_000
    config.best_metric = "eval/accuracy"
    return config
