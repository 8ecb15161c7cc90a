"""A recurrent encoder-decoder translates English to German, with and without attention.

D. Bahdanau, K. Cho, Y. Bengio, "Neural Machine Translation by Jointly Learning to Align and
Translate", 2015, https://arxiv.org/abs/1409.0473, at a size for 29,000 pairs of sentences.

Command: TFDS_DATA_DIR=... python train.py --config=configs/rnn_multi30k.py
Another attention, or none: --config=configs/rnn_multi30k.py:none

Result: 38.24 BLEU on test 2016 with additive attention, 24.38 with none (sacrebleu 2.6.0, cased,
13a, beam 4; an H100 shared with six other runs, three minutes, 2026-11-26); on one CPU core, with
--config.total_steps=1500, 36.11 BLEU and 59.45 chrF with additive attention, 105 minutes of
processor time
"""

from ml_collections import ConfigDict


def get_config(attention="additive"):
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 128
    config.total_steps = 4000
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

    # One sentence in a thousand has more than 40 subwords and loses its end in training.
    config.data = pipeline("train", 40)
    config.task = dict(
        type="nlp.tasks.sequence_to_sequence.SequenceToSequence",
        model=dict(
            type="nlp.models.rnn_seq2seq.RNNSeq2Seq",
            vocab_size=vocab_size,
            embed_dim=256,
            hidden_dim=512,
            cell="gru",
            attention=attention,
            dropout_rate=0.4,
        ),
        label_smoothing=0.1,
        tokenizer=tokenizer,
    )
    config.optimizer = dict(
        type="training.optimizer.with_rules",
        rule=dict(
            type="optax.adam",
            learning_rate=dict(
                type="training.optimizer.warmup_cosine",
                peak=2e-3,
                warmup_steps=total_steps // 20,
                total_steps=total_steps,
            ),
        ),
        clip_norm=1.0,
    )
    config.ema_decay = 0.998
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
    config.eval_steps = 2000
    config.checkpoint_steps = 1000
    return config
