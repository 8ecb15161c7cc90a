"""The variables of a trained run, for scripts that apply its model or pass it on."""

import pathlib
from typing import Any

from training import checkpoint, initialization
from training import config as configs
from training.errors import RunError, first_line


def read(
    workdir: pathlib.Path, step: int | str = "last", *, ema: bool = True
) -> tuple[int, dict[str, Any]]:
    """Parameters and other collections of a run's checkpoint.

    Args:
        workdir: the run's folder; nothing is written to it.
        step: a number, 'last' or 'best'.
        ema: take the moving average of the parameters if there is one, as evaluation does.

    Returns:
        (step, {'params': tree, 'batch_stats': tree, ...}), numpy arrays.

    Raises:
        RunError: no such run or checkpoint, or it is damaged.
    """
    if not (workdir / checkpoint.FOLDER).is_dir():
        raise RunError(f"{workdir} is no run with checkpoints; is the path right?")
    chosen = _best(workdir) if step == "best" else step
    try:
        found, arrays = initialization.read_arrays(workdir, chosen, ema=ema)
    except RunError as error:
        text = first_line(error).removeprefix("init_from: ")
        raise RunError(text.replace("init_from.step", "--step")) from error
    tree: dict[str, Any] = {}
    for (kind, path), value in arrays.items():
        *parents, name = [kind, *path.split("/")]
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return found, tree


def step_of(flag: str) -> int | str:
    """The value of `--step`. Raises RunError if it is none."""
    if flag in ("best", "last"):
        return flag
    if not flag.isdigit():
        raise RunError(f"--step={flag} is neither a number, 'best' nor 'last'")
    return int(flag)


def _best(workdir: pathlib.Path) -> int | str:
    config = configs.read(workdir)
    if config.get("best_metric") is None:
        raise RunError("the run names no best_metric, so no checkpoint is best")
    checkpointer = checkpoint.Checkpointer(
        workdir,
        best_metric=config["best_metric"],
        best_mode=config.get("best_mode", "max"),
        read_only=True,
    )
    try:
        return checkpointer.best() or "last"
    finally:
        checkpointer.close()
