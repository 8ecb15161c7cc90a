"""Evaluates a run from its folder alone.

    python eval.py --workdir=runs/vit_digits [--step=N|best|last] [--evals=eval,other]
    python eval.py --workdir=runs/mae_digits --evals_from=configs/linear_probe_digits.py
    python eval.py --workdir=runs/mae_digits --features=out.npz [--split=train] [--layer=L]

Prints the metrics of the run's own evaluators on one of its checkpoints, to the last
bit: what the run itself wrote for that step. Or runs those of another config, or exports
what the model makes of each example.
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
flags.DEFINE_string("evals_from", None, "A config whose evaluators to run instead.")
flags.DEFINE_string("features", None, "Write features to this .npz file, and stop.")
flags.DEFINE_string("split", None, "Another split for --features, 'train[:10%]' say.")
flags.DEFINE_string("layer", None, "A layer for --features, 'encoder/block_3' say.")


def main() -> int:
    if FLAGS.workdir is None:
        raise RunError("which run? --workdir=runs/NAME")
    if FLAGS.step not in ("best", "last") and not FLAGS.step.isdigit():
        raise RunError(f"--step={FLAGS.step} is neither a number, 'best' nor 'last'")

    launch.set_up()
    from training import evaluation, features

    workdir = pathlib.Path(FLAGS.workdir)
    step = int(FLAGS.step) if FLAGS.step.isdigit() else FLAGS.step
    if FLAGS.features:
        found = features.export(
            workdir,
            pathlib.Path(FLAGS.features),
            step=step,
            split=FLAGS.split,
            layer=FLAGS.layer,
            evals=FLAGS.evals,
            evals_from=FLAGS.evals_from,
        )
        print(f"{FLAGS.features}: features {list(found.values.shape)}", *found.fields)
        return 0
    evaluation.evaluate(
        workdir,
        step=step,
        names=FLAGS.evals,
        pictures=pathlib.Path(FLAGS.pictures) if FLAGS.pictures else None,
        evals_from=FLAGS.evals_from,
    )
    return 0


if __name__ == "__main__":
    launch.start(main)
