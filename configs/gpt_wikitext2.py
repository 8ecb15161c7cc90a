"""GPT on WikiText-2 in subwords: whole articles packed into rows.

Command: TFDS_DATA_DIR=... python train.py --config=configs/gpt_wikitext2.py

Result: untested
"""

from ml_collections import ConfigDict


def get_config():
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 16
    config.total_steps = 4000
    total_steps = config.get_oneway_ref("total_steps")
    context, vocab_size = 128, 8000

    def text(split):
        return dict(
            type="data.sources.TFDS",
            name="wikitext2",
            split=split,
            features=dict(text=dict(type="data.features.Text")),
        )

    tokenizer = dict(
        type="nlp.tokenizers.Trained",
        kind="bpe",
        vocab_size=vocab_size,
        source=text("train"),
    )

    def pipeline(split):
        return dict(
            type="data.pipeline.Pipeline",
            source=dict(
                type="nlp.sources.Packed",
                source=text(split),
                tokenizer=tokenizer,
                length=context + 1,
                add_bos=True,
                characters=True,
            ),
        )

    config.data = pipeline("train")
    config.task = dict(
        type="nlp.tasks.language_modeling.LanguageModeling",
        model=dict(
            type="nlp.models.gpt.GPT",
            vocab_size=vocab_size,
            max_length=context,
            embed_dim=256,
            num_layers=4,
            num_heads=4,
            dropout_rate=0.1,
        ),
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
    config.evals = dict(
        eval=dict(
            type="training.evaluation.Evaluation",
            batch_size=32,
            data=pipeline("validation"),
        ),
        sliding=dict(
            type="nlp.evaluators.perplexity.SlidingPerplexity",
            source=text("validation"),
            context=context,
            batch_size=32,
        ),
        samples=dict(
            type="nlp.evaluators.samples.Samples",
            prompts=("The city of",),
            bos=True,
            max_length=64,
        ),
    )
    config.eval_steps = 1000
    config.checkpoint_steps = 1000
    config.best_metric = "eval/loss"
    config.best_mode = "min"
    return config
