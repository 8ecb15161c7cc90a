"""Evaluates a run from its folder alone.

    python eval.py --workdir=runs/vit_digits [--step=N|best|last] [--evals=eval,other]

Prints the metrics of the run's own evaluators on one of its checkpoints, to the last
bit: what the run itself wrote for that step.
"""

import pathlib

from absl import flags

from training import launch
from training.errors import RunError

FLAGS = flags.FLAGS
flags.DEFINE_string("workdir", None, "The run's folder, runs/<config name> say.")
flags.DEFINE_string("step", "last", "A step with a checkpoint, 'best' or 'last'.")
flags.DEFINE_list("evals", None, "Names of the evaluators to run. Default: all.")
flags.DEFINE_string("pictures", None, "Folder for what the evaluators show, as PNG.")


def main() -> int:
    if FLAGS.workdir is None:
        raise RunError("which run? --workdir=runs/NAME")
    if FLAGS.step not in ("best", "last") and not FLAGS.step.isdigit():
        raise RunError(f"--step={FLAGS.step} is neither a number, 'best' nor 'last'")

    launch.set_up()
    from training import evaluation

    evaluation.evaluate(
        pathlib.Path(FLAGS.workdir),
        step=int(FLAGS.step) if FLAGS.step.isdigit() else FLAGS.step,
        names=FLAGS.evals,
        pictures=pathlib.Path(FLAGS.pictures) if FLAGS.pictures else None,
    )
    return 0


if __name__ == "__main__":
    launch.start(main)
