"""GoogLeNet on ImageNet, as far as the paper gives its recipe.

Szegedy et al. 2014, https://arxiv.org/abs/1409.4842: SGD with momentum, a learning rate 4 %
lower every 8 epochs, averaged weights in the end, auxiliary losses of weight 0.3, crops of
8 to 100 % of the area with aspect ratios of 3/4 to 4/3, colour distortions; one network
and one crop: 10.07 % top-5 error. The paper names neither batch, learning rate, weight decay
nor length: those here are a choice, and its asynchronous updates are synchronous.

Command: TFDS_DATA_DIR=... python train.py --config=configs/googlenet_imagenet.py
With BatchNorm, as torchvision has it: --config=configs/googlenet_imagenet.py:torchvision

Result: untested; paper: 89.93 % top-5
"""

from ml_collections import ConfigDict

TRAIN_EXAMPLES = 1_281_167


def get_config(form="paper"):
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 256
    steps_per_epoch = TRAIN_EXAMPLES // 256
    config.total_steps = 160 * steps_per_epoch

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
            dict(
                type="vision.color_transforms.ColorJitter",
                brightness=0.4,
                contrast=0.4,
                saturation=0.4,
            ),
        ),
    )
    config.task = dict(
        type="vision.tasks.classification.Classification",
        model=dict(
            type="vision.models.googlenet.GoogLeNet",
            form=form,
            num_classes=1000,
            dtype="bfloat16",
        ),
        auxiliary_weight=0.3,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )
    config.optimizer = dict(
        type="training.optimizer.with_rules",
        rule=dict(
            type="optax.sgd",
            learning_rate=dict(
                type="training.optimizer.step_decay",
                peak=0.02,
                boundaries=tuple(n * steps_per_epoch for n in range(8, 160, 8)),
                factor=0.96,
            ),
            momentum=0.9,
        ),
        l2=0.0002,
        l2_mask=dict(type="training.optimizer.paths", match="kernel$"),
    )
    config.ema_decay = 0.9999
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
