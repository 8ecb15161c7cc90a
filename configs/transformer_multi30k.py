"""The Transformer translates descriptions of photographs from English to German (Multi30k).

A. Vaswani et al., "Attention Is All You Need", 2017, https://arxiv.org/abs/1706.03762, at a
size for 29,000 pairs of sentences.

Command: TFDS_DATA_DIR=... python train.py --config=configs/transformer_multi30k.py
On a CPU: the same with --config.total_steps=3000
Then: python generate.py --workdir=runs/transformer_multi30k --prompt="Two dogs play."

Result: 41.04 BLEU, 64.94 chrF on test 2016 (sacrebleu 2.6.0, cased, 13a, beam 4; 8,000 steps of 256
pairs not yet packed, products in bfloat16; an H100 shared with six other runs, seven minutes,
2026-11-26); post-norm 39.73; on one CPU core 35.53 BLEU, 59.57 chrF at step 2,189 of 3,000, after
55 minutes of processor time
"""

from ml_collections import ConfigDict


def get_config():
    config = ConfigDict()
    config.seed = 0
    # Rows of packed pairs: about 234 pairs.
    config.batch_size = 64
    config.total_steps = 8000
    total_steps = config.get_oneway_ref("total_steps")
    vocab_size, length = 8000, 64

    def text(split):
        field = dict(type="data.features.Text")
        return dict(
            type="data.sources.TFDS",
            name="multi30k",
            split=split,
            features=dict(en=field, de=field),
        )

    tokenizer = dict(
        type="nlp.tokenizers.Trained",
        kind="bpe",
        vocab_size=vocab_size,
        source=text("train"),
        fields=("en", "de"),
    )

    def pipeline(split, length):
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
            cache=True,
        )

    # Four or five pairs a row; one pair in a thousand is longer and loses its end.
    config.data = dict(
        type="data.pipeline.Pipeline",
        source=dict(
            type="nlp.packed_pairs.PackedPairs",
            pairs=text("train"),
            tokenizer=tokenizer,
            source="en",
            target="de",
            source_length=length,
            target_length=length,
            on_long="truncate",
        ),
    )
    config.task = dict(
        type="nlp.tasks.sequence_to_sequence.SequenceToSequence",
        model=dict(
            type="nlp.models.transformer.Transformer",
            vocab_size=vocab_size,
            max_length=length,
            embed_dim=128,
            num_layers=4,
            num_heads=4,
            mlp_dim=256,
            dropout_rate=0.3,
            pre_norm=True,
        ),
        label_smoothing=0.1,
        tokenizer=tokenizer,
    )
    config.optimizer = dict(
        type="training.optimizer.with_rules",
        rule=dict(
            type="optax.adamw",
            learning_rate=dict(
                type="training.optimizer.warmup_rsqrt",
                peak=5e-3,
                warmup_steps=total_steps // 4,
            ),
            b2=0.98,
            weight_decay=0.01,
            mask=dict(type="training.optimizer.paths", match="kernel$"),
        ),
        clip_norm=1.0,
    )
    config.ema_decay = 0.999
    config.evals = dict(
        eval=dict(
            type="training.evaluation.Evaluation",
            data=pipeline("validation", length),
        ),
        test=dict(
            type="nlp.evaluators.translation.Translation",
            data=pipeline("test", length),
            source_field="en",
            reference_field="de",
            batch_size=100,
            max_length=length,
        ),
        attention=dict(
            type="nlp.evaluators.attention.AttentionPictures",
            data=pipeline("validation", length),
        ),
    )
    config.eval_steps = 4000
    config.checkpoint_steps = 1000
    return config
