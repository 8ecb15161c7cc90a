"""GPT writes Shakespeare, character by character: small for a CPU, or full for a GPU.

Command: TFDS_DATA_DIR=... python train.py --config=configs/gpt_shakespeare.py
The full form, 6 layers and a context of 256: --config=configs/gpt_shakespeare.py:full
Then: python generate.py --workdir=runs/gpt_shakespeare --prompt="ROMEO:"

Result: 1.871 nats a character on the validation split, 5 CPU-minutes; the full form 1.3802, at step
2000 of 5000 (an H100 shared with six other runs, five minutes, 2026-11-26)
"""

from ml_collections import ConfigDict

SIZES = {
    "small": dict(
        model=dict(num_layers=4, num_heads=4, embed_dim=128, max_length=64),
        batch_size=12,
        total_steps=2000,
    ),
    "full": dict(
        model=dict(
            num_layers=6,
            num_heads=6,
            embed_dim=384,
            max_length=256,
            dropout_rate=0.2,
            dtype="bfloat16",
        ),
        batch_size=64,
        total_steps=5000,
    ),
}


def get_config(size="small"):
    if size not in SIZES:
        raise ValueError(f"size {size!r} is not one of {', '.join(SIZES)}")
    config = ConfigDict()
    config.seed = 0
    config.batch_size = SIZES[size]["batch_size"]
    config.total_steps = SIZES[size]["total_steps"]
    total_steps = config.get_oneway_ref("total_steps")
    model = SIZES[size]["model"]

    def text(split):
        return dict(
            type="data.sources.TFDS",
            name="tiny_shakespeare",
            split=split,
            features=dict(text=dict(type="data.features.Text")),
        )

    tokenizer = dict(
        type="nlp.tokenizers.Trained", kind="characters", source=text("train")
    )

    def pipeline(split, **options):
        return dict(
            type="data.pipeline.Pipeline",
            source=dict(
                type="nlp.sources.Windows",
                source=text(split),
                tokenizer=tokenizer,
                length=model["max_length"] + 1,
                characters=True,
                **options,
            ),
        )

    # Every place of the text is an example, so that batches are random windows.
    config.data = pipeline("train", stride=1)
    config.task = dict(
        type="nlp.tasks.language_modeling.LanguageModeling",
        model=dict(type="nlp.models.gpt.GPT", vocab_size=96, **model),
        tokenizer=tokenizer,
    )
    config.optimizer = dict(
        type="training.optimizer.with_rules",
        rule=dict(
            type="optax.adamw",
            learning_rate=dict(
                type="training.optimizer.warmup_cosine",
                peak=1e-3,
                end=1e-4,
                warmup_steps=total_steps // 20,
                total_steps=total_steps,
            ),
            b2=0.99,
            weight_decay=0.1,
            mask=dict(type="training.optimizer.paths", match="kernel$|embedding$"),
        ),
        clip_norm=1.0,
    )
    # The average is the better model of a short run; the long one ends overfitted.
    config.ema_decay = 0.99 if size == "small" else None
    config.evals = dict(
        eval=dict(
            type="training.evaluation.Evaluation",
            batch_size=128,
            data=pipeline("validation"),
        ),
        samples=dict(
            type="nlp.evaluators.samples.Samples",
            prompts=("ROMEO:", "First Citizen:\nWhat"),
            max_length=model["max_length"] - 21,
        ),
    )
    config.eval_steps = 250
    config.log_steps = 50
    config.checkpoint_steps = 500
    config.best_metric = "eval/loss"
    config.best_mode = "min"
    return config
