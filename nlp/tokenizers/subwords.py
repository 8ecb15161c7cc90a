"""Subwords over bytes: byte-pair encoding and the unigram language model.

Papers: R. Sennrich, B. Haddow, A. Birch, "Neural Machine Translation of Rare Words with
Subword Units", 2016, https://arxiv.org/abs/1508.07909 (BPE); T. Kudo, "Subword
Regularization", 2018, https://arxiv.org/abs/1804.10959 (unigram). As in GPT-2, text is cut
into words, each with the space before it, and words into pieces of their UTF-8: every text
can be encoded and comes back exactly, and nothing is unknown.

`tokenizers` encodes, and trains BPE. `sentencepiece` trains the unigram model, on the
words and their counts, because that of `tokenizers` differs from one run to the next.
"""

import collections
import functools
import io
import json
import pathlib
import tempfile
from collections.abc import Iterable, Sequence
from typing import Any, Self

import numpy as np
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, trainers

from nlp.tokenizers.tokenizer import SPECIALS, Tokenizer, utf8

# Encoding a sentence takes 50 us, and every epoch brings the same: so many texts of at most
# so many characters are remembered, some 50 MB.
_REMEMBERED, _SHORT = 2**17, 500
# Below the rarest piece: bytes that the corpus does not have.
_UNSEEN = 10.0


class Subwords(Tokenizer):
    """Pieces of words. Made by `Subwords.learned`, or read from a file.

    Args:
        kind: 'bpe' or 'unigram'.
        vocabulary: the pieces, their bytes written as GPT-2 writes them (a space is 'Ġ').
        merges: of BPE: pairs of pieces, the earlier first.
        scores: of the unigram model: the logarithm of each piece's probability.
        lowercase: what is encoded is put in lower case first; decoding does not undo it.
        prefix_space: a text that begins without a space is encoded as if it had one, so that
            its first word has the pieces that it has elsewhere; decoding keeps the space.
    """

    def __init__(
        self,
        kind: str,
        vocabulary: Sequence[str],
        merges: Sequence[Sequence[str]] = (),
        scores: Sequence[float] = (),
        lowercase: bool = False,
        prefix_space: bool = False,
    ):
        self.kind, self.lowercase, self.prefix_space = kind, lowercase, prefix_space
        self._vocabulary = list(vocabulary)
        self._merges = [tuple(pair) for pair in merges]
        self._scores = list(scores)
        if kind == "bpe":
            ids = {piece: i for i, piece in enumerate(self._vocabulary)}
            model = models.BPE(ids, self._merges)
        elif kind == "unigram":
            pairs = zip(self._vocabulary, self._scores, strict=True)
            model = models.Unigram(list(pairs))
        else:
            raise ValueError(f"kind is {kind!r}; subwords are 'bpe' or 'unigram'")
        self._encoder = _encoder(model, lowercase, prefix_space)
        self._remembered = functools.lru_cache(_REMEMBERED)(self._encoded)

    @classmethod
    def learned(
        cls,
        kind: str,
        texts: Iterable[str],
        vocab_size: int,
        lowercase: bool = False,
        prefix_space: bool = False,
    ) -> Self:
        """Trains on a corpus; the same corpus gives the same tokenizer.

        Args:
            kind: 'bpe' or 'unigram'.
            texts: the corpus.
            vocab_size: number of tokens, at least 261 (bytes and special tokens); there
                are fewer if the corpus does not have so many pieces.
            lowercase, prefix_space: see the class.

        Raises:
            ValueError: the corpus is empty, or `vocab_size` too small.
        """
        if vocab_size < 256 + len(SPECIALS):
            raise ValueError(
                f"vocab_size is {vocab_size}; subwords need at least 256 tokens for bytes "
                f"and {len(SPECIALS)} special ones"
            )
        texts = _some(text for text in texts if text)
        learn = {"bpe": _learn_bpe, "unigram": _learn_unigram}.get(kind)
        if learn is None:
            raise ValueError(f"kind is {kind!r}; subwords are 'bpe' or 'unigram'")
        encoder = _encoder(models.BPE(), lowercase, prefix_space)
        found = learn(texts, vocab_size - len(SPECIALS), encoder)
        return cls(kind, lowercase=lowercase, prefix_space=prefix_space, **found)

    @functools.cached_property
    def pieces(self) -> list[bytes]:
        byte_of = _bytes_by_sign()
        return [bytes(byte_of[sign] for sign in piece) for piece in self._vocabulary]

    def content(self) -> dict[str, Any]:
        content = {"lowercase": self.lowercase, "prefix_space": self.prefix_space}
        content["vocabulary"] = self._vocabulary
        if self.kind == "bpe":
            return {**content, "merges": self._merges}
        return {**content, "scores": self._scores}

    def encode_array(self, text: str) -> np.ndarray:
        if isinstance(text, str) and len(text) <= _SHORT:
            return self._remembered(text)
        return self._encoded(text)

    def _encoded(self, text: str) -> np.ndarray:
        utf8(text)
        ids = _shifted(self._encoder.encode(text).ids)
        ids.flags.writeable = False
        return ids

    def encode_all(self, texts: Sequence[str]) -> list[np.ndarray]:
        for text in texts:
            utf8(text)
        return [_shifted(x.ids) for x in self._encoder.encode_batch_fast(texts)]

    def spans(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        utf8(text)
        encoding = self._encoder.encode(text)
        ids = _shifted(encoding.ids)
        if not len(ids):
            return ids, ids
        ends = np.array([end for _, end in encoding.offsets], np.int32)
        ends = np.maximum.accumulate(ends)
        ends[-1] = len(text)
        return ids, np.diff(ends, prepend=np.int32(0))

    def __reduce__(self):
        arguments = (self.kind, self._vocabulary, self._merges, self._scores)
        return Subwords, (*arguments, self.lowercase, self.prefix_space)


def _shifted(ids: Sequence[int]) -> np.ndarray:
    # The encoder knows no special tokens, so that no text can contain one.
    return np.array(ids, np.int32) + np.int32(len(SPECIALS))


def _encoder(model: Any, lowercase: bool, prefix_space: bool) -> tokenizers.Tokenizer:
    encoder = tokenizers.Tokenizer(model)
    encoder.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    if lowercase:
        encoder.normalizer = normalizers.Lowercase()
    return encoder


@functools.cache
def _signs() -> list[str]:
    """The printable sign that stands for each byte, in their own order."""
    return sorted(pre_tokenizers.ByteLevel.alphabet())


@functools.cache
def _bytes_by_sign() -> dict[str, int]:
    # Printable bytes of Latin-1 stand for themselves; the rest follow from U+0100 on.
    plain = [b for b in range(256) if chr(b) in _signs()]
    others = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(others)}


