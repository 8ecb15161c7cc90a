"""Generation: with the cache, without it, and by Hugging Face's `transformers`.

    python benchmarks/decoding.py [--rounds=5] [--batch=8] [--tokens=256] [--prompt=16]
        [--layers=6] [--dim=384] [--heads=6] [--vocab=8192] [--cores=N] [--device=cpu|gpu]
        [--torch_python=PATH] [--out=FILE.json]

Greedy choice of a fixed number of tokens by one GPT, in float32. `cached` is
`nlp.decoding.greedy`: a key/value cache, one program. `recompute` runs the prefix through
the model for every token, as whoever has no cache must: rows of the next multiple of 32,
so that few programs are compiled, and a head on the last place alone. `transformers` is
that library's `generate` with its own cache, from the same weights; `torch.compile` is not
used. Each contestant is a process of its own, they take turns, and ratios are taken within
a round. The tokens of `recompute` and `transformers` are compared with those of `cached`.

torch and transformers are optional, and may live in another environment (--torch_python):
pip install torch transformers safetensors numpy.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import shutil
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

# The other side of the pipe has none of our packages: what needs them is imported inside.
CONTESTANTS = ("cached", "recompute", "transformers")
BUCKET = 32


def weights(options: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Random weights under Hugging Face's names for GPT-2."""
    rng = np.random.default_rng(0)
    D, V, T = options["dim"], options["vocab"], options["prompt"] + options["tokens"]
    found = {}

    def put(name: str, *shape: int, scale: float = 0.05) -> None:
        found[name] = rng.normal(scale=scale, size=shape).astype(np.float32)

    def norm(name: str) -> None:
        found[f"{name}.weight"] = np.ones(D, np.float32)
        found[f"{name}.bias"] = np.zeros(D, np.float32)

    put("wte.weight", V, D, scale=0.3)
    # Large, or the model would write one token for ever.
    put("wpe.weight", T, D, scale=1.0)
    for i in range(options["layers"]):
        for name, rows, columns in (
            ("attn.c_attn", D, 3 * D),
            ("attn.c_proj", D, D),
            ("mlp.c_fc", D, 4 * D),
            ("mlp.c_proj", 4 * D, D),
        ):
            put(f"h.{i}.{name}.weight", rows, columns)
            put(f"h.{i}.{name}.bias", columns)
        norm(f"h.{i}.ln_1")
        norm(f"h.{i}.ln_2")
    norm("ln_f")
    return found


def prompt(options: Mapping[str, int]) -> np.ndarray:
    """int32 [B, P]."""
    shape = options["batch"], options["prompt"]
    return np.random.default_rng(1).integers(5, options["vocab"], shape, dtype=np.int32)


def build(spec: Mapping[str, Any]) -> Any:
    """The contestant of a process; see `benchmarks.train_step_contestant`."""
    kind = Transformers if spec["contestant"] == "transformers" else Ours
    contestant = kind(spec)
    contestant.wait(contestant.step())  # compiles
    contestant.description = {"tokens": contestant.tokens.tolist()}
    return contestant


class Contestant:
    """A `Trainer` of `benchmarks.train_step_contestant` whose step is one generation."""

    tokens: np.ndarray
    description: dict[str, Any]

    def device_peak(self) -> int | None:
        return None

    def reset_device_peak(self) -> None:
        """Memory is not measured here."""


