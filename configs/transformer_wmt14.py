"""The Transformer as in the paper, on WMT 2014 English to German.

A. Vaswani et al., "Attention Is All You Need", 2017, https://arxiv.org/abs/1706.03762: 37,000
shared subwords, about 25,000 source and target tokens a step, label smoothing 0.1.

Command: TFDS_DATA_DIR=... python train.py --config=configs/transformer_wmt14.py
The big form: --config=configs/transformer_wmt14.py:Big

Result: untested; paper: 27.3 BLEU (base), 28.4 (big)
"""

from ml_collections import ConfigDict

STEPS = {"Base": 100_000, "Big": 300_000}


def get_config(size="Base"):
    if size not in STEPS:
        raise ValueError(f"size {size!r} is not one of {', '.join(STEPS)}")
    config = ConfigDict()
    config.seed = 0
    # Rows of packed pairs: room for 26,624 tokens of each language.
    config.batch_size = 208
    config.total_steps = STEPS[size]
    vocab_size, length = 37_000, 256

    def text(split):
        field = dict(type="data.features.Text")
        return dict(
            type="data.sources.TFDS",
            name="wmt14_translate/de-en",
            split=split,
            features=dict(en=field, de=field),
        )

    tokenizer = dict(
        type="nlp.tokenizers.Trained",
        kind="bpe",
        vocab_size=vocab_size,
        source=text("train"),
        fields=("en", "de"),
        max_examples=1_000_000,
    )

    def pipeline(split):
        return dict(
            type="data.pipeline.Pipeline",
            source=text(split),
            transforms=(
                dict(
                    type="nlp.transforms.Translation",
                    tokenizer=tokenizer,
                    source="en",
                    target="de",
                    source_length=length,
                    target_length=length,
                    on_long="truncate",
                ),
            ),
            keys=("source", "target"),
        )

    config.data = dict(
        type="data.pipeline.Pipeline",
        source=dict(
            type="nlp.packed_pairs.PackedPairs",
            pairs=text("train"),
            tokenizer=tokenizer,
            source="en",
            target="de",
            source_length=128,
            target_length=128,
            on_long="truncate",
        ),
    )
    config.task = dict(
        type="nlp.tasks.sequence_to_sequence.SequenceToSequence",
        model=dict(
            type=f"nlp.models.transformer.Transformer_{size}",
            vocab_size=vocab_size,
            max_length=length,
            dtype="bfloat16",
            scan=True,
        ),
        label_smoothing=0.1,
        tokenizer=tokenizer,
    )
    config.optimizer = dict(
        type="training.optimizer.with_rules",
        rule=dict(
            type="optax.adam",
            # The paper's D^-0.5 * min(step^-0.5, step * 4000^-1.5).
            learning_rate=dict(
                type="training.optimizer.warmup_rsqrt",
                peak=7e-4 if size == "Base" else 4.9e-4,
                warmup_steps=4000,
            ),
            b2=0.98,
            eps=1e-9,
        ),
    )
    # The paper averages its last checkpoints.
    config.ema_decay = 0.9995
    config.evals = dict(
        eval=dict(type="training.evaluation.Evaluation", data=pipeline("validation")),
        test=dict(
            type="nlp.evaluators.translation.Translation",
            data=pipeline("test"),
            source_field="en",
            reference_field="de",
            batch_size=256,
            max_length=length,
        ),
    )
    config.eval_steps = 10_000
    config.checkpoint_steps = 2000
    return config