def _some(texts: Iterable[str]) -> Iterable[str]:
    """The texts. Raises ValueError, when they are read, if there are none."""
    empty = True
    for text in texts:
        empty = False
        yield text
    if empty:
        raise ValueError("the corpus has no text to learn subwords from")


def _learn_bpe(
    texts: Iterable[str], size: int, encoder: tokenizers.Tokenizer
) -> dict[str, Any]:
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=_signs(),
        show_progress=False,
        special_tokens=[],
    )
    encoder.train_from_iterator(texts, trainer)
    ids = encoder.get_vocab()
    # The library tells what it merged in its own file only.
    merges = json.loads(encoder.to_str())["model"]["merges"]
    return {"vocabulary": sorted(ids, key=ids.get), "merges": merges}


def _learn_unigram(
    texts: Iterable[str], size: int, encoder: tokenizers.Tokenizer
) -> dict[str, Any]:
    import sentencepiece  # wanted only here

    counts = _word_counts(texts, encoder)
    seen = {sign for word in counts for sign in word}
    unseen = [sign for sign in _signs() if sign not in seen]
    out = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        table = pathlib.Path(folder) / "words.tsv"
        lines = (f"{word}\t{count}\n" for word, count in sorted(counts.items()))
        table.write_text("".join(lines), encoding="utf-8")
        try:
            sentencepiece.SentencePieceTrainer.train(
                input=str(table),
                input_format="tsv",
                model_writer=out,
                model_type="unigram",
                vocab_size=size - len(unseen) + 1,  # it has an unknown piece of its own
                hard_vocab_limit=False,
                character_coverage=1.0,
                normalization_rule_name="identity",
                add_dummy_prefix=False,
                remove_extra_whitespaces=False,
                split_by_whitespace=False,
                split_by_unicode_script=False,
                split_by_number=False,
                unk_id=0,
                bos_id=-1,
                eos_id=-1,
                pad_id=-1,
                num_threads=1,  # another number adds up in another order
                minloglevel=2,
            )
        except RuntimeError as error:
            raise ValueError(f"unigram pieces cannot be learned: {error}") from error
    found = sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())
    places = range(1, found.get_piece_size())
    scores = [found.get_score(i) for i in places]
    lowest = min(scores) - _UNSEEN
    return {
        "vocabulary": [found.id_to_piece(i) for i in places] + unseen,
        "scores": scores + [lowest] * len(unseen),
    }


def _word_counts(
    texts: Iterable[str], encoder: tokenizers.Tokenizer
) -> collections.Counter:
    counts = collections.Counter()
    for text in texts:
        if encoder.normalizer is not None:
            text = encoder.normalizer.normalize_str(text)
        counts.update(w for w, _ in encoder.pre_tokenizer.pre_tokenize_str(text))
    return counts
