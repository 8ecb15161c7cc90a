"""The rules of the rooms: who may import whom, what files may be called, how long they are.

Imports are read from the syntax tree, those inside of functions too.
"""

import ast
import functools
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
ROOMS = ("benchmarks", "configs", "data", "layers", "nlp", "training", "vision")
SCRIPTS = ("train.py", "eval.py", "generate.py", "classify.py")
OURS = {*ROOMS, "train", "eval", "generate", "classify"}
DOMAINS = ("vision", "nlp")

FILES = sorted(
    path
    for room in ROOMS
    for path in (ROOT / room).rglob("*.py")
    if "__pycache__" not in path.parts
) + [ROOT / script for script in SCRIPTS]
NAMES = [path.relative_to(ROOT).as_posix() for path in FILES]


@functools.cache
def parse(path: pathlib.Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


@functools.cache
def imports(path: pathlib.Path) -> frozenset[str]:
    """Every module a file may import, dotted; `from a import b` is both a and a.b."""
    package = path.relative_to(ROOT).parent.parts
    found = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            module = ".".join(base + ([node.module] if node.module else []))
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def below(name: str, *packages: str) -> bool:
    return any(name == p or name.startswith(p + ".") for p in packages)


def ours(path: pathlib.Path) -> set[str]:
    return {name for name in imports(path) if name.split(".")[0] in OURS}


def in_room(*rooms: str) -> list:
    """The files of rooms, as parameters of a test."""
    return [
        pytest.param(path, id=name)
        for path, name in zip(FILES, NAMES, strict=True)
        if any(name.startswith(room + "/") or name == room for room in rooms)
    ]


def assert_only(found: set[str], allowed: tuple[str, ...], path: pathlib.Path) -> None:
    """Of our modules, only those below `allowed`; a package on the way to one is too."""
    parents = {p.rpartition(".")[0] for p in allowed} - {""}
    wrong = {name for name in found if not below(name, *allowed)} - parents
    assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"


def test_the_syntax_tree_gives_all_imports(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = tmp_path / "vision" / "models" / "x.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "import a.b as c\n"
        "from d import e\n"
        "from . import sibling\n"
        "from ..layers.patches import Patches\n"
        "def f():\n    import inside\n"
    )
    assert imports(path) == {
        "a.b",
        "d",
        "d.e",
        "vision.models",
        "vision.models.sibling",
        "vision.layers.patches",
        "vision.layers.patches.Patches",
        "inside",
    }


@pytest.mark.parametrize("path", in_room("configs"))
def test_configs_are_plain_data(path):
    assert_only(ours(path), ("configs",), path)
    outside = {name.split(".")[0] for name in imports(path)} - OURS
    assert outside <= {"ml_collections", "math"}


@pytest.mark.parametrize("path", in_room("layers"))
def test_layers_know_jax_and_flax_only(path):
    assert_only(ours(path), ("layers",), path)
    banned = ("optax", "orbax", "grain", "tensorflow_datasets", "cv2", "sklearn")
    assert not [name for name in imports(path) if below(name, *banned)]


@pytest.mark.parametrize("path", in_room("data"))
def test_data_never_touches_a_device(path):
    assert_only(ours(path), ("data",), path)
    banned = ("jax", "jaxlib", "flax", "optax", "orbax")
    assert not [name for name in imports(path) if below(name, *banned)]


@pytest.mark.parametrize("path", in_room("training"))
def test_training_is_domain_free(path):
    assert_only(ours(path), ("training",), path)
    banned = ("flax", "grain", "tensorflow_datasets")
    assert not [name for name in imports(path) if below(name, *banned)]


@pytest.mark.parametrize("path", in_room(*SCRIPTS))
def test_the_scripts_are_thin(path):
    # Text is written, and pictures are named, by their domain.
    domain = {"generate.py": ("nlp",), "classify.py": ("vision",)}
    assert_only(ours(path), ("training", *domain.get(path.name, ())), path)


@pytest.mark.parametrize("path", in_room(*DOMAINS))
def test_a_domain_knows_itself_the_layers_and_the_protocols(path):
    domain = path.relative_to(ROOT).parts[0]
    allowed = (domain, "layers", "training.task", "training.metrics")
    allowed += ("training.weight_naming", "training.weight_files")
    if path.relative_to(ROOT).parts[1] == "evaluators":
        allowed += ("training.evaluation", "training.features", "training.errors")
    assert_only(ours(path), allowed, path)


@pytest.mark.parametrize(
    "path", in_room(*(f"{d}/{room}" for d in DOMAINS for room in ("models", "tasks")))
)
def test_models_and_tasks_are_joined_by_configs_only(path):
    domain, room = path.relative_to(ROOT).parts[:2]
    other = {"models": "tasks", "tasks": "models"}[room]
    found = ours(path)
    assert not [name for name in found if below(name, f"{domain}.{other}")]
    if room == "models":
        siblings = [name for name in found if below(name, f"{domain}.models")]
        assert not siblings, "models share code through a layers room only"


@pytest.mark.parametrize(
    "path", in_room(*(f"{d}/{room}" for d in DOMAINS for room in ("layers", "ops")))
)
def test_layers_and_ops_do_not_know_who_uses_them(path):
    domain = path.relative_to(ROOT).parts[0]
    users = (f"{domain}.models", f"{domain}.tasks", "training")
    assert not [name for name in ours(path) if below(name, *users)]


@pytest.mark.parametrize(
    "path",
    in_room(
        *(f"{d}/{name}" for d in DOMAINS for name in ("transforms.py", "transforms")),
        "nlp/tokenizers.py",
        "nlp/tokenizers",
        "nlp/sources.py",
    ),
)
def test_transforms_run_in_workers_without_a_device(path):
    banned = ("jax", "flax", "training", "layers", "data")
    assert not [name for name in imports(path) if below(name, *banned)]


@pytest.mark.parametrize("path", in_room(*ROOMS, *SCRIPTS))
def test_no_other_framework(path):
    if path.parent == ROOT / "benchmarks":
        return  # They measure against peers.
    banned = {"tensorflow", "torch", "pandas", "torchvision", "timm", "clu"}
    assert not {name.split(".")[0] for name in imports(path)} & banned


@pytest.mark.parametrize("name", NAMES)
def test_files_are_named_by_a_noun_of_the_field(name):
    bad = r"^(utils?|common|helpers?|misc|.*_lib|.*_utils?|.*_helpers?)$"
    for part in pathlib.PurePosixPath(name).with_suffix("").parts:
        assert not re.match(bad, part), name


@pytest.mark.parametrize("path", in_room(*ROOMS, *SCRIPTS))
def test_files_and_functions_are_short(path):
    assert len(path.read_text().splitlines()) <= 400
    if path.parent == ROOT / "configs":
        return  # One function that returns plain data: the whole experiment.
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = node.end_lineno - node.lineno + 1
            assert length < 60, f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", in_room(*ROOMS, *SCRIPTS))
def test_every_module_says_what_it_is(path):
    if path.name == "__init__.py" and not path.read_text().strip():
        return
    assert ast.get_docstring(parse(path))


def test_tests_mirror_the_tree():
    tests = ROOT / "tests"
    assert not list(tests.rglob("__init__.py")), "it would shadow the room of its name"
    for path in tests.rglob("test_*.py"):
        folder = path.relative_to(tests).parent
        assert (ROOT / folder).is_dir(), f"{path} tests no room"


def test_every_room_is_there():
    assert {name.split("/")[0] for name in NAMES} == {
        *ROOMS,
        *SCRIPTS,
    }
