"""VGG-16 with BatchNorm on CIFAR-10: 32x32 pixels, one linear layer after five poolings.

The convolutions of Simonyan & Zisserman 2014, https://arxiv.org/abs/1409.1556, with the
shifts and flips of He et al. 2015 and the weight decay usual for wide networks on CIFAR.

Command: TFDS_DATA_DIR=... python train.py --config=configs/vgg_cifar10.py
Other lengths in epochs: --config=configs/vgg_cifar10.py:30

Result: untested
"""

from ml_collections import ConfigDict


def get_config(epochs="160"):
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 128
    steps_per_epoch = 50_000 // 128
    config.total_steps = int(epochs) * steps_per_epoch
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
        ),
    )
    config.task = dict(
        type="vision.tasks.classification.Classification",
        model=dict(type="vision.models.vgg.CifarVGG16", num_classes=10),
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
    )
    config.optimizer = dict(
        type="training.optimizer.with_rules",
        rule=dict(
            type="optax.sgd",
            learning_rate=dict(
                type="training.optimizer.warmup_cosine",
                peak=0.1,
                warmup_steps=total_steps // 20,
                total_steps=total_steps,
            ),
            momentum=0.9,
            nesterov=True,
        ),
        l2=5e-4,
        l2_mask=dict(type="training.optimizer.paths", match="kernel$"),
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
    config.eval_steps = 5 * steps_per_epoch
    config.checkpoint_steps = steps_per_epoch
    config.best_metric = "eval/accuracy"
    return config
