"""SimCLR trains a ResNet-18 on CIFAR-10 without labels, as in the paper's appendix B.9.

Command: TFDS_DATA_DIR=... python train.py --config=configs/simclr_cifar10.py

Result: untested
"""

from ml_collections import ConfigDict


def get_config():
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 512
    config.total_steps = 100 * (50_000 // 512)  # 100 epochs; 1000 in the paper
    total_steps = config.get_oneway_ref("total_steps")

    cifar = dict(
        type="data.sources.TFDS",
        name="cifar10",
        features=dict(
            image=dict(
                type="data.features.Image",
                height=32,
                width=32,
                encoding="png",
            ),
            label=dict(type="data.features.Label", num_classes=10),
        ),
    )
    decode = dict(type="vision.transforms.Decode")
    # The paper's appendix B.9: jitter of strength 0.5, no blur.
    views = dict(
        type="vision.views.TwoViews",
        transforms=(
            dict(type="vision.transforms.RandomResizedCrop", size=32),
            dict(type="vision.transforms.RandomFlip"),
            dict(
                type="vision.color_transforms.ColorJitter",
                brightness=0.4,
                contrast=0.4,
                saturation=0.4,
                hue=0.1,
                probability=0.8,
            ),
            dict(type="vision.color_transforms.Grayscale", probability=0.2),
        ),
    )
    config.data = dict(
        type="data.pipeline.Pipeline",
        source=dict(**cifar, split="train"),
        transforms=(decode, views),
    )
    config.task = dict(
        type="vision.tasks.contrastive.Contrastive",
        model=dict(
            type="vision.models.simclr.SimCLR",
            backbone=dict(
                type="vision.models.resnet.ResNet18", num_classes=0, stem="small"
            ),
            projection_dim=128,
        ),
        temperature=0.5,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
    )
    weights = dict(type="training.optimizer.paths", match="kernel$")
    config.optimizer = dict(
        type="training.optimizer.with_rules",
        rule=dict(
            type="optax.lars",
            learning_rate=dict(
                type="training.optimizer.warmup_cosine",
                peak=1.0,
                warmup_steps=total_steps // 100,
                total_steps=total_steps,
            ),
            weight_decay=1e-6,
            weight_decay_mask=weights,
            trust_ratio_mask=weights,
            momentum=0.9,
        ),
    )
    config.evals = dict(
        eval=dict(
            type="training.evaluation.Evaluation",
            batch_size=512,
            data=dict(
                type="data.pipeline.Pipeline",
                source=dict(**cifar, split="test"),
                transforms=(decode, views),
            ),
        )
    )
    config.eval_steps = 1000
    config.checkpoint_steps = 1000
    config.best_metric = "eval/accuracy"
    return config
