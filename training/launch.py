"""What the scripts share: flags, one-line errors, the list of configs.

Imports nothing heavy, so that `--help` and `--list` answer at once.
"""

import ast
import logging
import os
import pathlib
import re
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from absl import app, flags
from ml_collections import config_flags

from training import allocator
from training.errors import EXIT_FAILURE, RunError, first_line

ROOT = pathlib.Path(__file__).resolve().parent.parent

flags.DEFINE_string(
    "compilation_cache",
    None,
    "Folder of XLA's persistent compilation cache; 'off' disables it. Default: a folder "
    "in the user's cache directory.",
)
flags.DEFINE_string(
    "coordinator", None, "host:port of process 0 of a multi-process run."
)
flags.DEFINE_integer("num_processes", None, "Processes of a multi-process run.")
flags.DEFINE_integer("process_id", None, "Which process this is, from 0.")
flags.DEFINE_bool("traceback", False, "Show where in the code an error arose.")


def define_config(help_text: str) -> flags.FlagHolder:
    """Defines `--config`, whose `--config.key=value` may also set what the file leaves
    to defaults: whether a key exists is checked when the config is built."""
    return config_flags.DEFINE_config_file(
        "config",
        None,
        help_text,
        lock_config=False,
        accept_new_attributes=True,
    )


def start(main: Callable[..., int], *, arguments: bool = False) -> None:
    """Parses flags, runs `main` and exits with its code.

    Errors that a person can mend are one line on stderr and exit code 1; any other is a
    defect of ours and keeps its trace.

    Args:
        main: returns the exit code.
        arguments: words that are no flags are allowed, before flags and after them, and
            `main` gets a list of them.
    """
    if arguments:
        flags.FLAGS.set_gnu_getopt()
        app.run(lambda argv: _guarded(lambda: main(argv[1:])), flags_parser=_parse_all)
    else:
        app.run(lambda argv: _guarded(main), flags_parser=_parse)


def _parse(argv: list[str]) -> list[str]:
    rest = _parse_all(argv)
    if len(rest) > 1:
        _fail(f"unexpected argument {rest[1]!r}; flags are written --name=value")
    return rest


def _parse_all(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        _fail(_flag_message(error, argv))
    except Exception as error:  # noqa: BLE001, a config file may raise anything
        _fail(_config_message(error, argv))


def _guarded(main: Callable[[], int]) -> None:
    try:
        sys.exit(main())
    except RunError as error:
        if flags.FLAGS.traceback:
            raise
        _fail(first_line(error))


def _fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr, flush=True)
    sys.exit(EXIT_FAILURE)


def _config_path(argv: list[str]) -> str:
    """The value of --config, however it was written."""
    for i, word in enumerate(argv):
        name, equals, value = word.partition("=")
        if name.lstrip("-") == "config":
            return value if equals else "".join(argv[i + 1 : i + 2])
    return ""


def _flag_message(error: Exception, argv: list[str]) -> str:
    path = _config_path(argv).split(":")[0]
    if path and not pathlib.Path(path).is_file():
        return _no_such_config(path)
    # ml_collections puts what the config file raised on the last line of its own text.
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lines and lines[0].endswith(":"):
        return f"{lines[0].rstrip(':')}: {lines[-1]}"
    return first_line(error)


def _config_message(error: Exception, argv: list[str]) -> str:
    path = _config_path(argv)
    if not pathlib.Path(path.split(":")[0]).is_file():
        return _no_such_config(path.split(":")[0])
    text = str(error.args[0]) if error.args else type(error).__name__
    # A KeyError turned into another error carries its text as a quoted literal.
    text = text.replace("\\n", "\n").replace("\\'", "'").replace("'", "")
    text = "; ".join(line.strip() for line in text.splitlines() if line.strip())
    if isinstance(error, AttributeError | KeyError):
        return f"unknown config key in {path}: {text}"
    return f"{path}: {text}"


def read_config(flag: flags.FlagHolder) -> Any:
    """The config that `--config` names.

    Raises:
        RunError: none is named, or the file cannot be loaded.
    """
    if not _config_path(sys.argv):
        raise RunError("which experiment? --config=configs/NAME.py; --list shows them")
    try:
        config = flag.value
        config.to_dict()  # a file that failed to load says so only when it is used
    except Exception as error:
        raise RunError(_config_message(error, sys.argv)) from error
    return config


def _no_such_config(path: str) -> str:
    names = ", ".join(p.stem for p in config_files())
    return f"no config {path!r}; there is configs/NAME.py for NAME in {names}"


def config_files() -> list[pathlib.Path]:
    """The experiments in `configs/`."""
    found = sorted((ROOT / "configs").glob("*.py"))
    return [p for p in found if not p.stem.startswith("_")]


def describe_config(path: pathlib.Path) -> tuple[str, str]:
    """(one-line description, recorded result) from a config's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    result = re.search(r"^Result: (.+?)(?:\n\s*\n|\Z)", text, re.DOTALL | re.MULTILINE)
    first = text.split("\n\n")[0].replace("\n", " ").strip()
    return first, " ".join(result.group(1).split()) if result else "untested"


def run_name(argument: str) -> str:
    """The default workdir of a config: 'configs/vit_imagenet.py:B/16' -> its name."""
    file, _, variant = argument.partition(":")
    variant = re.sub(r"[^A-Za-z0-9.]+", "_", variant).strip("_")
    return pathlib.Path(file).stem + (f"-{variant}" if variant else "")


def config_argument() -> str:
    """FILE.py:argument, as the command line has it."""
    return _config_path(sys.argv)


def set_up() -> None:
    """Joins the cluster, turns the compilation cache on, keeps memory, quietens libraries.

    Raises:
        RunError: the processes of a multi-process run do not meet.
    """
    allocator.keep_freed_memory()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    for name in ("absl", "jax"):
        logging.getLogger(name).setLevel(logging.WARNING)
    log = logging.getLogger("tessera")
    if not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False
    from training import cluster, compilation

    values = flags.FLAGS
    cluster.initialize(values.coordinator, values.num_processes, values.process_id)
    compilation.enable_compilation_cache(values.compilation_cache)
