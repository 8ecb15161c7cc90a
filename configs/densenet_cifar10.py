"""DenseNet-BC (100 layers, growth rate 12) on CIFAR-10, with the recipe of the paper.

Huang et al. 2016, https://arxiv.org/abs/1608.06993: 300 epochs of batches of 64, the learning
rate divided by 10 after half and three quarters; augmented, error 4.51 % (250 layers and 24:
3.62 %, 190 and 40: 3.46 %, 40 and 12 without bottlenecks: 5.24 %).

Command: TFDS_DATA_DIR=... python train.py --config=configs/densenet_cifar10.py
Other sizes: --config=configs/densenet_cifar10.py:BC250_24 (BC190_40 BC100_12 40_12).

Result: untested; paper: 95.5 % accuracy
"""

from ml_collections import ConfigDict


def get_config(size="BC100_12"):
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 64
    steps_per_epoch = 50_000 // 64
    config.total_steps = 300 * steps_per_epoch

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
        model=dict(type=f"vision.models.densenet.CifarDenseNet{size}", num_classes=10),
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
                boundaries=(150 * steps_per_epoch, 225 * steps_per_epoch),
            ),
            momentum=0.9,
            nesterov=True,
        ),
        l2=1e-4,
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
