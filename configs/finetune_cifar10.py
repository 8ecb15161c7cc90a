"""Fine-tunes the small ViT that another run pretrained on a share of CIFAR-10's labels.

After He et al. 2021, https://arxiv.org/abs/2111.06377, appendix A.2: layer-wise learning
rates, drop path, RandAugment, mixup and CutMix, label smoothing, a moving average.

Command: TFDS_DATA_DIR=... python train.py --config=configs/finetune_cifar10.py
    --config.init_from.path=runs/mae_cifar10
Shares of the labels, in per cent: --config=configs/finetune_cifar10.py:1 (or 10, 100)
From scratch, all layers at one rate: --config=configs/finetune_cifar10.py:1,scratch

Result: on 1 % of the labels 32.24 % test accuracy from mae_cifar10 as recorded, 25.61 % from
scratch. From mae_cifar10 of 30000 steps, with total_steps 2400 and 3600: 48.71 % on 1 % and 71.40 %
on 10 % of the labels, from scratch 35.50 % and 60.42 %; all labels are untested
"""

from ml_collections import ConfigDict

# Steps of the update for each share of the labels.
STEPS = {"1": 160, "10": 240, "100": 4000}


def get_config(arg="100"):
    percent, _, start = arg.partition(",")
    if percent not in STEPS or start not in ("", "scratch"):
        raise ValueError(f"{arg!r} is not 1, 10 or 100, perhaps with ',scratch'")
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 125
    config.total_steps = STEPS[percent]
    total_steps = config.get_oneway_ref("total_steps")
    if not start:
        config.init_from = dict(
            type="training.initialization.FromRun",
            path="runs/mae_cifar10",
            rules=(("^(backbone/)?", ""),),
            fresh=("^head/",),
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

    augmentation = [
        dict(type="vision.transforms.PadAndCrop", padding=4),
        dict(type="vision.transforms.RandomFlip"),
    ]
    # Strong augmentation and mixing need more steps than a small share is trained for.
    mixing = None
    if percent == "100":
        augmentation.append(
            dict(
                type="vision.transforms.RandAugment",
                num_layers=2,
                magnitude=9,
                increasing=True,
            )
        )
        mixing = dict(
            type="vision.ops.mixing.RandomMixing",
            choices=(
                dict(type="vision.ops.mixing.Mixup", alpha=0.8),
                dict(type="vision.ops.mixing.CutMix", alpha=1.0),
            ),
        )
    config.data = pipeline("train", *augmentation)
    if percent != "100":
        config.data.source = dict(
            type="data.sources.Subset",
            source=dict(**cifar, split="train"),
            share=int(percent) / 100,
        )
    config.task = dict(
        type="vision.tasks.classification.Classification",
        model=dict(
            type="vision.models.vit.ViT",
            num_classes=10,
            patch_size=4,
            embed_dim=96,
            num_layers=4,
            num_heads=3,
            mlp_dim=384,
            pooling="patch_average",
            positions="sincos2d_mae",
            drop_path_rate=0.1,
        ),
        label_smoothing=0.1,
        mixing=mixing,
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
                warmup_steps=total_steps // 10,
                total_steps=total_steps,
            ),
            b2=0.999,
            weight_decay=0.05,
            mask=dict(type="training.optimizer.paths", match="kernel$"),
        ),
        multipliers=()
        if start
        else dict(type="training.optimizer.layerwise_decay", decay=0.75, num_layers=4),
        clip_norm=1.0,
    )
    config.ema_decay = 0.99
    config.evals = dict(
        eval=dict(
            type="training.evaluation.Evaluation",
            batch_size=500,
            data=pipeline("test"),
        )
    )
    config.log_steps = 50
    config.checkpoint_steps = 200
    return config
