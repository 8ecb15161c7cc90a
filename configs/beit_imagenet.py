"""BEiT-B/16 pretrains on ImageNet: it guesses the visual tokens of blocks of hidden patches.

Bao et al. 2021, https://arxiv.org/abs/2106.08254, its 800 epochs and rates. Different here:
tokens are quantised mean colours, since the paper's tokenizer is a network with weights of
its own (give it as `task.tokenizer`, with `task.model.vocab_size` = 8192); colours are not
jittered.

Command: python train.py --config=configs/beit_imagenet.py
The large model: --config=configs/beit_imagenet.py:L/16

Result: untested
"""

from ml_collections import ConfigDict

TRAIN_EXAMPLES = 1_281_167


def get_config(size="B/16"):
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 2048
    config.total_steps = 800 * TRAIN_EXAMPLES // 2048
    total_steps = config.get_oneway_ref("total_steps")

    imagenet = dict(
        type="data.sources.TFDS",
        name="imagenet2012",
        features=dict(
            image=dict(type="data.features.Image", encoding="jpeg"),
            label=dict(type="data.features.Label", num_classes=1000),
        ),
    )
    mask = dict(type="vision.masking.BlockwiseMask", patch_size=16, mask_ratio=0.4)
    config.data = dict(
        type="data.pipeline.Pipeline",
        source=dict(**imagenet, split="train"),
        transforms=(
            dict(
                type="vision.transforms.RandomResizedCrop", size=224, area=(0.08, 1.0)
            ),
            dict(type="vision.transforms.RandomFlip"),
            mask,
        ),
    )
    config.task = dict(
        type="vision.tasks.masked_image_modeling.MaskedTokenPrediction",
        model=dict(
            type="vision.models.beit.BEiTPretraining",
            backbone=dict(
                type=f"vision.models.beit.BEiT_{size.replace('/', '')}",
                num_classes=0,
                pooling="token",
                shared_position_bias=True,
                drop_path_rate=0.1,
                dtype="bfloat16",
            ),
            vocab_size=512,
        ),
        tokenizer=dict(type="vision.ops.color_tokens.ColorTokens", patch_size=16),
    )
    config.optimizer = dict(
        type="training.optimizer.with_rules",
        rule=dict(
            type="optax.adamw",
            learning_rate=dict(
                type="training.optimizer.warmup_cosine",
                peak=1.5e-3,
                warmup_steps=total_steps // 80,
                total_steps=total_steps,
                end=1e-5,
            ),
            b1=0.9,
            b2=0.999,
            weight_decay=0.05,
            mask=dict(type="training.optimizer.paths", match="kernel$"),
        ),
        clip_norm=3.0,
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
                    mask,
                ),
            ),
        )
    )
    config.eval_steps = total_steps // 80
    config.checkpoint_steps = 5_000
    return config
