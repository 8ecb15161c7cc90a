"""classify.py: what is on a picture, from a run or from a weight file, and what goes wrong."""

import functools
import json
import os
import pathlib
import subprocess
import sys
import types

import cv2
import jax
import numpy as np
import pytest
import simplejpeg

import classify
from data import sources
from training import config as configs
from training import errors
from training.import_weights import import_weights
from vision import classification_report as report
from vision import import_weights as room
from vision.decode import decode

ROOT = pathlib.Path(__file__).resolve().parent.parent
NAMES = ("ant", "bee", "cat", "dog", "elk", "fox", "gnu")
SIZE = 32
MODEL = {
    "type": "vision.models.vit.ViT",
    "num_classes": len(NAMES),
    "patch_size": 8,
    "embed_dim": 16,
    "num_layers": 1,
    "num_heads": 2,
    "mlp_dim": 16,
}


def config(transforms=None, image=None, **task):
    """An experiment on photographs that are nowhere."""
    if transforms is None:
        transforms = [
            {"type": "vision.transforms.Resize", "size": 40},
            {"type": "vision.transforms.CenterCrop", "size": SIZE},
        ]
    image = image or {"encoding": "jpeg"}
    source = {
        "type": "data.sources.ImageFolder",
        "root": "/nowhere",
        "features": {
            "image": {"type": "data.features.Image", **image},
            "label": {"type": "data.features.Label", "num_classes": len(NAMES)},
        },
    }
    data = {
        "type": "data.pipeline.Pipeline",
        "source": source,
        "transforms": transforms,
    }
    return {
        "task": {
            "type": "vision.tasks.classification.Classification",
            "model": MODEL,
            "class_names": NAMES,
            **task,
        },
        "optimizer": {"type": "optax.sgd", "learning_rate": 1e-3},
        "data": data,
        "evals": {"eval": {"type": "training.evaluation.Evaluation", "data": data}},
        "batch_size": 8,
        "total_steps": 2,
    }


