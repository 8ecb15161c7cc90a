"""ConvMixer-256/8 with 2x2 patches on CIFAR-10, with the recipe of the paper's code.

Trockman and Kolter 2022, https://arxiv.org/abs/2201.09792: about 96 % after 200 epochs; kernel 5,
AdamW, RandAugment, colour jitter, random erasing, gradients of norm 1. Deviation: the learning
rate rises over two fifths of the run and falls straight, not with a bend at four fifths.

Command: TFDS_DATA_DIR=... python train.py --config=configs/convmixer_cifar10.py
Other lengths: --config=configs/convmixer_cifar10.py:200 (epochs).

Result: untested
"""

from ml_collections import ConfigDict


def get_config(epochs="25"):
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
            dict(type="vision.transforms.RandomResizedCrop", size=32, area=(0.75, 1.0)),
            dict(type="vision.transforms.RandomFlip"),
            dict(
                type="vision.transforms.RandAugment",
                num_layers=1,
                magnitude=8,
                increasing=True,
            ),
            dict(
                type="vision.color_transforms.ColorJitter",
                brightness=0.1,
                contrast=0.1,
                saturation=0.1,
                hue=0.0,
            ),
            dict(type="vision.transforms.RandomErasing", probability=0.25),
        ),
    )
    config.task = dict(
        type="vision.tasks.classification.Classification",
        model=dict(
            type="vision.models.convmixer.ConvMixer",
            num_classes=10,
            embed_dim=256,
            num_layers=8,
            kernel_size=5,
            patch_size=2,
        ),
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
    )
    config.optimizer = dict(
        type="training.optimizer.with_rules",
        rule=dict(
            type="optax.adamw",
            learning_rate=dict(
                type="training.optimizer.warmup_linear",
                peak=0.01,
                warmup_steps=2 * total_steps // 5,
                total_steps=total_steps,
            ),
            weight_decay=0.01,
            mask=dict(type="training.optimizer.paths", match="kernel$"),
        ),
        clip_norm=1.0,
    )
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
    config.eval_steps = steps_per_epoch
    config.checkpoint_steps = steps_per_epoch
    config.best_metric = "eval/accuracy"
    return config
