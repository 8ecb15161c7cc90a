"""Writes text with a trained model, from a run's folder alone.

    python generate.py --workdir=runs/gpt_shakespeare --prompt="To be" [--max_tokens=N]
        [--temperature=T] [--top_k=K] [--top_p=P] [--seed=N] [--num=N] [--slide]
    python generate.py --workdir=runs/gpt_shakespeare --prompts=FILE [--output=FILE.jsonl]
    python generate.py --workdir=runs/transformer_multi30k --prompt="A dog runs." [--beam=4]
    python generate.py --workdir=runs/transformer_multi30k --input=FILE [--output=FILE]

Language models complete a prompt, on the terminal token by token, or every line of a file
of prompts; `--output` then takes one JSON object a line. Sequence-to-sequence models
translate a text or every line of a file. Language models sample unless `--beam` is given;
the others search with a beam of 4 unless a way to sample is. `--beam=1` and
`--temperature=0` are greedy.
"""

import json
import pathlib
import sys
from collections.abc import Iterable
from typing import Any

from absl import flags

from training import launch
from training.errors import EXIT_INTERRUPTED, RunError, first_line

FLAGS = flags.FLAGS
flags.DEFINE_string("workdir", None, "The run's folder, runs/<config name> say.")
flags.DEFINE_string("step", "last", "A step with a checkpoint, 'best' or 'last'.")
flags.DEFINE_string("prompt", None, "The text to continue, or to translate.")
flags.DEFINE_string("prompts", None, "A file of texts to continue, one a line.")
flags.DEFINE_string("input", None, "A file of texts to translate, one a line.")
flags.DEFINE_string("output", None, "The file to write, instead of the terminal.")
flags.DEFINE_integer("max_tokens", None, "Most tokens to write.")
flags.DEFINE_float("temperature", None, "Divides the logits; 0 is greedy. Default: 1.")
flags.DEFINE_integer("top_k", None, "Sample from the k likeliest tokens.")
flags.DEFINE_float("top_p", None, "Sample from the likeliest that reach probability p.")
flags.DEFINE_integer("seed", 0, "Of the samples.")
flags.DEFINE_integer("num", 1, "Texts for each prompt.")
flags.DEFINE_integer("beam", None, "Search with a beam of this size.")
flags.DEFINE_float("length_penalty", 0.6, "Of the beam: 0 favours short texts, 1 long.")
flags.DEFINE_bool("slide", False, "Write on beyond the model's context.")


def main() -> int:
    if FLAGS.workdir is None:
        raise RunError("which run? --workdir=runs/NAME")
    given = [n for n in ("prompt", "prompts", "input") if FLAGS[n].value is not None]
    if len(given) != 1:
        raise RunError("give one of --prompt=TEXT, --prompts=FILE and --input=FILE")
    if FLAGS.num < 1:
        raise RunError(f"--num={FLAGS.num} must be at least 1")
    texts = (
        [FLAGS.prompt] if FLAGS.prompt is not None else _lines(FLAGS[given[0]].value)
    )

    launch.set_up()
    from nlp import generation

    try:
        writer, translates = _writer(pathlib.Path(FLAGS.workdir), FLAGS.step)
        if given == ["prompts" if translates else "input"]:
            other = "input" if translates else "prompts"
            raise RunError(f"--{given[0]} is not for this model; use --{other}")
        write = _translate if translates else _complete
        write(writer, _way(translates), texts)
    except generation.PromptError as error:
        raise RunError(first_line(error)) from error
    except KeyboardInterrupt:
        print(flush=True)
        return EXIT_INTERRUPTED
    return 0


def _writer(workdir: pathlib.Path, step: str) -> tuple[Any, bool]:
    """The run's model with its parameters, and whether it translates.

    Of the config only the task is built: the data may be gone.
    """
    from nlp import completion, generation, translation
    from training import artifacts, compilation, variables
    from training import config as configs

    config = configs.read(workdir)
    if "task" not in config:
        raise RunError(f"{workdir / 'config.json'} has no task; is it a run's?")
    compilation.set_matmul_precision(config.get("matmul_precision"))
    parts = {"task": config["task"], "framing": generation.framing_node(config)}
    parts = configs.build(artifacts.materialize(parts, workdir, read_only=True))
    translates = generation.reads_source(parts["task"])
    kind = translation.Translator if translates else completion.Completer
    _, found = variables.read(workdir, variables.step_of(step))
    return kind(parts["task"], found, parts["framing"]), translates


