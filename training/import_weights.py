"""Makes a run folder of a published weight file.

    python -m training.import_weights --config=configs/vit_imagenet.py:B/16,token \
        --weights=vit_base_patch16_224.safetensors --workdir=runs/vit_b16

`eval.py` accepts the folder, and `train.py` continues from it. Whose names the file uses
is found out. The room of the config's model (`vision`) brings the tables of names, in
its `import_weights`: `load_file(path)` and `convert(weights, variables, naming)`.
"""

import dataclasses
import importlib
import pathlib
from collections.abc import Mapping
from typing import Any

from absl import flags

from training import launch
from training.errors import RunError, first_line

FLAGS = flags.FLAGS


def define_flags() -> flags.FlagHolder:
    """Defines this script's flags; returns that of the config."""
    flags.DEFINE_string("weights", None, "A .safetensors or .npz file.")
    flags.DEFINE_string("workdir", None, "The run folder to make.")
    flags.DEFINE_string("naming", "auto", "Whose names the file uses: timm, google ...")
    return launch.define_config("The experiment whose model the weights are for.")


def import_weights(
    config: Mapping[str, Any],
    weights: pathlib.Path,
    workdir: pathlib.Path,
    naming: str = "auto",
) -> int:
    """Writes `workdir` as a run of `config` at step 0 with the file's weights.

    The config's datasets need not be there.

    Returns:
        The number of parameters.

    Raises:
        RunError: the file does not fit the model, naming every tensor that does not; or
            the folder already holds a run.
    """
    import jax

    from training import checkpoint, loop, parameters, smoke
    from training import config as configs
    from training.run import Run

    config = configs.plain(config)
    if (workdir / checkpoint.FOLDER).exists():
        raise RunError(f"{workdir} already holds a run; choose another --workdir")
    run = Run.from_config(smoke.synthetic(config))
    room = importlib.import_module(
        config["task"]["model"]["type"].split(".")[0] + ".import_weights"
    )
    template = {"params": run.shapes.params, **run.shapes.collections}
    try:
        tensors = room.load_file(weights)
        params, collections = room.convert(tensors, template, naming)
    except (ValueError, OSError) as error:
        raise RunError(first_line(error)) from error
    state = dataclasses.replace(
        run.init(),
        params=params,
        collections=collections,
        ema=None if run.shapes.ema is None else params,
    )
    loop.prepare_workdir(config, workdir)
    keeper = checkpoint.Checkpointer(workdir)
    keeper.save(0, jax.device_put(state, run.shardings))
    keeper.close()
    return parameters.count(params)


def main(config_flag: flags.FlagHolder) -> int:
    if FLAGS.weights is None or FLAGS.workdir is None:
        raise RunError("--weights=FILE and --workdir=DIR say what goes where")
    config = launch.read_config(config_flag)
    launch.set_up()
    count = import_weights(
        config, pathlib.Path(FLAGS.weights), pathlib.Path(FLAGS.workdir), FLAGS.naming
    )
    print(f"{FLAGS.workdir}: {count:,} parameters from {FLAGS.weights}")
    return 0


if __name__ == "__main__":
    holder = define_flags()
    launch.start(lambda: main(holder))
