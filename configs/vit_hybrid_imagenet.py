"""R50+ViT-B/16, a ViT on the map of a ResNet, on ImageNet from scratch.

Dosovitskiy et al. 2020, https://arxiv.org/abs/2010.11929, with the settings that its table 3
gives for ViT-B on ImageNet: 300 epochs, Adam with a learning rate of 3e-3, cosine decay after
10k steps, weight decay 0.3, dropout 0.1, gradients clipped. The paper reports hybrids after
JFT-300M only.

Command: TFDS_DATA_DIR=... python train.py --config=configs/vit_hybrid_imagenet.py
Other sizes: --config=configs/vit_hybrid_imagenet.py:R26+S/32 (R50+B/16 R26+S/32 R50+L/32).

Result: untested; paper: none on ImageNet alone (ViT-B/16: 77.9 % top-1 at 384)
"""

from ml_collections import ConfigDict

TRAIN_EXAMPLES = 1_281_167
STEMS = {"R50+B/16": "50", "R26+S/32": "26_32", "R50+L/32": "50_32"}


def get_config(size="R50+B/16"):
    if size not in STEMS:
        raise ValueError(f"size {size!r} is none of {', '.join(STEMS)}")
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
        ),
    )
    config.task = dict(
        type="vision.tasks.classification.Classification",
        model=dict(
            type=f"vision.models.vit.ViT_{size[4]}1",
            num_classes=1000,
            stem=dict(
                type=f"vision.models.bit.HybridStem{STEMS[size]}", dtype="bfloat16"
            ),
            dropout_rate=0.1,
            dtype="bfloat16",
        ),
    )
    config.optimizer = dict(
        type="training.optimizer.with_rules",
        rule=dict(
            type="optax.adamw",
            learning_rate=dict(
                type="training.optimizer.warmup_cosine",
                peak=3e-3,
                warmup_steps=10_000,
                total_steps=total_steps,
            ),
            weight_decay=0.3,
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
