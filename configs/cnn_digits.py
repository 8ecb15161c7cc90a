"""A convolutional network with as many parameters as the capsules of `capsnet_digits`.

Upright handwritten digits (8x8) to learn, shifted and rotated ones to be tested on. Per cent of 355
test images, those moved averaged over both turns or all four directions:

            upright   shifted by 1      2 pixels   rotated by 10     20     30 degrees
CNN           98.59          72.18         25.85           96.34  78.73  53.24
capsules      98.59          66.83         17.39           97.18  83.80  57.89

Command: python train.py --config=configs/cnn_digits.py
Hardware: 2 CPU cores beside much other work, jax 0.10.2, 2026-11-26; 39 s of processor time.

Result: 98.59 % test accuracy upright, 72.18 % shifted by a pixel, 78.73 % rotated by 20 degrees
"""

from ml_collections import ConfigDict

DIRECTIONS = dict(
    up=dict(down=-1), down=dict(down=1), left=dict(right=-1), right=dict(right=1)
)


def get_config():
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 128
    config.total_steps = 800
    total_steps = config.get_oneway_ref("total_steps")

    def digits(split, *transforms):
        return dict(
            type="data.pipeline.Pipeline",
            source=dict(type="data.sources.Digits", split=split),
            transforms=transforms,
        )

    def moved(**amounts):
        return dict(
            type="training.evaluation.Evaluation",
            data=digits(
                "test", dict(type="vision.geometric_transforms.Affine", **amounts)
            ),
            batch_size=355,
            pictures=0,
        )

    config.data = digits("train")
    config.task = dict(
        type="vision.tasks.classification.Classification",
        model=dict(
            type="vision.models.lenet.LeNet",
            num_classes=10,
            widths=(64, 64),
            kernel_size=3,
            padding=("SAME", "SAME"),
            hidden_dims=(512, 62),
            activation="relu",
            pool="max",
        ),
        mean=(0.0,),
        std=(1.0,),
    )
    config.optimizer = dict(
        type="optax.adam",
        learning_rate=dict(
            type="training.optimizer.warmup_cosine",
            peak=2e-3,
            warmup_steps=total_steps // 20,
            total_steps=total_steps,
        ),
    )
    config.evals = dict(
        eval=dict(
            type="training.evaluation.Evaluation",
            data=digits("test"),
            batch_size=355,
        ),
        **{
            f"shifted_{pixels}_{name}": moved(
                **{axis: float(pixels * sign) for axis, sign in direction.items()}
            )
            for pixels in (1, 2)
            for name, direction in DIRECTIONS.items()
        },
        **{
            f"rotated_{degrees}_{name}": moved(rotation=float(sign * degrees))
            for degrees in (10, 20, 30)
            for name, sign in (("left", 1), ("right", -1))
        },
    )
    config.eval_steps = 800
    config.checkpoint_steps = 800
    return config
