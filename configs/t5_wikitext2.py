"""A small T5 pretrains on WikiText-2 by filling in corrupted spans.

C. Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
Transformer", 2019, https://arxiv.org/abs/1910.10683: 15 % of the tokens, spans of 3.

Command: TFDS_DATA_DIR=... python train.py --config=configs/t5_wikitext2.py

Result: untested
"""

from ml_collections import ConfigDict


def get_config():
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 32
    config.total_steps = 4000
    total_steps = config.get_oneway_ref("total_steps")
    # 100 ids behind the tokenizer's are for sentinels.
    length, tokens, vocab_size = 128, 8000, 8100

    def text(split):
        return dict(
            type="data.sources.TFDS",
            name="wikitext2",
            split=split,
            features=dict(text=dict(type="data.features.Text")),
        )

    tokenizer = dict(
        type="nlp.tokenizers.Trained",
        kind="unigram",
        vocab_size=tokens,
        source=text("train"),
    )

    def pipeline(split):
        return dict(
            type="data.pipeline.Pipeline",
            source=dict(
                type="nlp.sources.Windows",
                source=text(split),
                tokenizer=tokenizer,
                length=length,
                stride=length,
            ),
            keys=("tokens",),
        )

    config.data = pipeline("train")
    config.task = dict(
        type="nlp.tasks.span_corruption.SpanCorruption",
        model=dict(
            type="nlp.models.t5.T5",
            vocab_size=vocab_size,
            embed_dim=192,
            num_layers=3,
            num_heads=3,
            mlp_dim=512,
            activation="gelu_tanh",
            gated=True,
            tie_head=False,
        ),
        tokenizer=tokenizer,
    )
    config.optimizer = dict(
        type="training.optimizer.with_rules",
        rule=dict(
            type="optax.adafactor",
            learning_rate=dict(
                type="training.optimizer.warmup_rsqrt",
                peak=1e-2,
                warmup_steps=total_steps // 10,
            ),
        ),
        clip_norm=1.0,
    )
    config.evals = dict(
        eval=dict(type="training.evaluation.Evaluation", data=pipeline("validation"))
    )
    config.eval_steps = 1000
    config.checkpoint_steps = 1000
    return config
