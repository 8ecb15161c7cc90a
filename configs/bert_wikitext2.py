"""A small BERT learns English from WikiText-2: hidden tokens and next sentences.

J. Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language
Understanding", 2018, https://arxiv.org/abs/1810.04805.

Command: TFDS_DATA_DIR=... python train.py --config=configs/bert_wikitext2.py

Result: 42.15 % of the hidden pieces of the validation split told (whole words are hidden; perplexity
44.8), 79.82 % of the next sentences (one CPU core beside other work, 114 minutes, 2026-11-27)
"""

from ml_collections import ConfigDict


def get_config():
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 64
    config.total_steps = 6000
    total_steps = config.get_oneway_ref("total_steps")
    length, vocab_size = 64, 16000

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
        lowercase=True,
        prefix_space=True,
        source=text("train"),
    )

    def pipeline(split, copies):
        return dict(
            type="data.pipeline.Pipeline",
            source=dict(
                type="nlp.sources.SentencePairs",
                source=text(split),
                tokenizer=tokenizer,
                length=length,
                copies=copies,
            ),
            transforms=(
                dict(
                    type="nlp.transforms.SentencePair",
                    tokenizer=tokenizer,
                    length=length,
                ),
            ),
        )

    # Ten draws of pairs, as in the paper; what is hidden is drawn anew every step.
    config.data = pipeline("train", 10)
    config.task = dict(
        type="nlp.tasks.masked_language_modeling.MaskedLanguageModeling",
        model=dict(
            type="nlp.models.bert.BERT",
            vocab_size=vocab_size,
            max_length=length,
            embed_dim=192,
            num_layers=4,
            num_heads=3,
            # No dropout: a model this small does not get to fit the text too well.
            dropout_rate=0.0,
        ),
        tokenizer=tokenizer,
        whole_words=True,
        gather=True,
    )
    config.optimizer = dict(
        type="training.optimizer.with_rules",
        rule=dict(
            type="optax.adamw",
            learning_rate=dict(
                type="training.optimizer.warmup_linear",
                peak=1e-3,
                warmup_steps=total_steps // 10,
                total_steps=total_steps,
            ),
            b2=0.98,
            weight_decay=0.01,
            mask=dict(type="training.optimizer.paths", match="kernel$|embedding$"),
        ),
        clip_norm=1.0,
    )
    config.evals = dict(
        eval=dict(
            type="training.evaluation.Evaluation",
            data=pipeline("validation", 1),
        )
    )
    config.eval_steps = 1000
    config.checkpoint_steps = 1000
    return config
