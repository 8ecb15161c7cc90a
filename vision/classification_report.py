"""What a trained classifier says of pictures from files: classes, probabilities, a drawing.

A file is brought to what a record of the config's evaluation would hold, and from there on
goes through the transforms of that evaluation, so that the model sees what it was
evaluated on.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import flax.errors
import jax
import numpy as np

from vision import visualize
from vision.decode import decode
from vision.tasks.classification import Classification
from vision.transforms import resize

# A picture that is so many times longer than wide is stretched to millions of pixels by a
# transform that fixes its shorter side.
_LONGEST = 200
_BAR, _INK = (198, 219, 239), (30, 30, 30)


class ImageError(ValueError):
    """A picture cannot be classified; the text is one line that names the file."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """The likeliest classes of one picture, the likeliest first.

    Args:
        image: uint8 [H, W, C], as the model saw it.
        classes: k class numbers.
        probabilities: of each, in 0..1.
    """

    image: np.ndarray
    classes: tuple[int, ...]
    probabilities: tuple[float, ...]


def evaluation_data(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The pipeline's node of the first evaluator that has one: its source and transforms.

    Raises:
        ValueError: no evaluator has any.
    """
    for node in config.get("evals", {}).values():
        if isinstance(node, Mapping) and "data" in node:
            return node["data"]
    raise ValueError(
        "no evaluator of the config has data, whose transforms the pictures would take"
    )


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A task and how its evaluation reads pictures.

    Args:
        task: a `Classification`.
        transforms: those of the evaluation.
        stored: the `data.features.Image` that the source declares for its pictures; None
            if it declares none.

    Raises:
        TypeError: the task is another one.
    """

    task: Any
    transforms: Sequence[Any] = ()
    stored: Any = None

    def __post_init__(self):
        if not isinstance(self.task, Classification):
            raise TypeError(
                f"{type(self.task).__name__} names no classes; take a run whose task is a "
                "Classification"
            )

    def read(self, path: pathlib.Path) -> np.ndarray:
        """The picture of a file as the model's task gets it: uint8 [H, W, C].

        Raises:
            ImageError: there is no such file, or it holds no picture that can be used.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ImageError(f"{path}: {error.strerror or error}") from error
        try:
            example = {self.task.image_key: self._as_stored(data), "label": 0}
            for transform in self.transforms:
                example = transform(example, np.random.default_rng(0))
            image = example[self.task.image_key]
            if isinstance(image, bytes):
                image = decode(image)
            self.task.check(self._batch(image))
        except (ValueError, TypeError, KeyError, MemoryError, cv2.error) as error:
            raise ImageError(f"{path}: {_first_line(error)}") from error
        return image

    def _as_stored(self, data: bytes) -> bytes | np.ndarray:
        """As a record of the source: encoded, or of the size that all its pictures have."""
        stored = self.stored
        pixels = decode(data, stored.channels if stored is not None else 3)
        height, width = pixels.shape[:2]
        if max(height, width) > _LONGEST * min(height, width):
            raise ValueError(
                f"the picture is {height} x {width}, more than {_LONGEST} times as long as "
                "wide; crop it first"
            )
        if stored is None or stored.height is None or stored.width is None:
            encoded = stored is None or stored.encoding is not None
            return data if encoded else pixels
        return _cover(pixels, stored.height, stored.width)

    def _batch(self, image: np.ndarray) -> dict[str, np.ndarray]:
        label = np.zeros(1, np.int32)
        return {self.task.image_key: image[None], self.task.label_key: label}

    def template(self, image: np.ndarray) -> dict[str, Any]:
        """The shapes of the model's variables for pictures like this one.

        Raises:
            ImageError: the model cannot take it.
        """
        batch = self._batch(image)
        init = functools.partial(self.task.init, jax.random.key(0))
        params, collections = _tried(jax.eval_shape, image, init, batch)
        return {"params": params, **collections}

    def answer(
        self, variables: Mapping[str, Any], images: Sequence[np.ndarray], top: int = 5
    ) -> list[Answer]:
        """Classifies pictures, each by itself.

        Args:
            variables: 'params' and other collections.
            images: what `read` returned.
            top: how many classes; all there are if fewer.

        Raises:
            ImageError: the model cannot take a picture.
            ValueError: what it says is not finite.
        """
        collections = dict(variables)
        params = collections.pop("params")

        @jax.jit
        def scores(params, collections, batch):
            outputs, _, _ = self.task.apply(
                params, collections, batch, rng=jax.random.key(0), train=False
            )
            return self._probabilities(outputs)

        answers = []
        for image in images:
            found = _tried(scores, image, params, collections, self._batch(image))
            found = np.asarray(found, np.float64)[0]
            if not np.isfinite(found).all():
                raise ValueError(
                    "the model's probabilities are not finite; are its weights sound?"
                )
            best = np.argsort(-found, kind="stable")[:top]
            answers.append(Answer(image, tuple(best.tolist()), tuple(found[best])))
        return answers

    def _probabilities(self, outputs: Any) -> jax.Array:
        """float32 [B, K]; a capsule's length is the probability of its class."""
        if hasattr(outputs, "lengths"):
            return outputs.lengths.astype("float32")
        logits = getattr(outputs, "logits", outputs).astype("float32")
        function = jax.nn.sigmoid if self.task.sigmoid else jax.nn.softmax
        return function(logits)


