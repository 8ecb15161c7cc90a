"""Wide ResNet 28-10 on CIFAR-10, with the recipe of the paper.

Zagoruyko & Komodakis 2016, https://arxiv.org/abs/1605.07146: 200 epochs, the learning rate
times 0.2 after 60, 120 and 160, dropout 0.3 in the blocks; error 3.89 % (16-4: 5.02 %, 40-4:
4.53 %, without dropout).

Command: TFDS_DATA_DIR=... python train.py --config=configs/wide_resnet_cifar10.py
Other sizes: --config=configs/wide_resnet_cifar10.py:16-4 (40-4 16-8 28-10).

Result: untested; paper: 96.1 % accuracy
"""

from ml_collections import ConfigDict


def get_config(size="28-10"):
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 128
    steps_per_epoch = 50_000 // 128
    config.total_steps = 200 * steps_per_epoch

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
        model=dict(
            type=f"vision.models.resnet_preact.WideResNet{size.replace('-', '_')}",
            num_classes=10,
            dropout_rate=0.3 if size == "28-10" else 0.0,
        ),
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
    )
    config.optimizer = dict(
        type="training.optimizer.with_rules",
        rule=dict(
            type="optax.sgd",
            learning_rate=dict(
                type="training.optimizer.step_decay",
                peak=0.1,
                factor=0.2,
                boundaries=tuple(n * steps_per_epoch for n in (60, 120, 160)),
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
    config.eval_steps = 2 * steps_per_epoch
    config.checkpoint_steps = steps_per_epoch
    config.best_metric = "eval/accuracy"
    return config
