"""A capsule network on upright handwritten digits (8x8), tested on shifted and rotated ones.

Beside it, `cnn_digits` is an ordinary network of as many parameters (201 thousand, the decoder not
counted), trained and tested alike: turned digits are read better by capsules, shifted ones worse.
Per cent of 355 test images, those moved averaged over both turns or all four directions:

            upright   shifted by 1      2 pixels   rotated by 10     20     30 degrees
capsules      98.59          66.83         17.39           97.18  83.80  57.89
CNN           98.59          72.18         25.85           96.34  78.73  53.24

Command: python train.py --config=configs/capsnet_digits.py
Hardware: 2 CPU cores beside much other work, jax 0.10.2, 2026-11-26; 102 s of processor time.

Result: 98.59 % test accuracy upright, 66.83 % shifted by a pixel, 83.80 % rotated by 20 degrees
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
        type="vision.tasks.capsule_classification.CapsuleClassification",
        model=dict(
            type="vision.models.capsnet.CapsNet",
            num_classes=10,
            stem_width=64,
            primary_types=8,
            kernel_size=3,
            primary_stride=1,
            decoder_dims=(128, 256),
        ),
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
