"""ViT-Tiny with 4x4 patches on CIFAR-10, with RandAugment, mixup and drop path.

Command: TFDS_DATA_DIR=... python train.py --config=configs/vit_cifar10.py
Other lengths: --config=configs/vit_cifar10.py:30 (epochs).

Result: untested
"""

from ml_collections import ConfigDict


def get_config(epochs="200"):
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 512
    steps_per_epoch = 50_000 // 512
    config.total_steps = steps_per_epoch * int(epochs)
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
    config.data = dict(
        type="data.pipeline.Pipeline",
        source=dict(**cifar, split="train"),
        transforms=(
            decode,
            dict(type="vision.transforms.PadAndCrop", padding=4),
            dict(type="vision.transforms.RandomFlip"),
            dict(
                type="vision.transforms.RandAugment",
                num_layers=2,
                magnitude=9,
                increasing=True,
            ),
        ),
    )
    config.task = dict(
        type="vision.tasks.classification.Classification",
        model=dict(
            type="vision.models.vit.ViT",
            num_classes=10,
            patch_size=4,
            embed_dim=192,
            num_layers=9,
            num_heads=3,
            mlp_dim=384,
            pooling="average",
            drop_path_rate=0.1,
        ),
        label_smoothing=0.1,
        mixing=dict(type="vision.ops.mixing.Mixup", alpha=0.2),
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
    )
    config.optimizer = dict(
        type="training.optimizer.with_rules",
        rule=dict(
            type="optax.adamw",
            learning_rate=dict(
                type="training.optimizer.warmup_cosine",
                peak=1e-3,
                warmup_steps=total_steps // 40,
                total_steps=total_steps,
            ),
            weight_decay=0.05,
            mask=dict(type="training.optimizer.paths", match="kernel$"),
        ),
        clip_norm=1.0,
    )
    config.ema_decay = 0.999
    config.evals = dict(
        eval=dict(
            type="training.evaluation.Evaluation",
            batch_size=500,
            data=dict(
                type="data.pipeline.Pipeline",
                source=dict(**cifar, split="test"),
                transforms=(decode,),
            ),
        )
    )
    config.eval_steps = 2 * steps_per_epoch
    config.checkpoint_steps = steps_per_epoch
    config.best_metric = "eval/accuracy"
    return config
