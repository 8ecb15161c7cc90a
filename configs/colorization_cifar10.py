"""A small ViT learns from grey CIFAR-10 images which colours they had, without labels.

Command: TFDS_DATA_DIR=... python train.py --config=configs/colorization_cifar10.py

PRIOR holds how often each bin of the ab plane occurs, counted on the 50,000 training images
averaged over the ViT's 4x4 patches (`vision.ops.lab.bin_distribution(images, stride=4)`).
For another dataset, save that array and set
`config.task.prior = dict(type="numpy.load", file="prior.npy")`; None weighs all alike.

Result: untested
"""

from ml_collections import ConfigDict

# Per million places; a line holds the bins of one a, from -90 to 100, by rising b.
# fmt: off
PRIOR = (
    0, 0, 0, 5, 0,
    0, 0, 0, 0, 0, 1, 13, 0,
    0, 0, 0, 0, 0, 0, 1, 5, 0, 0,
    0, 0, 0, 0, 2, 2, 10, 18, 18, 2, 0, 0,
    0, 0, 0, 2, 6, 33, 39, 57, 83, 28, 4, 0, 0, 0,
    0, 2, 6, 32, 14, 57, 178, 362, 400, 325, 119, 18, 1, 0, 0,
    0, 0, 26, 78, 160, 218, 482, 1451, 2654, 2501, 1013, 257, 46, 5, 0, 0,
    0, 24, 280, 713, 1272, 1774, 4440, 9818, 10406, 5258, 1464, 301, 70, 26, 8, 0,
    0, 22, 495, 2609, 7974, 15819, 26122, 34314, 29455, 15025, 4526, 1162, 344, 102,
        37, 8, 0,
    0, 21, 316, 2842, 10291, 24069, 76268, 290718, 137238, 49002, 14681, 3646, 932,
        348, 122, 49, 2, 0,
    0, 4, 129, 1113, 2794, 4453, 5867, 11661, 32562, 46817, 32682, 13479, 3682, 888,
        314, 105, 31, 0,
    0, 35, 262, 742, 814, 567, 560, 1098, 3253, 7438, 7385, 5403, 2449, 703, 194, 75,
        12, 0,
    0, 6, 77, 173, 159, 122, 76, 107, 206, 694, 1931, 2779, 1652, 862, 396, 166, 60, 4,
        0,
    0, 0, 20, 55, 56, 31, 11, 18, 20, 72, 172, 524, 1322, 1278, 465, 226, 83, 34, 0, 0,
    0, 4, 18, 25, 15, 5, 9, 8, 17, 30, 57, 147, 413, 675, 545, 166, 50, 11, 0,
    0, 4, 5, 17, 2, 2, 2, 6, 4, 4, 14, 14, 32, 102, 225, 300, 191, 23, 3, 0,
    0, 2, 4, 0, 0, 4, 2, 0, 0, 1, 3, 3, 7, 14, 24, 43, 68, 49, 1, 0,
    1, 1, 0, 0, 0, 1, 0, 0, 2, 2, 2, 1, 0, 1, 1, 5, 5, 12, 8,
    0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 2, 0, 0, 0, 0, 0, 0,
)
# fmt: on


def get_config():
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 256
    config.total_steps = 5000
    total_steps = config.get_oneway_ref("total_steps")

    cifar = dict(
        type="data.sources.TFDS",
        name="cifar10",
        features=dict(
            image=dict(type="data.features.Image", height=32, width=32, encoding="png"),
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
        cache=True,
    )
    config.task = dict(
        type="vision.tasks.colorization.Colorization",
        model=dict(
            type="vision.models.colorization.Colorization",
            backbone=dict(
                type="vision.models.vit.ViT",
                num_classes=0,
                patch_size=4,
                embed_dim=128,
                num_layers=6,
                num_heads=4,
                mlp_dim=512,
                pooling="token",
                positions="sincos2d_mae",
            ),
        ),
        prior=PRIOR,
    )
    config.optimizer = dict(
        type="training.optimizer.with_rules",
        rule=dict(
            type="optax.adamw",
            learning_rate=dict(
                type="training.optimizer.warmup_cosine",
                peak=1e-3,
                warmup_steps=total_steps // 20,
                total_steps=total_steps,
            ),
            weight_decay=0.05,
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
    config.eval_steps = total_steps // 5
    config.checkpoint_steps = 500
    return config
