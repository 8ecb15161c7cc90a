"""Structured self-attention over LSTM states: is a film review good or bad?

Z. Lin et al., "A Structured Self-attentive Sentence Embedding", 2017,
https://arxiv.org/abs/1703.03130, smaller, and on SST-2 instead of Yelp.

Command: TFDS_DATA_DIR=... python train.py --config=configs/lin_sst2.py

Result: 78.80 % of the test split (77.29 % of the validation split), one CPU core, 2 minutes
"""

from ml_collections import ConfigDict


def get_config():
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 64
    config.total_steps = 800
    total_steps = config.get_oneway_ref("total_steps")
    length, vocab_size = 64, 4000

    def text(split):
        return dict(
            type="data.sources.TFDS",
            name="sst2_sentence",
            split=split,
            features=dict(
                sentence=dict(type="data.features.Text"),
                label=dict(type="data.features.Label", num_classes=2),
            ),
        )

    tokenizer = dict(
        type="nlp.tokenizers.Trained",
        kind="bpe",
        vocab_size=vocab_size,
        lowercase=True,
        source=text("train"),
        fields=("sentence",),
    )

    def pipeline(split):
        return dict(
            type="data.pipeline.Pipeline",
            source=text(split),
            transforms=(
                dict(
                    type="nlp.transforms.Tokenize",
                    tokenizer=tokenizer,
                    fields=dict(sentence="tokens"),
                    max_length=length,
                    on_long="truncate",
                ),
                dict(type="nlp.transforms.Pad", length=length),
            ),
            keys=("tokens", "label"),
            cache=True,
        )

    config.data = pipeline("train")
    config.task = dict(
        type="nlp.tasks.sentence_classification.SentenceClassification",
        model=dict(
            type="nlp.models.self_attentive_classifier.SelfAttentiveClassifier",
            num_classes=2,
            vocab_size=vocab_size,
            embed_dim=100,
            hidden_dim=100,
            attention_dim=100,
            num_hops=8,
            mlp_dim=256,
            dropout_rate=0.5,
        ),
        penalty_weight=0.1,
        tokenizer=tokenizer,
        class_names=("negative", "positive"),
    )
    config.optimizer = dict(
        type="training.optimizer.with_rules",
        rule=dict(
            type="optax.adam",
            learning_rate=dict(
                type="training.optimizer.warmup_cosine",
                peak=1e-3,
                total_steps=total_steps,
            ),
        ),
        clip_norm=1.0,
    )
    config.evals = dict(
        eval=dict(type="training.evaluation.Evaluation", data=pipeline("validation")),
        test=dict(type="training.evaluation.Evaluation", data=pipeline("test")),
        attention=dict(
            type="nlp.evaluators.attention.AttentionPictures",
            data=pipeline("validation"),
        ),
    )
    config.eval_steps = 200
    config.checkpoint_steps = 400
    config.best_metric = "eval/accuracy"
    return config
