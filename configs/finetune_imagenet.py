"""Fine-tunes a ViT that MAE pretrained on ImageNet.

He et al. 2021, https://arxiv.org/abs/2111.06377, table 9: AdamW, base learning rate 5e-4 (B) or
1e-3 (L, H), layer-wise decay 0.65 (B) or 0.75, batch 1024, 100 epochs (B) or 50, 5 of warm-up,
RandAugment (9, 0.5), label smoothing 0.1, mixup 0.8, CutMix 1.0, drop path 0.1 (B), 0.2 (L) or
0.3 (H); 83.6 % (B), 85.9 % (L), 86.9 % (H) after 1600 epochs of MAE.

Command: python train.py --config=configs/finetune_imagenet.py
    --config.init_from.path=runs/mae_vit_imagenet
Other sizes: --config=configs/finetune_imagenet.py:L/16

Result: untested here
"""

from ml_collections import ConfigDict

TRAIN_EXAMPLES = 1_281_167
# Base learning rate, layer-wise decay, epochs, drop path, blocks.
RECIPES = {
    "B/16": (5e-4, 0.65, 100, 0.1, 12),
    "L/16": (1e-3, 0.75, 50, 0.2, 24),
    "H/14": (1e-3, 0.75, 50, 0.3, 32),
}


def get_config(size="B/16"):
    rate, decay, epochs, drop_path_rate, num_layers = RECIPES[size]
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 1024
    steps_per_epoch = TRAIN_EXAMPLES // 1024
    config.total_steps = epochs * steps_per_epoch
    total_steps = config.get_oneway_ref("total_steps")
    config.init_from = dict(
        type="training.initialization.FromRun",
        path="runs/mae_vit_imagenet",
        rules=(("^(backbone/)?", ""),),
        fresh=("^head/",),
    )

    imagenet = dict(
        type="data.sources.TFDS",
        name="imagenet2012",
        features=dict(
            image=dict(type="data.features.Image", encoding="jpeg"),
            label=dict(type="data.features.Label", num_classes=1000),
        ),
    )
    plain = (
        dict(type="vision.transforms.Resize", size=256, interpolation="cubic"),
        dict(type="vision.transforms.CenterCrop", size=224),
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
            type=f"vision.models.vit.ViT_{size.replace('/', '')}",
            num_classes=1000,
            pooling="patch_average",
            positions="sincos2d_mae",
            drop_path_rate=drop_path_rate,
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
                peak=rate * 1024 / 256,
                warmup_steps=total_steps // (epochs // 5),
                total_steps=total_steps,
                end=1e-6,
            ),
            b2=0.999,
            weight_decay=0.05,
            mask=dict(type="training.optimizer.paths", match="kernel$"),
        ),
        multipliers=dict(
            type="training.optimizer.layerwise_decay",
            decay=decay,
            num_layers=num_layers,
        ),
    )
    config.evals = dict(
        eval=dict(
            type="training.evaluation.Evaluation",
            data=dict(
                type="data.pipeline.Pipeline",
                source=dict(**imagenet, split="validation"),
                transforms=plain,
            ),
        )
    )
    config.ema_decay = 0.9999
    config.eval_steps = 5 * steps_per_epoch
    config.checkpoint_steps = steps_per_epoch
    config.best_metric = "eval/accuracy"
    return config
