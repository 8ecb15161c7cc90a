"""GPT-2 on OpenWebText, in the sizes of the paper, half a million tokens a step.

A. Radford et al., "Language Models are Unsupervised Multitask Learners", 2019; the recipe is
that of open reproductions: AdamW (0.9, 0.95), weight decay 0.1, 600,000 steps.

Command: TFDS_DATA_DIR=... python train.py --config=configs/gpt2_openwebtext.py
Other sizes: --config=configs/gpt2_openwebtext.py:M (S, M, L, XL)

Result: untested; open reproductions of S reach a validation loss of about 2.85 nats a token
"""

from ml_collections import ConfigDict

SIZES = ("S", "M", "L", "XL")


def get_config(size="S"):
    if size not in SIZES:
        raise ValueError(f"size {size!r} is not one of {', '.join(SIZES)}")
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 480
    config.total_steps = 600_000
    total_steps = config.get_oneway_ref("total_steps")
    context = 1024

    def text(split):
        return dict(
            type="data.sources.TFDS",
            name="openwebtext",
            split=split,
            features=dict(text=dict(type="data.features.Text")),
        )

    tokenizer = dict(
        type="nlp.tokenizers.Trained",
        kind="bpe",
        vocab_size=50_257,
        source=text("train[:1%]"),
    )

    def pipeline(split):
        # A stretch of a document at a time: nothing of the corpus is held in memory.
        return dict(
            type="data.pipeline.Pipeline",
            source=text(split),
            transforms=(
                dict(
                    type="nlp.transforms.Tokenize",
                    tokenizer=tokenizer,
                    add_bos=True,
                    add_eos=True,
                ),
                dict(type="nlp.transforms.CropTokens", length=context + 1),
                dict(
                    type="nlp.transforms.Pad", length=context + 1, segments="segments"
                ),
            ),
            keys=("tokens", "segments"),
        )

    config.data = pipeline("train[:-5000]")
    config.task = dict(
        type="nlp.tasks.language_modeling.LanguageModeling",
        model=dict(
            type=f"nlp.models.gpt.GPT2_{size}",
            # A multiple of 128, which matrix units like.
            vocab_size=50_304,
            dtype="bfloat16",
            scan=True,
            remat="block" if size in ("L", "XL") else "none",
        ),
        tokenizer=tokenizer,
    )
    config.optimizer = dict(
        type="training.optimizer.with_rules",
        rule=dict(
            type="optax.adamw",
            learning_rate=dict(
                type="training.optimizer.warmup_cosine",
                peak=6e-4 if size == "S" else 3e-4,
                end=6e-5 if size == "S" else 3e-5,
                warmup_steps=total_steps // 300,
                total_steps=total_steps,
            ),
            b2=0.95,
            weight_decay=0.1,
            mask=dict(type="training.optimizer.paths", match="kernel$|embedding$"),
        ),
        clip_norm=1.0,
    )
    config.evals = dict(
        eval=dict(
            type="training.evaluation.Evaluation",
            data=pipeline("train[-5000:]"),
        )
    )
    config.eval_steps = 2000
    config.checkpoint_steps = 2000
    return config
