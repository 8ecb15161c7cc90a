"""Makes a weight file of a run, under the names of a published one.

    python -m training.export_weights --workdir=runs/vit_b16 --out=vit_b16.safetensors \
        [--naming=timm] [--step=N|best|last] [--noema]

Where there is no table of that name for the model, the error names those there are. The
moving average of the parameters is written where the run kept one. The room of the run's
model (`vision`) brings the tables, in its `import_weights`.
"""

import pathlib

from absl import flags

from training import launch
from training.errors import RunError, first_line

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines this script's flags."""
    flags.DEFINE_string("workdir", None, "The run's folder, runs/<config name> say.")
    flags.DEFINE_string("out", None, "The .safetensors file to write.")
    flags.DEFINE_string("naming", "timm", "Whose names to use: timm, torchvision ...")
    flags.DEFINE_string("step", "last", "A step with a checkpoint, 'best' or 'last'.")
    flags.DEFINE_bool("ema", True, "The moving average, where the run kept one.")


def export_weights(
    workdir: pathlib.Path,
    out: pathlib.Path,
    naming: str = "timm",
    *,
    step: int | str = "last",
    ema: bool = True,
) -> str:
    """Writes a `.safetensors` file of a run's parameters and statistics.

    Args:
        workdir: the run's folder; nothing is written to it.
        out: the file; one that is there is replaced.
        naming: whose names, a `Naming.name` or its first word.
        step: of the checkpoint: a number, 'last' or 'best'.
        ema: the moving average of the parameters where there is one.

    Returns:
        One line: what was written.

    Raises:
        RunError: no such run or step; no table of that name knows the model; a value is
            not finite; the file cannot be written.
    """
    from training import config as configs
    from training import variables
    from training.weight_files import room_of

    config = configs.read(workdir)
    step, tree = variables.read(workdir, step, ema=ema)
    try:
        room = room_of(config)
        name, tensors = room.export(tree.pop("params"), tree, naming)
        room.save_file(tensors, out)
    except ValueError as error:
        raise RunError(first_line(error)) from error
    except OSError as error:
        raise RunError(f"cannot write {out}: {first_line(error)}") from error
    numbers = sum(tensor.size for tensor in tensors.values())
    return (
        f"{out}: {len(tensors)} tensors, {numbers:,} numbers, of step {step} in the "
        f"naming {name!r}"
    )


def main() -> int:
    if FLAGS.workdir is None or FLAGS.out is None:
        raise RunError("--workdir=DIR and --out=FILE.safetensors say what goes where")
    launch.set_up()
    from training import variables

    line = export_weights(
        pathlib.Path(FLAGS.workdir),
        pathlib.Path(FLAGS.out),
        FLAGS.naming,
        step=variables.step_of(FLAGS.step),
        ema=FLAGS.ema,
    )
    print(line)
    return 0


if __name__ == "__main__":
    define_flags()
    launch.start(main)
