"""MAE pretrains ViT-B/16 (or L/16, H/14) on ImageNet, without labels.

He et al. 2021, https://arxiv.org/abs/2111.06377, table 8: batch 4096, base learning rate 1.5e-4,
800 epochs (1600 for the best figures), 40 of warm-up. Fine-tuned after 1600 epochs: 83.6 % (B),
85.9 % (L), 86.9 % (H); linear probe: 68.0 % (B), 75.8 % (L), 76.6 % (H).

Command: python train.py --config=configs/mae_vit_imagenet.py
Sizes and epochs: --config=configs/mae_vit_imagenet.py:L/16,1600

Result: untested here
"""

from ml_collections import ConfigDict

TRAIN_EXAMPLES = 1_281_167


def get_config(arg="B/16,800"):
    size, _, epochs = arg.partition(",")
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 4096
    steps_per_epoch = TRAIN_EXAMPLES // 4096
    config.total_steps = steps_per_epoch * int(epochs or 800)
    total_steps = config.get_oneway_ref("total_steps")

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
    config.data = dict(
        type="data.pipeline.Pipeline",
        source=dict(**imagenet, split="train"),
        transforms=(
            dict(
                type="vision.transforms.RandomResizedCrop",
                size=224,
                area=(0.2, 1.0),
                interpolation="cubic",
            ),
            dict(type="vision.transforms.RandomFlip"),
        ),
    )
    config.task = dict(
        type="vision.tasks.masked_autoencoding.MaskedAutoencoding",
        model=dict(
            type="vision.models.mae.MAE",
            backbone=dict(
                type=f"vision.models.vit.ViT_{size.replace('/', '')}",
                num_classes=0,
                positions="sincos2d_mae",
                dtype="bfloat16",
            ),
            mask_ratio=0.75,
            dtype="bfloat16",
        ),
        normalize_target=True,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )
    config.optimizer = dict(
        type="optax.adamw",
        learning_rate=dict(
            type="training.optimizer.warmup_cosine",
            peak=1.5e-4 * 4096 / 256,
            # 40 of 800 epochs, or of 1600; a twentieth of a shorter run.
            warmup_steps=min(40 * steps_per_epoch, config.total_steps // 20),
            total_steps=total_steps,
        ),
        b1=0.9,
        b2=0.95,
        weight_decay=0.05,
        mask=dict(type="training.optimizer.paths", match="kernel$"),
    )

    def pipeline(split):
        return dict(
            type="data.pipeline.Pipeline",
            source=dict(**imagenet, split=split),
            transforms=plain,
        )

    config.evals = dict(
        eval=dict(type="training.evaluation.Evaluation", data=pipeline("validation")),
        representation=dict(
            type="vision.evaluators.representation.Representation",
            train=pipeline("train[:10%]"),
            test=pipeline("validation"),
            heads=dict(
                knn=dict(type="vision.evaluators.nearest_neighbors.NearestNeighbors"),
                few_shot=dict(type="vision.evaluators.few_shot.FewShot"),
            ),
        ),
        pictures=dict(
            type="vision.evaluators.pictures.RepresentationPictures",
            data=pipeline("validation[:2%]"),
        ),
    )
    config.eval_steps = 40 * steps_per_epoch
    config.checkpoint_steps = 5 * steps_per_epoch
    return config
