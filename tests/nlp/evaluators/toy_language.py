"""Models of text so simple that what they write and weigh is known, as config nodes."""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from training.evaluation import Report
from training.run import Run

FIRST = 5  # ids of letters come after the special ones


class Letters:
    """One token a character."""

    pad_id, bos_id, eos_id, unk_id, mask_id = range(FIRST)

    def __init__(self, alphabet="abcdefghijklmnopqrstuvwxyzäßABC. \n"):
        self.alphabet = alphabet
        self.vocab_size = FIRST + len(alphabet)

    def encode(self, text):
        for letter in text:
            if letter not in self.alphabet:
                raise ValueError(f"no letter {letter!r}")
        return [FIRST + self.alphabet.index(letter) for letter in text]

    def decode(self, ids):
        ids = list(ids)
        if self.eos_id in ids:
            ids = ids[: ids.index(self.eos_id)]
        return "".join(self.alphabet[i - FIRST] for i in ids if i >= FIRST)


class Pairs:
    """Raw texts of two languages, as bytes like those of TFDS."""

    def __init__(self, pairs, broken=()):
        self.pairs, self.broken = pairs, broken

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, i):
        if i in self.broken:
            raise ValueError("cannot be read")
        source, target = self.pairs[i]
        return {"en": source.encode(), "de": target.encode()}


class Tokenize:
    """{en, de} -> {source [S], target [T + 1]}."""

    def __init__(self, length=26):
        self.length, self.letters = length, Letters()

    def __call__(self, example, rng):
        row = np.zeros(self.length, np.int32)
        source = self.letters.encode(example["en"].decode())
        row[: len(source)] = source
        target = np.zeros(self.length + 1, np.int32)
        ids = self.letters.encode(example["de"].decode())
        target[: len(ids) + 2] = [1, *ids, 2]
        return {**example, "source": row, "target": target}


class Copier(nn.Module):
    """Writes its source letter by letter, the first `skip` left out, then the end."""

    vocab_size: int
    skip: int = 0
    pad_id: int = 0

    def setup(self):
        self.scale = self.param("scale", nn.initializers.constant(20.0), ())
        self.source = self.variable("cache", "source", lambda: None)
        self.index = self.variable("cache", "index", lambda: None)
        self.cross_attention = Sown()

    def __call__(self, source, target, *, train=False):
        T = target.shape[1]
        weights = jnp.eye(T, source.shape[1], k=self.skip)[None, None]
        self.cross_attention(jnp.tile(weights, (len(source), 2, 1, 1)))
        return self._logits(source, jnp.broadcast_to(jnp.arange(T), target.shape))

    def _logits(self, source, places):
        source = jnp.pad(source[:, self.skip :], ((0, 0), (0, self.skip + 1)))
        places = jnp.minimum(places, source.shape[1] - 1)
        letters = jnp.take_along_axis(source, places, 1)
        letters = jnp.where(letters == 0, 2, letters)
        return self.scale * jax.nn.one_hot(letters, self.vocab_size)

    def begin(self, source, prompt, *, cache_length):
        self.source.value, self.index.value = source, jnp.zeros((), jnp.int32)
        return self.step(prompt[:, -1])

    def step(self, tokens):
        index, self.index.value = self.index.value, self.index.value + 1
        places = jnp.broadcast_to(index, (len(tokens), 1))
        return self._logits(self.source.value, places)[:, 0]


class Averages(nn.Module):
    """A language model whose logits are a function of the mean of all it has read."""

    vocab_size: int
    max_length: int = 64
    width: int = 8

    def setup(self):
        self.embedding = nn.Embed(self.vocab_size, self.width)
        self.head = nn.Dense(self.vocab_size)

    def __call__(self, tokens, segments=None, *, train=False):
        if tokens.shape[1] > self.max_length:
            raise ValueError(
                f"{tokens.shape[1]} tokens for max_length {self.max_length}"
            )
        sums = self.embedding(tokens).cumsum(1)
        return self.head(5 * sums / (1 + jnp.arange(tokens.shape[1]))[:, None])

    def begin(self, prompt, *, cache_length):
        sums = self.embedding(prompt).sum(1)
        self.put_variable("cache", "sums", sums)
        self.put_variable("cache", "count", jnp.int32(prompt.shape[1]))
        return self.head(5 * sums / prompt.shape[1])

    def step(self, tokens):
        sums = self.get_variable("cache", "sums") + self.embedding(tokens)
        count = self.get_variable("cache", "count") + 1
        self.put_variable("cache", "sums", sums)
        self.put_variable("cache", "count", count)
        return self.head(5 * sums / count)


class Looker(nn.Module):
    """An encoder with several layers and heads, or one query a hop as Lin's."""

    vocab_size: int = 64
    hops: int = 0

    @nn.compact
    def __call__(self, tokens, *, train=False):
        T = tokens.shape[1]
        logits = nn.Embed(self.vocab_size, self.vocab_size, name="embedding")(tokens)
        if self.hops:
            weights = nn.softmax(logits[..., : self.hops], 1).swapaxes(1, 2)
            return Classified(logits, weights)
        else:
            for i in (0, 1):
                weights = nn.softmax(
                    logits[:, None, :, :T] * jnp.arange(1, 4)[:, None, None]
                )
                Sown(name=f"block_{i}")(weights * (i + 1) / 2)
        return logits


class Classified(NamedTuple):
    """What a sentence classifier says, with weights [B, hops, T]."""

    logits: jax.Array
    weights: jax.Array


class Sown(nn.Module):
    """Puts weights where those of a layer of its name lie."""

    @nn.compact
    def __call__(self, weights):
        if not self.is_initializing():
            self.sow("attention_weights", "weights", weights)


class Lines:
    """Texts for language models: {text, tokens [L + 1]}."""

    def __init__(self, texts, length=9):
        self.texts, self.length = texts, length

    def __len__(self):
        return len(self.texts)

    def __getitem__(self, i):
        tokens = Letters().encode(self.texts[i])[: self.length]
        row = np.zeros(self.length, np.int32)
        row[: len(tokens)] = tokens
        return {"text": self.texts[i], "tokens": row}


@dataclasses.dataclass(frozen=True)
class Saying:
    """An evaluator with one text."""

    text: str

    def __call__(self, run, state):
        return Report({}, texts={"said": self.text})


def pipeline(source, **options):
    return dict(type="data.pipeline.Pipeline", source=source, num_threads=0, **options)


def experiment(task, data, evaluator=None, mesh=1):
    """A config of a task on some data, perhaps with an evaluator `test`."""
    return dict(
        task=dict(tokenizer=dict(type="toy_language.Letters"), **task),
        optimizer=dict(type="optax.sgd", learning_rate=0.1),
        data=data,
        batch_size=8,
        total_steps=1,
        evals=dict(test=evaluator) if evaluator else {},
        mesh=dict(data=mesh),
    )


def build(task, data, mesh=1):
    """The run of a task on some data."""
    return Run.from_config(experiment(task, data, mesh=mesh), jax.devices()[:mesh])


SIZE = Letters().vocab_size


def seq2seq(**model):
    return dict(
        type="nlp.tasks.sequence_to_sequence.SequenceToSequence",
        model=dict(type="toy_language.Copier", vocab_size=SIZE, **model),
    )


def language_modeling(**model):
    return dict(
        type="nlp.tasks.language_modeling.LanguageModeling",
        model=dict(type="toy_language.Averages", vocab_size=SIZE, **model),
    )


def pairs(texts, **options):
    source = dict(type="toy_language.Pairs", pairs=texts, **options)
    return pipeline(source, transforms=(dict(type="toy_language.Tokenize"),))
