"""Images per second of the ImageNet training transform, against tf.image and PIL.

    python benchmarks/input_pipeline.py [--data=DIR] [--rounds=5] [--out=FILE.json]

Every contestant decodes JPEG files that lie in memory, takes a random part (8 to 100 %
of the area, 3/4 to 4/3 in shape), resizes it to 224 x 224, flips it or not, and fills
uint8 batches of 128. They take turns for several rounds in one process, each with one
thread, and are compared by the images they make per second of processor time, which
other work on the machine disturbs little. Then our pipeline runs on one and on two
threads, compared by the clock: run that on an idle machine.

The files are the photographs of caltech101_mini where the folder of TFDS datasets
(--data, or TFDS_DATA_DIR) has them, and invented ones of ImageNet's average size. The
peers are optional: pip install tensorflow-cpu pillow.
"""

import argparse
import importlib.util
import io
import json
import math
import os
import pathlib
import platform
import statistics
import sys
import time
from collections.abc import Callable

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from data.features import Image
from data.pipeline import Pipeline
from data.sources import TFDS, Synthetic
from vision.transforms import RandomFlip, RandomResizedCrop

SIZE, BATCH = 224, 128
AREA, ASPECT_RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
TRANSFORMS = (RandomResizedCrop(SIZE, AREA, ASPECT_RATIO), RandomFlip())


class Files:
    """Encoded pictures in memory, as a source."""

    def __init__(self, files: list[bytes]):
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> dict:
        return {"image": self._files[index]}


def photographs(folder: str | None) -> list[bytes] | None:
    """The files of caltech101_mini, or None where they are not."""
    try:
        source = TFDS("caltech101_mini", "train", folder)
    except FileNotFoundError:
        return None
    return [source[i]["image"] for i in range(len(source))]


def invented(count: int = 300) -> list[bytes]:
    """Files of ImageNet's average size, about 375 x 500."""
    source = Synthetic({"image": Image(encoding="jpeg")}, count)
    return [source[i]["image"] for i in range(count)]


def ours(files: list[bytes]) -> Callable[[int], None]:
    """Our pipeline without threads, from source to batch."""

    def run(batches: int) -> None:
        pipeline = Pipeline(Files(files), TRANSFORMS, num_threads=0)
        made = pipeline.train_batches(batch_size=BATCH, seed=0)
        for _ in range(batches):
            assert next(made)["image"].shape == (BATCH, SIZE, SIZE, 3)

    return run


def with_pil(files: list[bytes]) -> Callable[[int], None]:
    """Pillow and numpy, as most PyTorch training does it."""
    from PIL import Image as PilImage

    draw = TRANSFORMS[0]

    def picture(rng: np.random.Generator) -> np.ndarray:
        data = files[rng.integers(len(files))]
        image = PilImage.open(io.BytesIO(data)).convert("RGB")
        box = draw.box(image.height, image.width, rng)
        place = (box.left, box.top, box.left + box.width, box.top + box.height)
        image = image.resize((SIZE, SIZE), PilImage.Resampling.BILINEAR, box=place)
        if rng.random() < 0.5:
            image = image.transpose(PilImage.Transpose.FLIP_LEFT_RIGHT)
        return np.asarray(image)

    def run(batches: int) -> None:
        rng = np.random.default_rng(0)
        for _ in range(batches):
            assert np.stack([picture(rng) for _ in range(BATCH)]).dtype == np.uint8

    return run


def with_tensorflow(files: list[bytes]) -> Callable[[int], None]:
    """tf.data and tf.image, decoding only the part, as most JAX training does it."""
    import tensorflow as tf

    def picture(data):
        shape = tf.image.extract_jpeg_shape(data)
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            shape,
            tf.zeros([0, 0, 4]),
            area_range=AREA,
            aspect_ratio_range=ASPECT_RATIO,
            min_object_covered=0,
            use_image_if_no_bounding_boxes=True,
        )
        place = tf.concat([begin[:2], size[:2]], axis=0)
        image = tf.image.decode_and_crop_jpeg(data, place, channels=3)
        image = tf.image.resize(image, [SIZE, SIZE])
        return tf.cast(tf.image.random_flip_left_right(image), tf.uint8)

    dataset = tf.data.Dataset.from_tensor_slices(files).repeat().map(picture)
    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    options.threading.max_intra_op_parallelism = 1
    options.autotune.enabled = False
    dataset = dataset.batch(BATCH).with_options(options)

    def run(batches: int) -> None:
        for batch in dataset.take(batches):
            assert batch.numpy().shape == (BATCH, SIZE, SIZE, 3)

    return run


