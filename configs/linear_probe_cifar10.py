"""A linear probe of the small ViT that another run pretrained on CIFAR-10.

He et al. 2021, https://arxiv.org/abs/2111.06377, appendix A.1: frozen backbone, BatchNorm
without parameters, LARS without weight decay. At the end also nearest neighbours, the
closed-form probe and few-shot accuracy of the same features.

Command: TFDS_DATA_DIR=... python train.py --config=configs/linear_probe_cifar10.py
    --config.init_from.path=runs/mae_cifar10
Untrained features: --config=configs/linear_probe_cifar10.py:random

Result: 45.02 % test accuracy from mae_cifar10 as recorded, 32.55 % from random values; logistic
regression on the same features 50.73 % and 41.99 %. With
total_steps=4500, from mae_cifar10 of 30000 steps: 55.23 % and 58.02 %
"""

from ml_collections import ConfigDict


def get_config(start="pretrained"):
    if start not in ("pretrained", "random"):
        raise ValueError(f"start {start!r}; there is pretrained and random")
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 250
    config.total_steps = 300
    total_steps = config.get_oneway_ref("total_steps")
    if start == "pretrained":
        config.init_from = dict(
            type="training.initialization.FromRun",
            path="runs/mae_cifar10",
            rules=(("^(backbone/)?", "backbone/"),),
            fresh=("^head/", "^norm/"),
        )

    cifar = dict(
        type="data.sources.TFDS",
        name="cifar10",
        features=dict(
            image=dict(type="data.features.Image", height=32, width=32, encoding="png"),
            label=dict(type="data.features.Label", num_classes=10),
        ),
    )
    decode = dict(type="vision.transforms.Decode")

    def pipeline(split, *transforms):
        return dict(
            type="data.pipeline.Pipeline",
            source=dict(**cifar, split=split),
            transforms=(decode, *transforms),
            cache=True,
        )

    config.data = pipeline(
        "train",
        dict(type="vision.transforms.PadAndCrop", padding=4),
        dict(type="vision.transforms.RandomFlip"),
    )
    config.task = dict(
        type="vision.tasks.classification.Classification",
        model=dict(
            type="vision.models.linear_probe.LinearProbe",
            num_classes=10,
            backbone=dict(
                type="vision.models.vit.ViT",
                num_classes=0,
                patch_size=4,
                embed_dim=96,
                num_layers=4,
                num_heads=3,
                mlp_dim=384,
                pooling="patch_average",
                positions="sincos2d_mae",
            ),
        ),
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
    )
    config.optimizer = dict(
        type="training.optimizer.with_rules",
        rule=dict(
            type="optax.lars",
            learning_rate=dict(
                type="training.optimizer.warmup_cosine",
                peak=30.0,
                warmup_steps=total_steps // 10,
                total_steps=total_steps,
            ),
            trust_ratio_mask=dict(type="training.optimizer.paths", match="kernel$"),
            momentum=0.9,
        ),
        frozen=("^backbone/",),
    )
    config.evals = dict(
        eval=dict(
            type="training.evaluation.Evaluation",
            batch_size=500,
            data=pipeline("test"),
        ),
        representation=dict(
            type="vision.evaluators.representation.Representation",
            batch_size=500,
            train=pipeline("train"),
            test=pipeline("test"),
            heads=dict(
                knn=dict(type="vision.evaluators.nearest_neighbors.NearestNeighbors"),
                ridge=dict(type="vision.evaluators.ridge.Ridge"),
                logistic=dict(
                    type="vision.evaluators.logistic_regression.LogisticRegression"
                ),
                few_shot=dict(type="vision.evaluators.few_shot.FewShot"),
            ),
        ),
    )
    config.log_steps = 50
    config.checkpoint_steps = 200
    return config
