import logging
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from training import compilation

ROOT = pathlib.Path(__file__).resolve().parents[2]
YNN = "xla_cpu_experimental_ynn_fusion_type"


@pytest.fixture
def warned():
    """Lines logged for people; their logger does not propagate once set up."""
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger("tessera")
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


def compiles(options) -> bool:
    jax.jit(lambda x: x * 2, compiler_options=options).lower(1.0).compile()
    return True


def test_the_cpu_keeps_convolutions_away_from_ynnpack(warned):
    options = compilation.compiler_options()
    if not warned:  # This jaxlib knows the name.
        assert options == {YNN: "LIBRARY_FUSION_TYPE_REDUCE"}
    assert compiles(options)


def test_a_refused_option_is_one_line_and_the_others_stay(warned):
    given = {
        "xla_cpu_enable_fast_math": False,
        "xla_nonsense": 1,
        "xla_cpu_fast_math_honor_nans": "perhaps",
    }
    options = compilation.compiler_options(given)
    assert options == {"xla_cpu_enable_fast_math": False}
    assert compiles(options)
    assert len(warned) == 2
    assert "xla_nonsense=1: " in warned[0] and "\n" not in warned[0]
    assert "xla_cpu_fast_math_honor_nans=perhaps" in warned[1]


def test_options_given_replace_the_backend_s(warned):
    assert compilation.compiler_options({}) == {}
    given = {"xla_cpu_enable_fast_math": False}
    assert compilation.compiler_options(given) == given
    assert warned == []


def test_gpu_options_are_names_that_xla_knows(warned):
    """All backends share one parser of option names."""
    several = compilation.compiler_options(backend="gpu", devices=8)
    assert several["xla_gpu_enable_latency_hiding_scheduler"] is True
    assert compilation.compiler_options(backend="gpu", devices=1) == {}
    assert warned == []


def test_an_unknown_backend_has_no_options():
    assert compilation.compiler_options(backend="abacus") == {}


def test_matmul_precision():
    before = jax.config.jax_default_matmul_precision
    try:
        compilation.set_matmul_precision("highest")
        text = jax.jit(jnp.dot).lower(jnp.ones((2, 2)), jnp.ones((2, 2))).as_text()
        assert "HIGHEST" in text
        compilation.set_matmul_precision(None)
        with pytest.raises(ValueError, match="'exact' is none of default, high"):
            compilation.set_matmul_precision("exact")
    finally:
        compilation.set_matmul_precision(before)


PROGRAM = """
import pathlib, sys
import jax, jax.numpy as jnp
from training import compilation
events = []
jax.monitoring.register_event_listener(lambda name, **_: events.append(name))
folder = compilation.enable_compilation_cache(*sys.argv[2:])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
def f(x):
    return jnp.tanh(x @ x).sum()
def compile():
    jax.clear_caches()
    jitted = jax.jit(jax.grad(f), compiler_options=compilation.compiler_options())
    jitted(jnp.ones((8, 8), jnp.float32)).block_until_ready()
compile()
if sys.argv[1] == "tear":
    (entry,) = folder.glob("jit_f-*-cache")
    entry.write_bytes(entry.read_bytes()[:100])
    compile()
    events.clear()
    compile()
print(folder)
print(sum(name == "/jax/compilation_cache/cache_hits" for name in events))
"""


def run(
    cache: pathlib.Path, *arguments: str, tear: bool = False
) -> tuple[str, int, str]:
    """(folder, cache hits, everything on stderr) of a fresh process."""
    # Some processors make XLA's loader grumble about its own tuning flags: level 3.
    quiet = {"JAX_NUM_CPU_DEVICES": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "tear" if tear else "", *arguments],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "XDG_CACHE_HOME": str(cache), **quiet},
    )
    assert done.returncode == 0, done.stderr
    folder, hits = done.stdout.split()
    return folder, int(hits), done.stderr


def test_the_cache_hits_in_the_next_process(tmp_path):
    folder, hits, noise = run(tmp_path)
    assert pathlib.Path(folder).is_relative_to(tmp_path / "tessera" / "xla")
    assert hits == 0 and noise == ""
    _, hits, noise = run(tmp_path)
    assert hits > 0 and noise == ""


def test_a_torn_entry_is_one_line_and_is_replaced(tmp_path):
    _, hits, noise = run(tmp_path, tear=True)
    assert noise.count("\n") == 1 and "jit_f not used" in noise
    assert hits > 0


def test_the_cache_can_be_moved_and_turned_off(tmp_path):
    folder, _, noise = run(tmp_path / "a", str(tmp_path / "b"))
    assert folder == str(tmp_path / "b") and noise == ""
    assert list((tmp_path / "b").glob("jit_f-*"))
    assert run(tmp_path / "a", "off") == ("None", 0, "")
    assert not (tmp_path / "a").exists()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    folder, _, noise = run(tmp_path, str(tmp_path / "file" / "below"))
    assert folder == "None"
    assert noise.count("\n") == 1 and "no compilation cache in" in noise


def test_the_cache_drops_what_was_used_longest_ago(tmp_path):
    for i in range(5):
        path = tmp_path / f"entry-{i}"
        path.write_bytes(bytes(100))
        os.utime(path, (1000 + i, 1000 + i))
    os.utime(tmp_path / "entry-0", (9000, 1000))  # Read since.
    compilation._prune(tmp_path, 250)
    assert {path.name for path in tmp_path.iterdir()} == {"entry-0", "entry-4"}


def test_what_the_profiler_needs_is_added_to_any_choice(warned):
    needed = {"xla_cpu_enable_xprof_traceme": True}
    given = {"xla_cpu_enable_fast_math": False}
    assert compilation.compiler_options({}, traced=True) == needed
    assert compilation.compiler_options(given, traced=True) == {**given, **needed}
    assert warned == []