def contestants(files: list[bytes]) -> dict[str, Callable[[int], None]]:
    """Those that are installed, by name."""
    found = {"ours": ours(files)}
    if importlib.util.find_spec("tensorflow"):
        found["tf.image"] = with_tensorflow(files)
    if importlib.util.find_spec("PIL"):
        found["PIL"] = with_pil(files)
    return found


def per_core(files: list[bytes], rounds: int, batches: int) -> dict[str, list[float]]:
    """Images per second of processor time: one figure for each round."""
    runners = contestants(files)
    for run in runners.values():
        run(1)
    speeds: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(rounds):
        for name, run in runners.items():
            began = time.process_time()
            run(batches)
            speeds[name].append(batches * BATCH / (time.process_time() - began))
    return speeds


def over_threads(files: list[bytes], rounds: int, batches: int) -> dict[int, float]:
    """Images per second by the clock, for one and two threads; the best round of each."""
    speeds = {1: 0.0, 2: 0.0}
    for _ in range(rounds):
        for count in (1, 2):
            pipeline = Pipeline(Files(files), TRANSFORMS, num_threads=count)
            with pipeline.train_batches(batch_size=BATCH, seed=0) as made:
                for _ in range(2 * count + 1):  # until what was loaded ahead is used up
                    next(made)
                began = time.perf_counter()
                for _ in range(batches):
                    next(made)
                seconds = time.perf_counter() - began
            speeds[count] = max(speeds[count], batches * BATCH / seconds)
    return speeds


def measure(files: list[bytes], rounds: int, batches: int) -> dict:
    """All figures for one set of files."""
    speeds = per_core(files, rounds, batches)
    threads = over_threads(files, rounds, 2 * batches)
    ours = statistics.median(speeds["ours"])
    return {
        "files": len(files),
        "mean_bytes": round(sum(map(len, files)) / len(files)),
        "images_per_core_second": speeds,
        "ours_over": {
            name: ours / statistics.median(rates)
            for name, rates in speeds.items()
            if name != "ours"
        },
        "images_per_second_by_threads": threads,
        "thread_scaling": threads[2] / threads[1],
    }


def show(name: str, found: dict) -> None:
    """Prints one set's table."""
    print(f"\n{name}: {found['files']} files of {found['mean_bytes'] / 1024:.0f} KiB")
    print(f"{'':12}{'images/s/core':>14}{'spread':>14}{'ours over it':>14}")
    for contestant, rates in found["images_per_core_second"].items():
        ratio = found["ours_over"].get(contestant, math.nan)
        spread = f"{min(rates):.0f}..{max(rates):.0f}"
        against = "" if math.isnan(ratio) else f"{ratio:.2f}"
        median = statistics.median(rates)
        print(f"{contestant:12}{median:>14.0f}{spread:>14}{against:>14}")
    for count, rate in found["images_per_second_by_threads"].items():
        print(f"our pipeline, {count} thread{'s' * (count > 1)}: {rate:.0f} images/s")
    print(f"two threads over one: {found['thread_scaling']:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help="folder of TFDS datasets")
    parser.add_argument(
        "--rounds", type=int, default=5, help="turns of each contestant"
    )
    parser.add_argument(
        "--batches", type=int, default=8, help=f"batches of {BATCH} in each turn"
    )
    parser.add_argument("--out", help="JSON file for the figures")
    arguments = parser.parse_args()
    sets = {
        "photographs": photographs(arguments.data),
        "invented, ImageNet's size": invented(),
    }
    results = {}
    for name, files in sets.items():
        if files is None:
            print("caltech101_mini not found: no photographs (see --data)")
            continue
        results[name] = measure(files, arguments.rounds, arguments.batches)
        show(name, results[name])
    if arguments.out:
        machine = {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        }
        content = {"machine": machine, "sets": results}
        pathlib.Path(arguments.out).write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
