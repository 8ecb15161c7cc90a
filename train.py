"""Trains the experiment of a config file.

    python train.py --config=configs/vit_digits.py [--workdir=DIR] [--config.key=value ...]

A run started again in the same workdir continues where it stopped. Exit codes: 0
finished, 1 an error (one line says which), 75 stopped by SIGTERM with the state saved
(requeue it), 130 stopped by Ctrl-C, likewise.
"""

import pathlib
import tempfile

from absl import flags

from training import launch
from training.errors import RunError

FLAGS = flags.FLAGS
CONFIG = launch.define_config("The experiment: FILE.py or FILE.py:argument.")
flags.DEFINE_string("workdir", None, "The run's folder. Default: runs/<config name>.")
flags.DEFINE_bool(
    "smoke", False, "Would it run here? Two steps on synthetic data of the same spec."
)
flags.DEFINE_bool(
    "plan", False, "Compile only: parameters, FLOPs, memory, communication, remedies."
)
flags.DEFINE_bool("list", False, "Every config with its description and its result.")
flags.DEFINE_string("profile", None, "FIRST:COUNT, trace those steps.")


def main() -> int:
    if FLAGS.list:
        from training import tables

        rows = [(p.stem, *launch.describe_config(p)) for p in launch.config_files()]
        tables.show("configs", ("config", "experiment", "result"), rows)
        return 0
    config = launch.read_config(CONFIG)
    profiler = _profiler_window()
    launch.set_up()
    from training import config as configs
    from training import loop

    config = configs.plain(config)
    if FLAGS.plan:
        from training import plan

        return plan.show(config)
    if FLAGS.smoke:
        from training import smoke

        with tempfile.TemporaryDirectory() as folder:
            return loop.train(smoke.shrink(config), pathlib.Path(folder))
    name = launch.run_name(launch.config_argument())
    workdir = pathlib.Path(FLAGS.workdir or f"runs/{name}")
    return loop.train(config, workdir, profile=profiler)


def _profiler_window() -> tuple[int, int] | None:
    """--profile=FIRST:COUNT as numbers."""
    if FLAGS.profile is None:
        return None
    first, _, count = FLAGS.profile.partition(":")
    if not (first.isdigit() and count.isdigit() and int(first) and int(count)):
        raise RunError(
            f"--profile={FLAGS.profile}: write FIRST:COUNT, for example --profile=20:5"
        )
    return int(first), int(count)


if __name__ == "__main__":
    launch.start(main)