class Ours(Contestant):
    """`nlp.decoding.greedy` over a GPT, or the whole prefix at every step."""

    def __init__(self, spec: Mapping[str, Any]):
        import jax
        from safetensors.numpy import load_file

        from nlp.import_weights import convert
        from nlp.models.gpt import GPT

        if spec["device"] == "gpu" and jax.default_backend() != "gpu":
            raise RuntimeError("JAX finds no GPU")
        self._count, self._prompt = spec["tokens"], jax.numpy.asarray(prompt(spec))
        self._length = spec["prompt"] + spec["tokens"]
        self._model = GPT(
            vocab_size=spec["vocab"],
            max_length=self._length,
            embed_dim=spec["dim"],
            num_layers=spec["layers"],
            num_heads=spec["heads"],
        )
        template = jax.eval_shape(self._model.init, jax.random.key(0), self._prompt)
        params, _ = convert(load_file(spec["weights"]), template)
        self._variables = jax.device_put({"params": params})
        cached = spec["contestant"] == "cached"
        self.step = self._cached() if cached else self._recompute()

    def _cached(self) -> Any:
        import jax

        from nlp import decoding

        rules = decoding.Rules(max_length=self._count, eos_id=None)

        @jax.jit
        def generate(variables, prompt):
            logits, step, state = decoding.begin(
                self._model, variables, prompt, cache_length=self._length - 1
            )
            return decoding.greedy(step, logits, state, rules).tokens

        return lambda: generate(self._variables, self._prompt)

    def _recompute(self) -> Any:
        import functools

        import flax.linen as nn
        import jax
        import jax.numpy as jnp

        def last(model, tokens, length):
            hidden = model.hidden(tokens)
            return model.token_embedding.attend(hidden[:, length - 1])

        @functools.partial(jax.jit, static_argnames="width")
        def choose(variables, tokens, length, *, width):
            call = nn.apply(last, self._model)
            logits = call(variables, tokens[:, :width], length)
            return tokens.at[:, length].set(logits.argmax(-1).astype(jnp.int32))

        start = self._prompt.shape[1]

        def generate():
            tokens = jnp.pad(self._prompt, ((0, 0), (0, self._count)))
            for length in range(start, self._length):
                width = min(-(-length // BUCKET) * BUCKET, self._length)
                tokens = choose(self._variables, tokens, length, width=width)
            return tokens[:, start:]

        return generate

    def wait(self, tokens: Any) -> float:
        self.tokens = np.asarray(tokens)
        return float(self.tokens.sum())


class Transformers(Contestant):
    """`generate` of `transformers`."""

    def __init__(self, spec: Mapping[str, Any]):
        import torch
        import transformers
        from safetensors.torch import load_file

        if spec["device"] == "gpu" and not torch.cuda.is_available():
            raise RuntimeError("torch finds no GPU")
        if spec["cores"]:
            torch.set_num_threads(spec["cores"])
        config = transformers.GPT2Config(
            vocab_size=spec["vocab"],
            n_positions=spec["prompt"] + spec["tokens"],
            n_embd=spec["dim"],
            n_layer=spec["layers"],
            n_head=spec["heads"],
            bos_token_id=None,
            eos_token_id=None,
        )
        model = transformers.GPT2LMHeadModel(config)
        model.transformer.load_state_dict(load_file(spec["weights"]), strict=True)
        model.tie_weights()
        device = "cuda" if spec["device"] == "gpu" else "cpu"
        self._torch, self._model = torch, model.eval().to(device)
        self._prompt = torch.from_numpy(prompt(spec)).long().to(device)
        self._count = spec["tokens"]

    def step(self) -> Any:
        with self._torch.inference_mode():
            return self._model.generate(
                self._prompt,
                attention_mask=self._torch.ones_like(self._prompt),
                do_sample=False,
                max_new_tokens=self._count,
                min_new_tokens=self._count,
                pad_token_id=0,
            )

    def wait(self, tokens: Any) -> float:
        self.tokens = tokens[:, self._prompt.shape[1] :].cpu().numpy()
        return float(self.tokens.sum())


def agreement(result: Mapping[str, Any], other: Mapping[str, Any]) -> float | None:
    """Share of tokens before the first difference of each row."""
    if "tokens" not in result or "tokens" not in other:
        return None
    same = np.equal(result["tokens"], other["tokens"])
    return float(np.logical_and.accumulate(same, axis=1).mean())


def summary(results: Mapping[str, Any], tokens: int) -> dict[str, Any]:
    """Tokens per second, and how many times the time of `cached` the others take.

    Args:
        results: of `benchmarks.train_step.compete`.
        tokens: of a generation, all rows together.
    """
    from benchmarks.train_step import ratio, seconds

    found: dict[str, Any] = {"tokens_per_second": {}, "times_cached": {}, "same": {}}
    cached = results.get("cached", {})
    for name, result in results.items():
        if not seconds(result):
            continue
        median = statistics.median(seconds(result))
        found["tokens_per_second"][name] = tokens / median
        if name != "cached" and seconds(cached):
            found["times_cached"][name] = ratio(cached, result)
            found["same"][name] = agreement(cached, result)
    return found


def report(results: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Prints the table."""
    from benchmarks.train_step import seconds
    from training.tables import show

    rows = []
    for name, result in results.items():
        if not seconds(result):
            why = "not installed" if "absent" in result else "failed"
            rows.append([name, why, "", "", "", ""])
            continue
        times = seconds(result)
        ratio = found["times_cached"].get(name)
        same = found["same"].get(name)
        rows.append(
            [
                name,
                f"{statistics.median(times):.3f}",
                f"{(max(times) - min(times)) / statistics.median(times):.1%}",
                f"{found['tokens_per_second'][name]:.0f}",
                f"{ratio['median']:.2f} ({ratio['least']:.2f} to {ratio['most']:.2f})"
                if ratio
                else "1",
                "" if same is None else f"{same:.0%}",
            ]
        )
    columns = ("contestant", "s", "spread", "tokens/s", "times cached", "same tokens")
    show("generation", columns, rows)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line. Raises ValueError, in one line, for a value out of range."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = dict(rounds=5, batch=8, tokens=256, prompt=16, layers=6, dim=384)
    sizes |= dict(heads=6, vocab=8192)
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--cores", type=int, help="default: all")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--contestants", default=",".join(CONTESTANTS))
    parser.add_argument("--torch_python", default=sys.executable)
    parser.add_argument("--out", help="JSON file for the figures")
    options = parser.parse_args(arguments)
    for name in (*sizes, "cores"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name}={value} must be at least 1")
    if options.dim % options.heads:
        raise ValueError(f"--heads={options.heads} does not divide --dim={options.dim}")
    options.contestants = options.contestants.split(",")
    for name in options.contestants:
        if name not in CONTESTANTS:
            raise ValueError(
                f"unknown contestant {name!r}; known: {', '.join(CONTESTANTS)}"
            )
    python = shutil.which(options.torch_python)
    if python is None:
        raise ValueError(f"--torch_python={options.torch_python} is no interpreter")
    options.torch_python = os.path.abspath(python)
    return options


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All contestants in turns; prints the table."""
    from safetensors.numpy import save_file

    from benchmarks import train_step
    from benchmarks.train_step_contestant import Contestant as Process

    spec = {k: v for k, v in vars(options).items() if not k.endswith(("python", "out"))}
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        spec["weights"] = str(pathlib.Path(folder) / "weights.safetensors")
        save_file(weights(spec), spec["weights"])
        variables = train_step.environment(options, folder)

        def start(name: str) -> Process:
            python = options.torch_python if name == "transformers" else sys.executable
            print(f"  {name} starts", file=sys.stderr)
            own = {**spec, "contestant": name}
            return Process(python, "benchmarks.decoding", own, variables)

        results = train_step.compete(
            start, options.contestants, rounds=options.rounds, steps=1
        )
    found = summary(results, options.batch * options.tokens)
    report(results, found)
    for result in results.values():
        result.pop("tokens", None)
    del spec["weights"]
    return {**spec, "load_before": load, "summary": found, "contestants": results}


def main() -> int:
    try:
        options = parse()
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    result = {
        "command": ["benchmarks/decoding.py", *sys.argv[1:]],
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "host": {"system": platform.platform(), "cpus": os.cpu_count()},
        **measure(options),
    }
    if options.out:
        text = json.dumps(result, indent=1) + "\n"
        pathlib.Path(options.out).write_text(text)
    if not result["summary"]["tokens_per_second"]:
        print("no contestant wrote a token", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
