"""Eight virtual CPU devices for every test; fixtures that find the optional real data."""

import functools
import gc
import importlib.metadata
import json
import os
import pathlib
import sys
import tempfile

os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests compile much and compute little: without LLVM's optimisations they take half as long.
# XLA aborts on a flag it does not know, so those that change are set where they were tried.
QUICK_COMPILATION = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)
if importlib.metadata.version("jaxlib").startswith("0.10."):
    QUICK_COMPILATION += " --xla_cpu_use_fusion_emitters=false"
    QUICK_COMPILATION += " --xla_cpu_parallel_codegen_split_count=1"
os.environ.setdefault("XLA_FLAGS", QUICK_COMPILATION)
# Many tests compile the same program, in one worker or another: they share what is compiled.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    COMPILED = tempfile.TemporaryDirectory(prefix="tessera_tests_")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = COMPILED.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
# Tracing makes many objects that live on; looking through them took a quarter of the time.
gc.set_threshold(50_000, 20, 20)

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
# toy_experiment, for dotted paths; test_configs, for loading them; test_namings, for models;
# repeatability, whose assertions shall say as much as a test's.
FOLDERS = ("tests/training", "tests/vision/weights", "tests")
sys.path[:0] = [str(ROOT / folder) for folder in FOLDERS]
pytest.register_assert_rewrite("repeatability")


def pytest_unconfigure():
    """pytest looks for garbage five times over; what a whole run left takes it seconds."""
    gc.freeze()


def _optional_folder(variable: str, name: str) -> pathlib.Path:
    folder = pathlib.Path(os.environ.get(variable, ROOT.parent / "shared" / name))
    if not folder.is_dir():
        pytest.skip(f"{name} not found; set {variable} to its folder")
    return folder


@pytest.fixture(scope="session")
def parity():
    """The parity fixtures: `weights, arrays = parity('vit_timm_cls')`."""
    folder = _optional_folder("TESSERA_PARITY_DIR", "parity")
    sys.path.insert(0, str(folder))
    import load_fixture

    @functools.lru_cache(maxsize=2)
    def read(name: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        return load_fixture.load(name), load_fixture.arrays(name)

    def load(name: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        weights, arrays = read(name)
        return dict(weights), dict(arrays)

    load.folder = folder
    return load


@pytest.fixture(scope="session")
def tfds_dir() -> pathlib.Path:
    """Folder of real TFDS datasets in ArrayRecord form."""
    return _optional_folder("TFDS_DATA_DIR", "tensorflow_datasets")


@pytest.fixture
def assert_parity(parity):
    """assert_parity(fixture, output, ours): within the tolerance of the fixtures' README."""

    def check(name: str, output: str, ours) -> None:
        reference = parity(name)[1][f"out_{output}"]
        meta = json.loads((parity.folder / name / "meta.json").read_text())
        noise = meta["float32_noise"].get(output, {"rel_to_max": 0.0})["rel_to_max"]
        ours = np.asarray(ours)
        assert ours.shape == reference.shape
        error = np.abs(ours - reference).max() / np.abs(reference).max()
        print(f"{name} {output}: {error:.1e}")
        assert error <= max(1e-5, 10 * noise), f"{name} {output}: {error:.1e}"

    return check
