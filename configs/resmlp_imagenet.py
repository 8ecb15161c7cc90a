"""ResMLP-S12 on ImageNet from scratch, with the paper's recipe: LAMB, and DeiT's for the rest.

Touvron et al. 2021, https://arxiv.org/abs/2105.03404: LAMB at 5e-3, weight decay 0.2, 400
epochs; 76.6 % top-1 (S12), 79.4 % (S24), 79.7 % (S36), 81.0 % (B24). Deviations: no repeated
augmentation; RandAugment without noise in its magnitude.

Command: TFDS_DATA_DIR=... python train.py --config=configs/resmlp_imagenet.py
Other sizes: --config=configs/resmlp_imagenet.py:S24 (S12 S24 S36 B24).

Result: untested; paper: 76.6 % top-1
"""

from ml_collections import ConfigDict

TRAIN_EXAMPLES = 1_281_167


def get_config(size="S12"):
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 1024
    steps_per_epoch = TRAIN_EXAMPLES // 1024
    config.total_steps = 400 * steps_per_epoch
    total_steps = config.get_oneway_ref("total_steps")

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
            type=f"vision.models.resmlp.ResMlp_{size}",
            num_classes=1000,
            drop_path_rate=0.1,
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
        type="optax.lamb",
        learning_rate=dict(
            type="training.optimizer.warmup_cosine",
            peak=5e-3,
            warmup_steps=5 * steps_per_epoch,
            total_steps=total_steps,
            end=1e-5,
        ),
        weight_decay=0.2,
        mask=dict(type="training.optimizer.paths", match="kernel$"),
    )
    config.evals = dict(
        eval=dict(
            type="training.evaluation.Evaluation",
            data=dict(
                type="data.pipeline.Pipeline",
                source=dict(**imagenet, split="validation"),
                transforms=(
                    dict(
                        type="vision.transforms.Resize",
                        size=256,
                        interpolation="cubic",
                    ),
                    dict(type="vision.transforms.CenterCrop", size=224),
                ),
            ),
        )
    )
    config.eval_steps = 5 * steps_per_epoch
    config.checkpoint_steps = steps_per_epoch
    config.best_metric = "eval/accuracy"
    return config
