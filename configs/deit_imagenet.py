"""DeiT-S on ImageNet, distilled from a frozen network that another run trained.

Touvron et al. 2020, https://arxiv.org/abs/2012.12877: hard distillation, 300 epochs of AdamW;
74.5 % top-1 (Ti), 81.2 % (S), 83.4 % (B). Deviations: the teacher is a ResNet-50 (76.3 %), where
the paper has a RegNetY-16GF (82.9 %); no repeated augmentation; RandAugment without noise in its
magnitude.

Command: TFDS_DATA_DIR=... python train.py --config=configs/deit_imagenet.py
    --config.init_from.path=runs/resnet50_imagenet
Other sizes: --config=configs/deit_imagenet.py:B/16 (Ti/16 S/16 B/16); soft distillation, with
the paper's temperature and share: --config=configs/deit_imagenet.py:B/16,soft

Result: untested; paper: 81.2 % top-1
"""

from ml_collections import ConfigDict

TRAIN_EXAMPLES = 1_281_167

KINDS = dict(
    hard=dict(kind="hard", share=0.5),
    soft=dict(kind="soft", share=0.1, temperature=3.0),
)


def get_config(arg="S/16"):
    size, _, kind = arg.partition(",")
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 1024
    steps_per_epoch = TRAIN_EXAMPLES // 1024
    config.total_steps = 300 * steps_per_epoch
    total_steps = config.get_oneway_ref("total_steps")
    config.init_from = dict(
        type="training.initialization.FromRun",
        path="runs/resnet50_imagenet",
        rules=(("^", "teacher/"),),
        fresh=("^student/",),
    )

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
        type="vision.tasks.distillation.Distillation",
        **KINDS[kind or "hard"],
        model=dict(
            type="vision.models.deit.StudentAndTeacher",
            student=dict(
                type=f"vision.models.deit.DeiT_{size.replace('/', '')}",
                num_classes=1000,
                drop_path_rate=0.1,
                dtype="bfloat16",
            ),
            teacher=dict(
                type="vision.models.resnet.ResNet50",
                num_classes=1000,
                dtype="bfloat16",
            ),
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
        type="training.optimizer.with_rules",
        rule=dict(
            type="optax.adamw",
            learning_rate=dict(
                type="training.optimizer.warmup_cosine",
                peak=5e-4 * 1024 / 512,
                warmup_steps=5 * steps_per_epoch,
                total_steps=total_steps,
                end=1e-5,
            ),
            weight_decay=0.05,
            mask=dict(type="training.optimizer.paths", match="kernel$"),
        ),
        frozen=("^teacher/",),
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
