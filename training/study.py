"""A study: several runs that belong together, and the table that compares them.

    python -m training.study --config=configs/studies/NAME.py [--workdir=DIR] [--only=PATTERN]
    python -m training.study --workdir=DIR --table

The config of a study holds `runs`, in the order they are made,

    runs = (
        dict(name="mae", config="configs/mae_cifar10.py"),
        dict(
            name="probe_mae",
            config="configs/linear_probe_cifar10.py:argument",
            changes=(("init_from.path", "{workdir}/mae"),),
        ),
    )

and `table`: the heading and names of its rows, and its columns as (heading, run, metric,
factor), where `{row}` in the run stands for a row's name. Each run lives in
`WORKDIR/NAME`, an ordinary run folder; one that is finished is not made again, one that
was interrupted continues. `{workdir}` stands for the study's folder.
"""

import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from training import launch
from training.errors import ConfigError, RunError

FLAGS = flags.FLAGS
FILE = "study.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """What a study's config says.

    Args:
        runs: {'name', 'config': 'FILE.py[:argument]', 'changes': pairs of a dotted path
            and its new value} of each.
        table: {'title', 'rows', 'columns'}; see the module.
    """

    runs: Sequence[Mapping[str, Any]]
    table: Mapping[str, Any]

    def __post_init__(self):
        for run in self.runs:
            if not {"name", "config"} <= set(run) <= {"name", "config", "changes"}:
                raise ValueError(
                    f"a run has {', '.join(run)}; it needs name and config, and may have "
                    "changes"
                )

    @property
    def names(self) -> list[str]:
        """Of the runs, in their order."""
        return [run["name"] for run in self.runs]

    def config(self, name: str, workdir: pathlib.Path) -> dict[str, Any]:
        """The plain config of one of the runs."""
        from training import config as configs

        run = self.runs[self.names.index(name)]
        changes = [
            (path, _filled(value, workdir)) for path, value in run.get("changes", ())
        ]
        return configs.load(run["config"], changes)

    def cells(self, workdir: pathlib.Path) -> list[list[float | None]]:
        """A row of values for each of the table's rows; None where there is none yet."""
        return [
            [
                _value(workdir / run.format(row=row), metric, factor)
                for _, run, metric, factor in self.table["columns"]
            ]
            for row in self.table["rows"]
        ]


def _filled(value: Any, workdir: pathlib.Path) -> Any:
    if isinstance(value, str):
        return value.replace("{workdir}", str(workdir))
    if isinstance(value, Mapping):
        return {key: _filled(item, workdir) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_filled(item, workdir) for item in value]
    return value


def _value(workdir: pathlib.Path, metric: str, factor: float) -> float | None:
    """The last value of a metric in a run's `metrics.jsonl`."""
    path, found = workdir / "metrics.jsonl", None
    if path.exists():
        for line in path.read_text().splitlines():
            found = json.loads(line).get(metric, found)
    return None if found is None else factor * found


def run(study: Study, workdir: pathlib.Path, only: str = "") -> int:
    """Makes the runs whose name `only` is found in; returns the exit code."""
    import jax

    from training import loop

    try:
        names = [name for name in study.names if re.search(only, name)]
    except re.error as error:
        raise RunError(f"--only={only} is no regular expression: {error}") from None
    if not names:
        raise RunError(f"--only={only} matches none of {', '.join(study.names)}")
    for i, name in enumerate(names, 1):
        if jax.process_index() == 0:
            print(f"run {i} of {len(names)}: {name}", flush=True)
        try:
            code = loop.train(study.config(name, workdir), workdir / name)
        except RunError as error:
            raise RunError(f"run {name}: {error}") from error
        if code:
            return code
        jax.clear_caches()  # the next run compiles anew; this one's programs are done
    return 0


def markdown(study: Study, workdir: pathlib.Path) -> str:
    """The table as Markdown, with two decimals; a dash where there is no value yet."""
    columns = [heading for heading, *_ in study.table["columns"]]
    lines = [
        [study.table.get("title", ""), *columns],
        ["---"] * (1 + len(columns)),
    ]
    for row, cells in zip(study.table["rows"], study.cells(workdir), strict=True):
        lines.append([row, *("-" if c is None else f"{c:.2f}" for c in cells)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write(config: Mapping[str, Any], workdir: pathlib.Path) -> None:
    """Keeps the study's config, so that the table can be printed from the folder alone."""
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / FILE).write_text(json.dumps(config, indent=2) + "\n")


def read(workdir: pathlib.Path) -> Study:
    """The study of a folder. Raises RunError if there is none."""
    path = workdir / FILE
    if not path.is_file():
        raise RunError(f"{workdir} holds no study: it has no {FILE}")
    return Study(**json.loads(path.read_text()))


def define_flags() -> flags.FlagHolder:
    """Defines this script's flags; returns that of the config."""
    flags.DEFINE_string(
        "workdir", None, "The study's folder. Default: runs/<config name>."
    )
    flags.DEFINE_string(
        "only", "", "Make the runs whose name this pattern is found in."
    )
    flags.DEFINE_bool("table", False, "Print the table of what is there, and stop.")
    return launch.define_config("The study: FILE.py or FILE.py:argument.")


def main(config_flag: flags.FlagHolder) -> int:
    from training import config as configs

    if FLAGS.table and FLAGS.workdir:
        print(markdown(read(pathlib.Path(FLAGS.workdir)), pathlib.Path(FLAGS.workdir)))
        return 0
    config = configs.plain(launch.read_config(config_flag))
    name = launch.run_name(launch.config_argument())
    workdir = pathlib.Path(FLAGS.workdir or f"runs/{name}")
    try:
        study = Study(**config)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the study: {error}") from error
    if not FLAGS.table:
        launch.set_up()
        write(config, workdir)
        code = run(study, workdir, FLAGS.only)
        if code:
            return code
    print(markdown(study, workdir))
    return 0


if __name__ == "__main__":
    holder = define_flags()
    launch.start(lambda: main(holder))
