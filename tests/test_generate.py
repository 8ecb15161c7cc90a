"""generate.py as a person runs it, on small runs that learned a sentence by heart."""

import functools
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from absl.testing import flagsaver

import generate
from nlp import generation
from nlp.completion import Completer
from nlp.decoding import Rules, Sampling, begin, sample
from nlp.generation import Beam, Framing, PromptError
from nlp.streaming import TokenStream
from nlp.tokenizers import Bytes, Characters
from nlp.translation import Translator
from training import artifacts, checkpoint, errors, initialization, step, variables
from training import config as configs
from training import state as states

ROOT = pathlib.Path(__file__).resolve().parent.parent
# No character comes twice, so each tells the next.
TEXT = "cwm fjord_bank-glyphs+vext:quizü.\n"
PAIRS = {"a dog": "ein Hund", "two cats": "zwei Katzen", "dogs": "Hunde", "": ""}


def config(task, data, steps, batch_size):
    return {
        "task": task,
        "data": data,
        "optimizer": {"type": "optax.adam", "learning_rate": 1e-2},
        "batch_size": batch_size,
        "total_steps": steps,
    }


def trained(config, folder):
    """A run in `folder`, of one batch with all examples; the data then goes away."""
    workdir = folder / "run"
    workdir.mkdir()
    configs.write(config, workdir)
    run = configs.experiment(artifacts.materialize(config, workdir))
    batch = next(iter(run.data.eval_batches(batch_size=run.batch_size)))
    task = {"task": run.task, "optimizer": run.optimizer}

    @jax.jit
    def train(batch):
        state = states.create(*task.values(), batch, seed=0, ema=False)
        once = lambda state, _: (step.train_step(state, batch, **task)[0], None)
        return jax.lax.scan(once, state, length=run.total_steps)[0]

    with jax.default_prng_impl("unsafe_rbg"):  # it compiles in a third of the time
        state = train(batch)
    checkpointer = checkpoint.Checkpointer(workdir)
    checkpointer.save(run.total_steps, state)
    checkpointer.close()
    for path in folder.glob("*.txt"):
        path.unlink()
    return workdir


@pytest.fixture(scope="module")
def language(tmp_path_factory):
    """A GPT over characters that knows TEXT and nothing else."""
    folder = tmp_path_factory.mktemp("language")
    (folder / "text.txt").write_text((TEXT * 2)[:64])
    source = {"type": "data.text.TextFile", "path": str(folder / "text.txt")}
    tokenizer = {
        "type": "nlp.tokenizers.Trained",
        "kind": "characters",
        "source": source,
    }
    windows = {
        "type": "nlp.sources.Windows",
        "source": source,
        "tokenizer": tokenizer,
        "length": 25,
        "stride": 1,
    }
    model = {
        "type": "nlp.models.gpt.GPT",
        "vocab_size": 64,
        "max_length": 24,
        "embed_dim": 32,
        "num_layers": 1,
        "num_heads": 2,
    }
    task = {
        "type": "nlp.tasks.language_modeling.LanguageModeling",
        "model": model,
        "tokenizer": tokenizer,
    }
    data = {"type": "data.pipeline.Pipeline", "source": windows}
    return trained(config(task, data, 60, 40), folder)


@pytest.fixture(scope="module")
def translation(tmp_path_factory):
    """A recurrent encoder-decoder over bytes that knows PAIRS."""
    folder = tmp_path_factory.mktemp("translation")
    paths = {}
    for name, lines in (("en", PAIRS.keys()), ("de", PAIRS.values())):
        paths[name] = str(folder / f"{name}.txt")
        text = "".join(f"{line or '-'}\n" for line in lines)
        pathlib.Path(paths[name]).write_text(text)
    transform = {
        "type": "nlp.transforms.Translation",
        "tokenizer": {"type": "nlp.tokenizers.Bytes"},
        "source": "en",
        "target": "de",
        "source_length": 12,
        "target_length": 14,
        "prefix": ">",
    }
    data = {
        "type": "data.pipeline.Pipeline",
        "source": {"type": "data.text.ParallelText", "paths": paths},
        "transforms": [transform],
        "keys": ["source", "target"],
    }
    model = {
        "type": "nlp.models.rnn_seq2seq.RNNSeq2Seq",
        "vocab_size": 270,
        "embed_dim": 16,
        "hidden_dim": 32,
    }
    task = {
        "type": "nlp.tasks.sequence_to_sequence.SequenceToSequence",
        "model": model,
        "tokenizer": {"type": "nlp.tokenizers.Bytes"},
    }
    return trained(config(task, data, 120, len(PAIRS)), folder)


