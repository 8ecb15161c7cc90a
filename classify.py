"""Names what is on pictures, with a trained model.

    python classify.py --workdir=runs/resnet_caltech101 cat.jpg dog.png [--step=N|best|last]
    python classify.py --weights=vit_base_patch16_224.safetensors \
        --config=configs/vit_imagenet.py:B/16,token cat.jpg [--naming=timm]

Prints the likeliest classes of every picture (`--top`, 5); `--out=FILE.png` draws them too.
A picture takes the way of the config's evaluation: decoded, resized and cropped as there.
Classes have the names of the task, of the data if it is there, or of `--labels=FILE`, one a
line, else numbers. Exit codes: 0, or 1 with one line that says what is wrong.
"""

import pathlib
from typing import Any

from absl import flags

from training import launch
from training.errors import RunError, first_line

FLAGS = flags.FLAGS


def define_flags() -> flags.FlagHolder:
    """Defines this script's flags; returns that of the config."""
    flags.DEFINE_string("weights", None, "A .safetensors or .npz file.")
    flags.DEFINE_string("naming", "auto", "Whose names the file uses: timm, google ...")
    flags.DEFINE_string("workdir", None, "A run's folder, runs/<config name> say.")
    flags.DEFINE_string("step", "last", "A step with a checkpoint, 'best' or 'last'.")
    flags.DEFINE_integer("top", 5, "How many classes of each picture.")
    flags.DEFINE_string("labels", None, "A file of the classes' names, one a line.")
    flags.DEFINE_string("out", None, "The .png file to draw the answers in.")
    return launch.define_config(
        "With --weights: the experiment whose model they are of."
    )


def main(config_flag: flags.FlagHolder, names: list[str]) -> int:
    _check_flags(names)
    if FLAGS.weights is not None:
        config = launch.read_config(config_flag)
    launch.set_up()
    from training import config as configs
    from vision import classification_report as report

    workdir = None if FLAGS.workdir is None else pathlib.Path(FLAGS.workdir)
    config = configs.plain(config) if workdir is None else configs.read(workdir)
    try:
        classifier = _classifier(config, workdir)
        images = [classifier.read(pathlib.Path(name)) for name in names]
        variables = _variables(classifier, images[0], workdir)
        answers = classifier.answer(variables, images, FLAGS.top)
    except ValueError as error:
        raise RunError(first_line(error)) from error
    classes = _class_names(config, classifier.task)
    _show(report.rows(names, answers, classes))
    if FLAGS.out:
        picture = report.draw(
            [pathlib.Path(name).name for name in names], answers, classes
        )
        try:
            report.write(pathlib.Path(FLAGS.out), picture)
        except OSError as error:
            raise RunError(f"cannot write {FLAGS.out}: {first_line(error)}") from error
    return 0


def _check_flags(names: list[str]) -> None:
    if (FLAGS.weights is None) == (FLAGS.workdir is None):
        raise RunError(
            "whose model? --workdir=runs/NAME, or --weights=FILE with --config=..."
        )
    if not names:
        raise RunError("no pictures; name their files: classify.py ... image.jpg")
    if FLAGS.top < 1:
        raise RunError(f"--top={FLAGS.top} must be at least 1")
    if FLAGS.out and pathlib.Path(FLAGS.out).suffix.lower() != ".png":
        raise RunError(f"--out={FLAGS.out} must end in .png")


def _classifier(config: dict[str, Any], workdir: pathlib.Path | None) -> Any:
    """Of the config only the task and the evaluation's transforms are built: the data may
    be gone."""
    from training import artifacts, compilation
    from training import config as configs
    from vision import classification_report as report

    if "task" not in config:
        raise RunError("the config has no task; is it a run's?")
    compilation.set_matmul_precision(config.get("matmul_precision"))
    data = report.evaluation_data(config)
    parts = {
        "task": config["task"],
        "transforms": data.get("transforms", ()),
        "features": _features(data["source"]),
    }
    parts = configs.build(artifacts.materialize(parts, workdir, read_only=True))
    stored = parts["features"].get(getattr(parts["task"], "image_key", "image"))
    try:
        return report.Classifier(parts["task"], parts["transforms"], stored)
    except TypeError as error:
        raise RunError(first_line(error)) from error


def _features(source: dict[str, Any]) -> dict[str, Any]:
    """Nodes of what a source declares, without the source; empty if it declares nothing."""
    from training import smoke
    from training.errors import ConfigError

    try:
        node = smoke.synthetic(source)
    except ConfigError:
        return {}
    while "features" not in node and "source" in node:
        node = node["source"]
    return node.get("features", {})


def _variables(
    classifier: Any, image: Any, workdir: pathlib.Path | None
) -> dict[str, Any]:
    """Parameters and other collections, of the run or of the file."""
    from training import variables
    from vision import import_weights

    if workdir is not None:
        return variables.read(workdir, variables.step_of(FLAGS.step))[1]
    template = classifier.template(image)
    try:
        tensors = import_weights.load_file(FLAGS.weights)
    except OSError as error:
        raise RunError(first_line(error)) from error
    params, collections = import_weights.convert(tensors, template, FLAGS.naming)
    return {"params": params, **collections}


def _class_names(config: dict[str, Any], task: Any) -> tuple[str, ...]:
    from training import config as configs
    from vision import classification_report as report

    if FLAGS.labels is not None:
        try:
            text = pathlib.Path(FLAGS.labels).read_text()
        except (OSError, ValueError) as error:
            raise RunError(
                f"cannot read {FLAGS.labels}: {first_line(error)}"
            ) from error
        return tuple(text.splitlines())
    source = report.evaluation_data(config)["source"]
    try:
        return report.class_names(task, configs.build(source, "source"))
    except RunError:  # the data is not here; its names are not needed
        return report.class_names(task)


def _show(rows: list[tuple[str, str, str]]) -> None:
    from training import tables

    tables.show("what is on the pictures", ("picture", "class", "probability"), rows)


if __name__ == "__main__":
    holder = define_flags()
    launch.start(lambda names: main(holder, names), arguments=True)
