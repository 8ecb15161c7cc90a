"""A linear probe of a ViT that another run pretrained on ImageNet.

He et al. 2021, https://arxiv.org/abs/2111.06377, table 10: LARS, base learning rate 0.1, batch
16384, no weight decay, 90 epochs, 10 of warm-up; 68.0 % (B), 75.8 % (L), 76.6 % (H) after 1600
epochs of MAE.

Command: python train.py --config=configs/linear_probe_imagenet.py
    --config.init_from.path=runs/mae_vit_imagenet
Other sizes: --config=configs/linear_probe_imagenet.py:L/16

Result: untested here
"""

from ml_collections import ConfigDict

TRAIN_EXAMPLES = 1_281_167


def get_config(size="B/16"):
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 16_384
    steps_per_epoch = TRAIN_EXAMPLES // 16_384
    config.total_steps = 90 * steps_per_epoch
    total_steps = config.get_oneway_ref("total_steps")
    config.init_from = dict(
        type="training.initialization.FromRun",
        path="runs/mae_vit_imagenet",
        rules=(("^(backbone/)?", "backbone/"),),
        fresh=("^head/", "^norm/"),
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

    def pipeline(split, *transforms):
        return dict(
            type="data.pipeline.Pipeline",
            source=dict(**imagenet, split=split),
            transforms=transforms,
        )

    config.data = pipeline(
        "train",
        dict(
            type="vision.transforms.RandomResizedCrop", size=224, interpolation="cubic"
        ),
        dict(type="vision.transforms.RandomFlip"),
    )
    config.task = dict(
        type="vision.tasks.classification.Classification",
        model=dict(
            type="vision.models.linear_probe.LinearProbe",
            num_classes=1000,
            backbone=dict(
                type=f"vision.models.vit.ViT_{size.replace('/', '')}",
                num_classes=0,
                positions="sincos2d_mae",
                dtype="bfloat16",
            ),
        ),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )
    config.optimizer = dict(
        type="training.optimizer.with_rules",
        rule=dict(
            type="optax.lars",
            learning_rate=dict(
                type="training.optimizer.warmup_cosine",
                peak=0.1 * 16_384 / 256,
                warmup_steps=total_steps // 9,
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
            batch_size=1024,
            data=pipeline("validation", *plain),
        )
    )
    config.eval_steps = 10 * steps_per_epoch
    config.checkpoint_steps = 5 * steps_per_epoch
    return config
