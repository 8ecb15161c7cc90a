"""BERT as in the paper, on English Wikipedia.

J. Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language
Understanding", 2018, https://arxiv.org/abs/1810.04805: 256 rows of 512 tokens, a million
steps. The paper also reads a corpus of books, and begins with rows of 128 tokens.

Command: TFDS_DATA_DIR=... python train.py --config=configs/bert_wikipedia.py
The large form: --config=configs/bert_wikipedia.py:L

Result: untested
"""

from ml_collections import ConfigDict

SIZES = {"B": "nlp.models.bert.BERT", "L": "nlp.models.bert.BERT_L"}


def get_config(size="B"):
    if size not in SIZES:
        raise ValueError(f"size {size!r} is not one of {', '.join(SIZES)}")
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 256
    config.total_steps = 1_000_000
    total_steps = config.get_oneway_ref("total_steps")
    length, vocab_size = 512, 30_522

    def text(split):
        return dict(
            type="data.sources.TFDS",
            name="wikipedia/20230601.en",
            split=split,
            features=dict(text=dict(type="data.features.Text")),
        )

    tokenizer = dict(
        type="nlp.tokenizers.Trained",
        kind="bpe",
        vocab_size=vocab_size,
        lowercase=True,
        prefix_space=True,
        source=text("train[:1%]"),
    )

    def pipeline(split):
        # A stretch of an article at a time: nothing of the corpus is held in memory, and
        # no next sentence is asked for (RoBERTa found it of no use).
        return dict(
            type="data.pipeline.Pipeline",
            source=text(split),
            transforms=(
                dict(type="nlp.transforms.Tokenize", tokenizer=tokenizer, add_eos=True),
                dict(type="nlp.transforms.CropTokens", length=length),
                dict(type="nlp.transforms.Pad", length=length),
            ),
            keys=("tokens",),
        )

    config.data = pipeline("train[:-10000]")
    config.task = dict(
        type="nlp.tasks.masked_language_modeling.MaskedLanguageModeling",
        model=dict(
            type=SIZES[size],
            vocab_size=vocab_size,
            next_sentence=False,
            dropout_rate=0.1,
            dtype="bfloat16",
            scan=True,
        ),
        tokenizer=tokenizer,
        gather=True,
    )
    config.optimizer = dict(
        type="training.optimizer.with_rules",
        rule=dict(
            type="optax.adamw",
            learning_rate=dict(
                type="training.optimizer.warmup_linear",
                peak=1e-4,
                warmup_steps=total_steps // 100,
                total_steps=total_steps,
            ),
            weight_decay=0.01,
            mask=dict(type="training.optimizer.paths", match="kernel$|embedding$"),
        ),
        clip_norm=1.0,
    )
    config.evals = dict(
        eval=dict(
            type="training.evaluation.Evaluation", data=pipeline("train[-10000:]")
        )
    )
    config.eval_steps = 10_000
    config.checkpoint_steps = 5000
    return config