def class_names(task: Any, source: Any = None) -> tuple[str, ...]:
    """Those of a task, or else of a built source (`classes`); none if neither has any."""
    while not hasattr(source, "classes") and hasattr(source, "source"):
        source = source.source
    return tuple(task.class_names) or tuple(getattr(source, "classes", ()))


def rows(
    names: Sequence[str], answers: Sequence[Answer], classes: Sequence[str] = ()
) -> list[tuple[str, str, str]]:
    """A table's rows: (picture, class, probability), the picture's name on its first.

    Args:
        names: of the pictures.
        answers: of each.
        classes: names of classes; numbers where there are none.
    """
    found = []
    for name, answer in zip(names, answers, strict=True):
        pairs = zip(answer.classes, answer.probabilities, strict=True)
        for i, (label, probability) in enumerate(pairs):
            text = visualize.label_name(label, classes)
            found.append((name if i == 0 else "", text, f"{100 * probability:.2f} %"))
    return found


def draw(
    names: Sequence[str],
    answers: Sequence[Answer],
    classes: Sequence[str] = (),
    *,
    size: int = 224,
) -> np.ndarray:
    """Every picture as the model saw it, above bars for its likeliest classes.

    Args:
        names, answers, classes: as for `rows`.
        size: side of one picture in pixels.

    Returns:
        uint8 [H, W, 3].
    """
    tiles = []
    for name, answer in zip(names, answers, strict=True):
        parts = [
            visualize.caption(name, size),
            visualize.fit(visualize.as_rgb(answer.image), size),
        ]
        for label, probability in zip(
            answer.classes, answer.probabilities, strict=True
        ):
            text = visualize.label_name(label, classes)
            parts.append(_bar(text, probability, size))
        tiles.append(np.concatenate(parts))
    return visualize.grid(tiles, gap=8)


def write(path: pathlib.Path, picture: np.ndarray) -> None:
    """Writes a picture, uint8 [H, W, 3], as PNG. Raises OSError if it cannot."""
    _, encoded = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    path.write_bytes(encoded.tobytes())


def _bar(text: str, share: float, width: int) -> np.ndarray:
    """A line with a class's name at its left, its probability at its right and behind
    both a bar of that length: uint8 [22, width, 3]."""
    number = f"{100 * share:.1f}%"
    right = 62
    line = np.concatenate(
        [
            visualize.caption(
                text, width - right, color=_INK, background=visualize.WHITE
            ),
            visualize.caption(number, right, color=_INK, background=visualize.WHITE),
        ],
        axis=1,
    )
    filled = round(width * min(max(share, 0.0), 1.0))
    line[:, :filled] = np.minimum(line[:, :filled], np.uint8(_BAR))
    return line


def _cover(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """The middle of a picture, scaled to fill uint8 [height, width, C]."""
    scale = max(height / pixels.shape[0], width / pixels.shape[1])
    size = tuple(
        max(least, round(side * scale))
        for side, least in zip(pixels.shape[:2], (height, width), strict=True)
    )
    pixels = resize(pixels, size, "area")
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return pixels[top : top + height, left : left + width]


def _tried(function: Any, image: np.ndarray, *arguments: Any) -> Any:
    """A call that traces the model. Raises ImageError if it cannot take the picture."""
    try:
        return function(*arguments)
    except (ValueError, TypeError, flax.errors.FlaxError) as error:
        height, width, channels = image.shape
        raise ImageError(
            f"the model cannot take a picture of {height} x {width} and {channels} "
            f"channels: {_first_line(error)}"
        ) from error


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
