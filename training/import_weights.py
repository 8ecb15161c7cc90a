"""Makes a run folder of a published weight file.

    python -m training.import_weights --config=configs/vit_imagenet.py:B/16,token \
        --weights=vit_base_patch16_224.safetensors --workdir=runs/vit_b16

`eval.py` accepts the folder, and `train.py` continues from it. Whose names the file uses
is found out. The room of the config's model (`vision`) brings the tables of names, in
its `import_weights`: `load_file(path)` and `convert(weights, variables, naming)`.

Only on request, `--resize_positions` interpolates tables of positions of another image
or window size, and `--fresh_head` leaves the file's head out: for another number of classes.
`python -m training.export_weights` goes the other way.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from absl import flags

from training import launch
from training.errors import RunError, first_line

FLAGS = flags.FLAGS
# Every layer of the zoo that gives logits: head, distillation_head, auxiliary_0/head.
_HEADS = (r"(^|/)(\w+_)?head/",)


def define_flags() -> flags.FlagHolder:
    """Defines this script's flags; returns that of the config."""
    flags.DEFINE_string("weights", None, "A .safetensors or .npz file.")
    flags.DEFINE_string("workdir", None, "The run folder to make.")
    flags.DEFINE_string("naming", "auto", "Whose names the file uses: timm, google ...")
    flags.DEFINE_bool(
        "resize_positions", False, "Interpolate positions of another image or window."
    )
    flags.DEFINE_bool(
        "fresh_head", False, "Leave the file's head out; the model's own stays fresh."
    )
    return launch.define_config("The experiment whose model the weights are for.")


def import_weights(
    config: Mapping[str, Any],
    weights: pathlib.Path,
    workdir: pathlib.Path,
    naming: str = "auto",
    *,
    resize_positions: bool = False,
    fresh_head: bool = False,
) -> int:
    """Writes `workdir` as a run of `config` at step 0 with the file's weights.

    The config's datasets need not be there.

    Args:
        config: of the run to make.
        weights: a `.safetensors` or `.npz` file.
        workdir: the run's folder, not there yet.
        naming: whose names the file uses; 'auto' finds out.
        resize_positions: interpolate tables of positions that are of another size.
        fresh_head: layers called `head` keep the values of a new run.

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
    from training.weight_files import room_of

    config = configs.plain(config)
    if (workdir / checkpoint.FOLDER).exists():
        raise RunError(f"{workdir} already holds a run; choose another --workdir")
    run = Run.from_config(smoke.synthetic(config))
    room = room_of(config)
    try:
        params, collections = room.convert(
            room.load_file(weights),
            {"params": run.shapes.params, **run.shapes.collections},
            naming,
            fresh=_HEADS if fresh_head else (),
            adapters=room.POSITION_ADAPTERS if resize_positions else (),
        )
    except (ValueError, OSError) as error:
        raise RunError(first_line(error)) from error
    loop.prepare_workdir(config, workdir)
    state = _started(run.init(), params, collections)
    keeper = checkpoint.Checkpointer(workdir)
    keeper.save(0, jax.device_put(state, run.shardings))
    keeper.close()
    return parameters.count(state.params)


def _started(
    state: Any, params: Mapping[str, Any], collections: Mapping[str, Any]
) -> Any:
    """A new run's state with these values, and its own where there are none."""
    params = _filled(params, state.params)
    return dataclasses.replace(
        state,
        params=params,
        collections=_filled(collections, state.collections),
        ema=None if state.ema is None else params,
    )


def _filled(tree: Mapping[str, Any], whole: Mapping[str, Any]) -> dict[str, Any]:
    """`whole` with the leaves that `tree` has."""
    return {
        key: _filled(tree.get(key, {}), value)
        if isinstance(value, Mapping)
        else tree.get(key, value)
        for key, value in whole.items()
    }


def main(config_flag: flags.FlagHolder) -> int:
    if FLAGS.weights is None or FLAGS.workdir is None:
        raise RunError("--weights=FILE and --workdir=DIR say what goes where")
    config = launch.read_config(config_flag)
    launch.set_up()
    count = import_weights(
        config,
        pathlib.Path(FLAGS.weights),
        pathlib.Path(FLAGS.workdir),
        FLAGS.naming,
        resize_positions=FLAGS.resize_positions,
        fresh_head=FLAGS.fresh_head,
    )
    print(f"{FLAGS.workdir}: {count:,} parameters from {FLAGS.weights}")
    return 0


if __name__ == "__main__":
    holder = define_flags()
    launch.start(lambda: main(holder))