@functools.cache
def trained():
    """(task, variables) whose probabilities are far from equal."""
    task = configs.build(config()["task"])
    image = np.zeros((1, SIZE, SIZE, 3), np.uint8)
    shapes = jax.eval_shape(
        task.init, jax.random.key(0), {"image": image, "label": np.zeros(1, int)}
    )
    rng = np.random.default_rng(3)
    draw = lambda x: rng.normal(size=x.shape, scale=0.4).astype(np.float32)
    return task, {"params": jax.tree.map(draw, shapes[0])}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A weight file, a config's file, a run's folder and pictures."""
    folder = tmp_path_factory.mktemp("classify")
    _, tensors = room.export(trained()[1]["params"], {}, "timm")
    room.save_file(tensors, folder / "vit.safetensors")
    text = f"from ml_collections import ConfigDict\n\n\ndef get_config():\n    return ConfigDict({config()!r})\n"
    (folder / "tiny.py").write_text(text)
    import_weights(config(), folder / "vit.safetensors", folder / "run")
    rng = np.random.default_rng(0)
    for name, shape in {"wide.png": (50, 90, 3), "tall.jpg": (130, 60, 3)}.items():
        coarse = rng.integers(0, 256, (4, 4, 3)).astype(np.uint8)
        cv2.imwrite(str(folder / name), cv2.resize(coarse, shape[1::-1]))
    return folder


def expected(path, size=40):
    """Probabilities, by hand: decode, shorter side, middle, model, softmax."""
    pixels = decode(path.read_bytes()).astype(np.float32)
    scale = size / min(pixels.shape[:2])
    height, width = (round(side * scale) for side in pixels.shape[:2])
    shrunk = scale < 1
    pixels = cv2.resize(
        pixels,
        (width, height),
        interpolation=cv2.INTER_AREA if shrunk else cv2.INTER_LINEAR,
    )
    top, left = (height - SIZE) // 2, (width - SIZE) // 2
    pixels = np.rint(pixels[top : top + SIZE, left : left + SIZE])
    task, variables = trained()
    logits = task.model.apply(variables, (pixels[None] / 255 - 0.5) / 0.5)
    return np.asarray(jax.nn.softmax(logits))[0]


@pytest.fixture
def call(monkeypatch, capsys):
    """classify.py in this process: its standard output, or its one-line error."""
    monkeypatch.setattr("training.launch.set_up", lambda: None)

    def call(*names, config=None, **values):
        defaults = dict.fromkeys(("weights", "workdir", "labels", "out"))
        defaults |= {"naming": "auto", "step": "last", "top": 5}
        chosen = {**defaults, **values}
        monkeypatch.setattr(classify, "FLAGS", types.SimpleNamespace(**chosen))
        monkeypatch.setattr("training.launch.read_config", lambda _: config)
        try:
            assert classify.main(None, [str(name) for name in names]) == 0
        except errors.RunError as error:
            assert "\n" not in str(error)
            return f"error: {error}"
        return capsys.readouterr().out

    return call


def table(out):
    """[(class, per cent)] of the lines printed."""
    lines = [line.split() for line in out.splitlines() if line.strip().endswith("%")]
    return [(line[-3], float(line[-2])) for line in lines]


@pytest.mark.parametrize("source", ["weights", "workdir"])
def test_the_five_likeliest_of_each_picture(folder, call, source):
    pictures = [folder / "wide.png", folder / "tall.jpg"]
    if source == "weights":
        out = call(*pictures, config=config(), weights=str(folder / "vit.safetensors"))
    else:
        out = call(*pictures, workdir=str(folder / "run"))
    found = table(out)
    assert len(found) == 10
    for i, path in enumerate(pictures):
        probabilities = expected(path)
        best = np.argsort(-probabilities)[:5]
        assert [name for name, _ in found[5 * i : 5 * i + 5]] == [
            NAMES[k] for k in best
        ]
        percents = [percent for _, percent in found[5 * i : 5 * i + 5]]
        np.testing.assert_allclose(percents, 100 * probabilities[best], atol=0.3)
        assert out.count(path.name) == 1


def test_names_and_numbers_of_classes(folder, call, tmp_path):
    arguments = {"weights": str(folder / "vit.safetensors"), "top": 99}
    picture, nameless = folder / "wide.png", config(class_names=())
    by_name = table(call(picture, config=config(), **arguments))
    assert len(by_name) == len(NAMES)
    by_number = table(call(picture, config=nameless, **arguments))
    assert [(NAMES[int(k)], p) for k, p in by_number] == by_name
    (tmp_path / "labels").write_text("\n".join(name.upper() for name in NAMES))
    labels = {"labels": str(tmp_path / "labels")}
    upper = table(call(picture, config=nameless, **arguments, **labels))
    assert upper == [(name.upper(), p) for name, p in by_name]
    # A folder of pictures names its classes.
    for name in NAMES:
        (tmp_path / "data" / f"the_{name}").mkdir(parents=True)
    (tmp_path / "data" / "the_ant" / "x.png").write_bytes(picture.read_bytes())
    nameless["evals"]["eval"]["data"]["source"]["root"] = str(tmp_path / "data")
    named = table(call(picture, config=nameless, **arguments))
    assert named == [(f"the_{name}", p) for name, p in by_name]


def test_a_dataset_names_its_classes(tfds_dir):
    source = sources.TFDS("cifar10", "test", tfds_dir)
    task = configs.build(config(class_names=())["task"])
    part = sources.Subset(source, 0.001)
    assert report.class_names(task, part)[:3] == ("airplane", "automobile", "bird")
    assert report.class_names(task, sources.Digits("test")) == ()
    assert report.class_names(trained()[0], source) == NAMES


def test_the_answers_are_drawn(folder, call, tmp_path):
    pictures = [folder / "wide.png", folder / "tall.jpg"]
    out = str(tmp_path / "answers.png")
    call(*pictures, workdir=str(folder / "run"), out=out)
    drawn = decode(pathlib.Path(out).read_bytes())
    tile = 224
    assert drawn.shape == (22 + tile + 5 * 22 + 16, 2 * tile + 3 * 8, 3)
    # What the model saw is there, and the longest bar is the first.
    seen = report.Classifier(*parts(config())).read(pictures[0])
    inner = drawn[8 + 22 : 8 + 22 + tile, 8 : 8 + tile]
    np.testing.assert_array_equal(inner[3::7, 3::7], seen)
    bars = drawn[8 + 22 + tile : -8, 8 : 8 + tile]
    blue = (bars.reshape(5, 22, tile, 3) == (198, 219, 239)).all(-1).any(1).sum(1)
    assert (np.diff(blue) <= 0).all()
    probabilities = np.sort(expected(pictures[0]))[::-1][:5]
    np.testing.assert_allclose(blue, tile * probabilities, atol=6)
    assert "must end in .png" in call(*pictures, workdir="x", out="x.jpg")
    out = str(tmp_path / "none" / "x.png")
    assert "cannot write" in call(*pictures, workdir=str(folder / "run"), out=out)


def parts(config):
    """(task, transforms, stored) as the script builds them."""
    classifier = classify._classifier(json.loads(json.dumps(config)), None)
    return classifier.task, classifier.transforms, classifier.stored


def test_a_photograph_becomes_what_a_source_of_arrays_holds(folder):
    """Grey digits of 8 x 8 say: scaled to fill them, the middle of the longer side."""
    image = {"height": 8, "width": 8, "channels": 1}
    read = report.Classifier(*parts(config([], image))).read
    assert read(folder / "wide.png").shape == (8, 8, 1)
    image = {"height": 32, "width": 32, "encoding": "png"}
    transforms = [{"type": "vision.transforms.Decode"}]
    seen = report.Classifier(*parts(config(transforms, image))).read(
        folder / "wide.png"
    )
    whole = decode((folder / "wide.png").read_bytes())
    middle = cv2.resize(whole, (58, 32), interpolation=cv2.INTER_AREA)[:, 13:45]
    np.testing.assert_array_equal(seen, middle)


def test_each_question_of_a_sigmoid_by_itself(folder):
    task = configs.build(config(sigmoid=True)["task"])
    _, variables = trained()
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    (answer,) = report.Classifier(task).answer(variables, [image], 7)
    logits = np.asarray(task.model.apply(variables, np.full((1, 32, 32, 3), -1.0)))[0]
    expected = np.sort(1 / (1 + np.exp(-logits)))[::-1]
    np.testing.assert_allclose(answer.probabilities, expected, rtol=1e-4)


# --- Pictures of every kind ---------------------------------------------------------------


def encoded(extension, pixels, *parameters):
    done, data = cv2.imencode(extension, pixels, parameters)
    assert done
    return data.tobytes()


# One grey pixel each of four, by hand: some libraries cannot write the format.
GIF = (
    b"GIF89a\x02\x00\x02\x00\x80\x00\x00\xff\x00\x00\x00\x00\xff"
    b",\x00\x00\x00\x00\x02\x00\x02\x00\x00\x02\x04\x04\x41\x10\x05\x00;"
)
BLUE = np.full((40, 40, 3), (200, 30, 10), np.uint8)  # of OpenCV: blue, green, red
WORKING = {
    "deep.png": (encoded(".png", BLUE.astype(np.uint16) * 257), (10, 30, 200)),
    "clear.png": (
        encoded(".png", np.dstack([BLUE, np.full((40, 40), 128, np.uint8)])),
        (10, 30, 200),
    ),
    "print.jpg": (
        # Ink is stored inverted, as all programs write it: no cyan, half black.
        simplejpeg.encode_jpeg(
            np.full((40, 40, 4), (255, 51, 102, 128), np.uint8),
            colorspace="CMYK",
            colorsubsampling="444",
        ),
        (128, 26, 51),
    ),
    "thin.png": (encoded(".png", BLUE[:, :1]), (10, 30, 200)),
    "dot.png": (encoded(".png", BLUE[:1, :1]), (10, 30, 200)),
    "grey.png": (encoded(".png", BLUE[..., 1]), (30, 30, 30)),
    "deep_grey.png": (
        encoded(".png", BLUE[..., 1].astype(np.uint16) * 256 + 7),
        (30, 30, 30),
    ),
    "jpeg_named.png": (
        encoded(".jpg", BLUE, cv2.IMWRITE_JPEG_QUALITY, 100),
        (10, 30, 200),
    ),
    "photo.webp": (
        encoded(".webp", BLUE, cv2.IMWRITE_WEBP_QUALITY, 101),
        (10, 30, 200),
    ),
}


@pytest.mark.parametrize("name", WORKING)
def test_unusual_pictures_are_seen_in_their_colours(name, tmp_path):
    data, color = WORKING[name]
    (tmp_path / name).write_bytes(data)
    seen = report.Classifier(*parts(config())).read(tmp_path / name)
    assert seen.shape == (SIZE, SIZE, 3) and seen.dtype == np.uint8
    assert np.abs(seen.astype(int) - color).max() <= 3


def test_a_gif_is_read_or_refused_in_one_line(tmp_path):
    (tmp_path / "x.gif").write_bytes(GIF)
    read = report.Classifier(*parts(config())).read
    try:
        assert read(tmp_path / "x.gif").shape == (SIZE, SIZE, 3)
    except report.ImageError as error:
        assert "x.gif: not a picture that can be decoded" in str(error)
        assert "\n" not in str(error)


BROKEN = {
    "text.jpg": (b"This is no picture.\n", "not a picture"),
    "empty.png": (b"", "not a picture"),
    "cut.jpg": (encoded(".jpg", BLUE)[:-40], "truncated JPEG"),
    "cut.png": (encoded(".png", BLUE)[:-40], "truncated PNG"),
    "strip.png": (
        encoded(".png", BLUE[:1, :1].repeat(201, 0)),
        "201 x 1, more than 200",
    ),
    "huge.png": (
        encoded(".png", BLUE).replace(b"\0\0\0(\0\0\0(", b"\x7f\xff\xff\xff" * 2),
        "not a picture",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_picture_is_one_line(name, folder, call, tmp_path):
    data, words = BROKEN[name]
    (tmp_path / name).write_bytes(data)
    message = call(folder / "wide.png", tmp_path / name, workdir=str(folder / "run"))
    assert message.startswith(f"error: {tmp_path / name}: ") and words in message


def test_files_that_are_not_there_are_one_line(folder, call, tmp_path):
    run = {"workdir": str(folder / "run")}
    assert "none.jpg: No such file" in call(tmp_path / "none.jpg", **run)
    assert "Is a directory" in call(tmp_path, **run)
    labels = str(tmp_path / "none")
    assert "cannot read" in call(folder / "wide.png", labels=labels, **run)


# --- Weight files of every kind -----------------------------------------------------------


def damaged(kind, tensors):
    tensors = {name: tensor.copy() for name, tensor in tensors.items()}
    if kind == "NaN":
        tensors["blocks.0.mlp.fc1.weight"][2, 3] = np.nan
    if kind == "classes":
        tensors["head.weight"] = np.zeros((9, 16), np.float32)
        tensors["head.bias"] = np.zeros(9, np.float32)
    if kind == "architecture":
        tensors = {
            "conv1.weight": np.zeros((64, 3, 7, 7), np.float32),
            "norm.weight": tensors["norm.weight"],
        }
    if kind == "larger":
        tensors["blocks.1.norm1.weight"] = tensors["norm.weight"]
    return tensors


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("NaN", ["not finite: blocks.0.mlp.fc1.weight"]),
        ("classes", ["head.weight is (9, 16), the model needs (7, 16)", "num_classes"]),
        ("architecture", ["conv1.weight", "another architecture"]),
        ("larger", ["unexpected: blocks.1.norm1.weight"]),
        ("truncated", ["cannot be read", "truncated"]),
        ("missing", ["no weight file"]),
        ("format", ["neither .safetensors nor .npz"]),
        ("naming", ["naming 'keras' is not known for this model; known: timm"]),
    ],
)
def test_weights_that_do_not_fit_are_one_line(kind, words, folder, call, tmp_path):
    path = tmp_path / ("x.pth" if kind == "format" else "x.safetensors")
    tensors = damaged(kind, room.load_file(folder / "vit.safetensors"))
    room.save_file(tensors, tmp_path / "x.safetensors")
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    if kind == "missing":
        path.unlink()
    naming = {"naming": "keras"} if kind == "naming" else {}
    message = call(folder / "wide.png", config=config(), weights=str(path), **naming)
    assert message.startswith("error: ")
    for word in words:
        assert word in message


def test_a_model_that_cannot_take_the_picture_is_one_line(folder, call):
    small = [{"type": "vision.transforms.Resize", "size": [20, 20]}]
    weights = str(folder / "vit.safetensors")
    message = call(folder / "wide.png", config=config(small), weights=weights)
    assert "cannot take a picture of 20 x 20 and 3 channels" in message
    # The run's positions are of 16 patches.
    task, variables = trained()
    with pytest.raises(report.ImageError, match="of 40 x 40 and 3"):
        report.Classifier(task).answer(variables, [np.zeros((40, 40, 3), np.uint8)])
    broken = jax.tree.map(lambda x: x * np.inf, variables)
    with pytest.raises(ValueError, match="not finite.*sound"):
        report.Classifier(task).answer(broken, [np.zeros((32, 32, 3), np.uint8)])


def test_configs_that_name_no_classes_are_one_line(folder, call, tmp_path):
    picture, weights = folder / "wide.png", str(folder / "vit.safetensors")
    other = config()
    other["task"] = {
        "type": "vision.tasks.rotation.Rotation",
        "model": {**MODEL, "num_classes": 4},
    }
    assert "Rotation names no classes" in call(picture, config=other, weights=weights)
    two = {"evals": {"other": {"type": "x.y"}, "eval": {"type": "z", "data": 3}}}
    assert report.evaluation_data(two) == 3
    without = config() | {"evals": {}}
    assert "no evaluator" in call(picture, config=without, weights=weights)
    assert "has no task" in call(picture, config={}, weights=weights)
    assert "is not a run" in call(picture, workdir=str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(config()))
    assert "no run with checkpoints" in call(picture, workdir=str(tmp_path))
    run = {"workdir": str(folder / "run")}
    assert "no checkpoint of step 7" in call(picture, step="7", **run)
    assert "--step=x" in call(picture, step="x", **run)


@pytest.mark.parametrize(
    ("names", "values", "words"),
    [
        (["x"], {}, "whose model?"),
        (["x"], {"weights": "a", "workdir": "b"}, "whose model?"),
        ([], {"workdir": "b"}, "no pictures"),
        (["x"], {"workdir": "b", "top": 0}, "--top=0"),
    ],
)
def test_wrong_flags_are_one_line(names, values, words, call):
    assert words in call(*names, **values)


def run(*arguments, code=0):
    """classify.py in a process of its own: its output and its errors."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "classify.py"), *map(str, arguments)],
        check=False,
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "1", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == code, done.stderr
    return done.stdout, done.stderr


def test_the_script_takes_files_between_flags(folder, tmp_path):
    out, _ = run(
        f"--weights={folder / 'vit.safetensors'}",
        folder / "wide.png",
        f"--config={folder / 'tiny.py'}",
        "--top=2",
        folder / "tall.jpg",
        f"--out={tmp_path / 'x.png'}",
    )
    assert len(table(out)) == 4 and (tmp_path / "x.png").is_file()


def test_a_mistake_is_one_line_and_a_failure(folder, tmp_path):
    (tmp_path / "x.jpg").write_text("hello")
    _, message = run(f"--workdir={folder / 'run'}", tmp_path / "x.jpg", code=1)
    assert message.startswith("error: ") and message.count("\n") == 1