def run(*arguments, code=0):
    """generate.py in a process of its own; the text on its standard output."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "generate.py"), *map(str, arguments)],
        check=False,
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "1", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == code, done.stderr.decode()
    return done.stdout.decode(), done.stderr.decode()


# So that programs are compiled once for all tests.
writer_of = functools.cache(generate._writer)


@pytest.fixture
def call(monkeypatch, capsys):
    """generate.py in this process: its standard output, or its one-line error."""
    monkeypatch.setattr("training.launch.set_up", lambda: None)
    monkeypatch.setattr(generate, "_writer", writer_of)

    def call(*arguments):
        with flagsaver.flagsaver():
            generate.FLAGS(["generate.py", *map(str, arguments)])
            try:
                assert generate.main() == 0
            except errors.RunError as error:
                assert "\n" not in str(error)
                return f"error: {error}"
        return capsys.readouterr().out

    return call


def test_a_prompt_is_completed_from_the_folder_alone(language):
    out, _ = run(f"--workdir={language}", "--prompt=cwm fjord", "--temperature=0")
    # 24 tokens of context, 9 of them read.
    assert out == TEXT[:24] + "\n"


def test_a_file_is_translated_line_by_line(translation, call, tmp_path):
    (tmp_path / "in").write_text("two cats\r\n\na dog\n")
    out = call(
        f"--workdir={translation}",
        f"--input={tmp_path / 'in'}",
        f"--output={tmp_path / 'out'}",
    )
    assert out == ""
    assert (tmp_path / "out").read_text() == "zwei Katzen\n\nein Hund\n"


@pytest.mark.parametrize("flag", ["--temperature=0", "--beam=1", "--top_k=1"])
def test_greedy_ways_agree(language, call, flag):
    out = call(f"--workdir={language}", "--prompt=bank", "--max_tokens=10", flag)
    start = TEXT.index("bank")
    assert out == TEXT[start : start + 14] + "\n"


def test_beams_samples_and_files_of_prompts(language, call, tmp_path):
    (tmp_path / "in").write_text("cwm fj\nbank\n")
    arguments = (f"--workdir={language}", f"--prompts={tmp_path / 'in'}")
    out = call(*arguments, "--max_tokens=5", "--beam=3")
    assert out == "--- 1 of 2\ncwm fjord_b\n--- 2 of 2\nbank-glyp\n"
    call(*arguments, "--max_tokens=3", "--num=2", f"--output={tmp_path / 'out'}")
    rows = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == ["cwm fj"] * 2 + ["bank"] * 2
    assert all(len(row["text"]) == 3 for row in rows)


def test_sliding_goes_beyond_the_context(language, call):
    arguments = (f"--workdir={language}", "--prompt=cwm fjord", "--temperature=0")
    out = call(*arguments, "--slide", "--max_tokens=60")
    assert out == (TEXT * 3)[:69] + "\n"


def test_several_samples_differ_and_repeat(language, call):
    arguments = (f"--workdir={language}", "--prompt=c", "--temperature=3", "--num=2")
    one = call(*arguments)
    assert one == call(*arguments) != call(*arguments, "--seed=1")
    first, second = one.removeprefix("--- 1 of 2\n").split("--- 2 of 2\n")
    assert first != second


@pytest.mark.parametrize("flags", [[], ["--beam=1"], ["--temperature=0"], ["--beam=2"]])
def test_one_text_is_translated(translation, call, flags):
    assert call(f"--workdir={translation}", "--prompt=dogs", *flags) == "Hunde\n"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--prompt=Fox"], ["does not know: 'F'"]),
        (["--prompt="], ["prompt is empty"]),
        (["--prompt=the", "--max_tokens=22"], ["3 tokens", "22", "context of 24"]),
        ([f"--prompt={TEXT}"], [f"{len(TEXT)} tokens", "context of 24"]),
        (["--prompt=the", "--max_tokens=0"], ["max_tokens=0"]),
        (["--prompt=\udcff"], ["not valid UTF-8"]),
        (["--prompt=the", "--top_p=2"], ["top_p=2"]),
        (["--prompt=the", "--beam=0"], ["beam of 0"]),
        (["--prompt=the", "--beam=2", "--top_k=3"], ["--beam and --top_k"]),
        (["--prompt=the", "--num=0"], ["--num=0"]),
        (["--prompt=the", "--step=7"], ["no checkpoint of step 7", "60"]),
        (["--prompt=the", "--step=best"], ["names no best_metric"]),
        (["--prompt=the", "--step=x"], ["--step=x"]),
        (["--prompt=the", "--prompts=x"], ["give one of"]),
        ([], ["give one of"]),
        (["--input=nowhere"], ["cannot read nowhere"]),
    ],
)
def test_mistakes_are_one_line(language, call, flags, words):
    message = call(f"--workdir={language}", *flags)
    assert message.startswith("error: ")
    for word in words:
        assert word in message, message


def test_mistakes_with_files_are_one_line(language, translation, call, tmp_path):
    (tmp_path / "bad").write_bytes(b"a dog\n\xff\n")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "good").write_text("a dog\n")
    bad, empty, good = (tmp_path / name for name in ("bad", "empty", "good"))
    assert "0xff in line 2" in call(f"--workdir={translation}", f"--input={bad}")
    assert "is empty" in call(f"--workdir={translation}", f"--input={empty}")
    assert "use --input" in call(f"--workdir={translation}", f"--prompts={good}")
    assert "use --prompts" in call(f"--workdir={language}", f"--input={good}")
    out = call(f"--workdir={translation}", f"--input={good}", f"--output={tmp_path}")
    assert "cannot write" in out


def test_wrong_runs_are_one_line(language, call, tmp_path):
    prompt = "--prompt=a"
    assert "not a run" in call(f"--workdir={tmp_path / 'none'}", prompt)
    model = {"type": "vision.models.lenet.LeNet", "num_classes": 3}
    task = {"type": "vision.tasks.classification.Classification", "model": model}
    (tmp_path / "config.json").write_text(json.dumps({"task": task}))
    assert "LeNet writes no text" in call(f"--workdir={tmp_path}", prompt)
    config = json.loads((language / "config.json").read_text())
    config["task"]["tokenizer"] = {"type": "nlp.tokenizers.Bytes"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "no run with checkpoints" in call(f"--workdir={tmp_path}", prompt)
    (tmp_path / "checkpoints").symlink_to(language / "checkpoints")
    assert "261 tokens and GPT 64" in call(f"--workdir={tmp_path}", prompt)
    config["task"]["model"] |= {"vocab_size": 300}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "does not fit GPT" in call(f"--workdir={tmp_path}", prompt)


def test_the_message_of_the_script_is_one_line_and_a_failure(tmp_path):
    _, message = run(f"--workdir={tmp_path}", "--prompt=x", code=1)
    assert message.startswith("error: ") and message.count("\n") == 1


# --- The parts ------------------------------------------------------------------------


@functools.cache
def loaded(folder):
    """(task, variables) of a run."""
    config = configs.read(folder)
    node = artifacts.materialize({"task": config["task"]}, folder, read_only=True)
    return configs.build(node)["task"], variables.read(folder)[1]


def test_streams_write_what_samples_write(language):
    sampling = Sampling(temperature=2.0, top_k=9)
    task, variables = loaded(language)
    rules = Rules(max_length=9, eos_id=2, forbidden=(0, 1, 3, 4))
    prompt, rng = task.tokenizer.encode("cwm "), jax.random.key(3)
    tokens = TokenStream(task.model, variables)(
        [prompt], rules, sampling, rng=rng, cache_length=13
    )

    @jax.jit
    def whole(variables):
        inputs = np.array([prompt])
        logits, step, state = begin(task.model, variables, inputs, cache_length=13)
        return sample(step, logits, state, rules, sampling, rng=rng)

    found = whole(variables)
    expected = found.tokens[0, : int(found.lengths[0])]
    np.testing.assert_array_equal(list(tokens), expected)


def test_completions_of_a_batch_equal_those_alone(language):
    writer, _ = writer_of(language, "last")
    prompts = ["cwm fjord_bank", "vext", "quizü.\nc"]
    together = list(writer.complete(prompts, Sampling(temperature=0), max_tokens=5))
    for prompt, texts in zip(prompts, together, strict=True):
        at = (TEXT * 2).index(prompt) + len(prompt)
        assert texts == [(TEXT * 2)[at : at + 5]]
    pieces = writer.stream("vext", Sampling(temperature=0), max_tokens=5)
    assert together[1] == ["".join(pieces)]


def test_several_results_of_a_beam(language):
    writer, _ = writer_of(language, "last")
    beam = Beam(size=4, results=3)
    (texts,) = writer.complete(["fjord"], beam, max_tokens=6, num=3)
    assert texts[0] == "_bank-" and len(set(texts)) == 3


def test_lines_keep_their_order_and_do_not_depend_on_each_other(translation):
    writer, _ = writer_of(translation, "last")
    lines = [*PAIRS, *reversed(PAIRS)] * 5
    found = list(writer.translate(lines, Beam()))
    assert found == [PAIRS[line] for line in lines]


def test_the_framing_of_the_data_is_read_off_the_config():
    tokenizer = {"type": "nlp.tokenizers.Bytes"}
    other = {"type": "nlp.tokenizers.Characters", "alphabet": "ab"}
    transform = {
        "type": "nlp.transforms.Translation",
        "tokenizer": tokenizer,
        "target_tokenizer": other,
        "prefix": "to German: ",
    }
    node = generation.framing_node({"data": {"transforms": [{"a": 1}, transform]}})
    framing = configs.build(node)
    assert framing.prefix == "to German: " and not framing.add_bos
    assert framing.source_tokenizer == Bytes()
    assert framing.target_tokenizer == Characters("ab")
    node = generation.framing_node({"data": {"source": {"add_bos": True}}})
    assert configs.build(node) == Framing(add_bos=True)


def test_documents_that_begin_with_bos_may_be_written_from_nothing(language):
    task, variables = loaded(language)
    writer = Completer(task, variables, Framing(add_bos=True))
    assert writer.encode("the")[0] == task.tokenizer.bos_id
    assert writer.encode("") == [task.tokenizer.bos_id]
    with pytest.raises(PromptError, match="empty"):
        Completer(task, variables).encode("")


def test_strange_characters_of_a_source_are_a_warning(translation, caplog):
    task, variables = loaded(translation)
    framing = Framing(source_tokenizer=Characters("dogs"))
    writer = Translator(task, variables, framing)
    assert writer.encode("dög", "line 3")
    assert "line 3" in caplog.text and "'ö'" in caplog.text


def test_the_other_tokens_of_a_larger_model_are_never_written(language):
    writer, _ = writer_of(language, "last")
    known = writer.tokenizer.vocab_size
    rules = writer.rules(5)
    assert set(range(known, 64)) | {0, 1, 3, 4} == set(rules.forbidden)
    assert rules.eos_id == 2


def test_steps_are_found(language, monkeypatch):
    seen = []
    original = initialization.read_arrays

    def spied(folder, number, **options):
        seen.append(number)
        return original(folder, number, **options)

    monkeypatch.setattr(initialization, "read_arrays", spied)
    config = {**configs.read(language), "best_metric": "eval/loss", "best_mode": "min"}
    monkeypatch.setattr(variables.configs, "read", lambda folder: config)
    for name in ("last", "60", "best"):
        found = variables.read(language, variables.step_of(name))[1]
        assert "params" in found
    assert seen[:2] == ["last", 60]
