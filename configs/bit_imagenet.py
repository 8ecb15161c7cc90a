"""BiT-S on ImageNet: the upstream training of ResNet v2 with GroupNorm, as in the paper.

Kolesnikov et al. 2019, https://arxiv.org/abs/1912.11370: batches of 4096, a learning rate of
0.03 per 256 examples, 5000 steps of warm-up, divided by 10 after 30, 60 and 80 of 90 epochs.
Fine-tuned at higher resolution, BiT-S of R152x4 reaches 81.3 % top-1; the default here is
its small sibling R50x1.

Command: TFDS_DATA_DIR=... python train.py --config=configs/bit_imagenet.py
Other sizes: --config=configs/bit_imagenet.py:50x3 (50x1 50x3 101x1 101x3 152x2 152x4).

Result: untested; paper: 81.3 % top-1 (R152x4, fine-tuned)
"""

from ml_collections import ConfigDict

TRAIN_EXAMPLES = 1_281_167


def get_config(size="50x1"):
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 4096
    steps_per_epoch = TRAIN_EXAMPLES // 4096
    config.total_steps = 90 * steps_per_epoch

    imagenet = dict(
        type="data.sources.TFDS",
        name="imagenet2012",
        features=dict(
            image=dict(type="data.features.Image", encoding="jpeg"),
            label=dict(type="data.features.Label", num_classes=1000),
        ),
    )
    config.data = dict(
        type="data.pipeline.Pipeline",
        source=dict(**imagenet, split="train"),
        transforms=(
            dict(type="vision.transforms.RandomResizedCrop", size=224),
            dict(type="vision.transforms.RandomFlip"),
        ),
    )
    config.task = dict(
        type="vision.tasks.classification.Classification",
        model=dict(
            type=f"vision.models.bit.BiT_R{size}",
            num_classes=1000,
            dtype="bfloat16",
        ),
    )
    config.optimizer = dict(
        type="training.optimizer.with_rules",
        rule=dict(
            type="optax.sgd",
            learning_rate=dict(
                type="training.optimizer.step_decay",
                peak=0.03 * 4096 / 256,
                warmup_steps=5_000,
                boundaries=tuple(n * steps_per_epoch for n in (30, 60, 80)),
            ),
            momentum=0.9,
        ),
        l2=1e-4,
        l2_mask=dict(type="training.optimizer.paths", match="kernel$"),
    )
    config.evals = dict(
        eval=dict(
            type="training.evaluation.Evaluation",
            data=dict(
                type="data.pipeline.Pipeline",
                source=dict(**imagenet, split="validation"),
                transforms=(
                    dict(type="vision.transforms.Resize", size=256),
                    dict(type="vision.transforms.CenterCrop", size=224),
                ),
            ),
        )
    )
    config.eval_steps = 5 * steps_per_epoch
    config.checkpoint_steps = steps_per_epoch
    config.best_metric = "eval/accuracy"
    return config