def _way(translates: bool) -> Any:
    """How tokens are chosen, by the flags."""
    from nlp.decoding import Sampling
    from nlp.generation import Beam

    names = ("temperature", "top_k", "top_p")
    given = {n: FLAGS[n].value for n in names if FLAGS[n].value is not None}
    if FLAGS.beam is not None and given:
        raise RunError(
            f"--beam and --{next(iter(given))} are two ways to choose; give one"
        )
    try:
        if given or (FLAGS.beam is None and not translates):
            return Sampling(**given)
        size = 4 if FLAGS.beam is None else FLAGS.beam
        if size == 1 == FLAGS.num:
            return Sampling(temperature=0.0)
        return Beam(size=size, length_penalty=FLAGS.length_penalty, results=FLAGS.num)
    except ValueError as error:
        raise RunError(first_line(error)) from error


def _complete(writer: Any, way: Any, prompts: list[str]) -> None:
    from nlp.decoding import Sampling

    streams = isinstance(way, Sampling) and FLAGS.prompt is not None
    if streams and not FLAGS.output:
        for i in range(FLAGS.num):
            if FLAGS.num > 1:
                print(f"--- {i + 1} of {FLAGS.num}")
            pieces = writer.stream(
                prompts[0],
                way,
                max_tokens=FLAGS.max_tokens,
                seed=FLAGS.seed,
                draw=i,
                slide=FLAGS.slide,
            )
            _show(pieces, prompts[0])
        return
    if FLAGS.slide:
        raise RunError("--slide works for one --prompt that is sampled on the terminal")
    found = writer.complete(
        prompts, way, max_tokens=FLAGS.max_tokens, seed=FLAGS.seed, num=FLAGS.num
    )
    pairs = (
        (p, text) for p, texts in zip(prompts, found, strict=True) for text in texts
    )
    if FLAGS.output:
        rows = ({"prompt": p, "text": text} for p, text in pairs)
        _write(json.dumps(row, ensure_ascii=False) for row in rows)
        return
    total = len(prompts) * FLAGS.num
    for i, (prompt, text) in enumerate(pairs):
        print(
            *([f"--- {i + 1} of {total}"] if total > 1 else []), prompt + text, sep="\n"
        )


def _translate(writer: Any, way: Any, texts: list[str]) -> None:
    from nlp.decoding import Sampling

    if FLAGS.slide or FLAGS.num > 1:
        raise RunError("--slide and --num are for language models")
    limits = {"max_tokens": FLAGS.max_tokens, "seed": FLAGS.seed}
    if FLAGS.prompt is not None:
        if not FLAGS.prompt.strip():
            raise RunError("the prompt is empty; give the text to translate")
        if isinstance(way, Sampling) and not FLAGS.output:
            _show(writer.stream(texts[0], way, **limits))
            return
    _write(writer.translate(texts, way, **limits))


def _show(pieces: Iterable[str], prompt: str = "") -> None:
    """Prints pieces as they come, after the prompt, which waits for the first: an error
    would else follow half a text."""
    for i, piece in enumerate(pieces):
        print(prompt + piece if i == 0 else piece, end="", flush=True)
    print(flush=True)


def _write(lines: Iterable[str]) -> None:
    """Lines to `--output`, or to the terminal."""
    if not FLAGS.output:
        for line in lines:
            print(line, flush=True)
        return
    try:
        with open(FLAGS.output, "w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
    except OSError as error:
        raise RunError(f"cannot write {FLAGS.output}: {error.strerror}") from error


def _lines(name: str) -> list[str]:
    """The lines of a file of text."""
    try:
        data = (
            sys.stdin.buffer.read() if name == "-" else pathlib.Path(name).read_bytes()
        )
        text = data.decode("utf-8")
    except OSError as error:
        raise RunError(f"cannot read {name}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise RunError(
            f"{name} is not UTF-8: byte 0x{data[error.start]:02x} in line {line}"
        ) from error
    lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
    if not text:
        raise RunError(f"{name} is empty")
    return lines


if __name__ == "__main__":
    launch.start(main)
