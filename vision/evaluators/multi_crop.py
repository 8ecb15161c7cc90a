"""Ten crops, and ten crops at several sizes: the testing protocols of the first networks.

Four corners and the middle, each also mirrored, and the mean of the ten probabilities: A.
Krizhevsky, I. Sutskever, G. Hinton, "ImageNet Classification with Deep Convolutional
Neural Networks", 2012; at several sizes too: K. He, X. Zhang, S. Ren, J. Sun, "Deep
Residual Learning for Image Recognition", 2015, https://arxiv.org/abs/1512.03385, and K.
Simonyan, A. Zisserman, 2014, https://arxiv.org/abs/1409.1556, whose figures are for
shorter sides of 224, 256, 384, 480 and 640 pixels, and 256, 384 and 512.

Deviation: batches have one shape, so that the crops are those of a middle square (whatever
the data's transforms leave), not of the whole picture; the authors' networks for several
sizes are convolutional all over the picture.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from training import metrics as metric_types
from training.errors import RunError
from training.evaluation import Batches, Report
from training.metrics import Mean, accuracy

_LAYOUTS = ("ten", "five", "center")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiCrop:
    """Top-1 and top-5 accuracy of the mean probability over several views of an image.

    Metrics `accuracy` and, beyond 5 classes, `top5_accuracy`; and `views`, how many there
    are. Every view is cut, resized and classified on the device, one after the other in
    one compiled loop: memory is that of one view.

    Args:
        data: a pipeline with `eval_batches`, of images [H, W, C] that are as large as
            the largest crop wants them, a `Resize` and `CenterCrop` to 256 say.
        crop: pixels along the side of what the model sees.
        sizes: shorter sides that images are resized to before they are cut; empty takes
            them as they are.
        crops: 'ten'; 'five', the same not mirrored; 'center', one.
        batch_size: examples a step; None takes the training batch size.
        label_key: the field with one class per example.
    """

    data: Any
    crop: int
    sizes: Sequence[int] = ()
    crops: str = "ten"
    batch_size: int | None = None
    label_key: str = "label"

    def __post_init__(self):
        if self.crops not in _LAYOUTS:
            raise ValueError(
                f"crops is {self.crops!r}; there are: {', '.join(_LAYOUTS)}"
            )
        if self.crop < 1:
            raise ValueError(f"crop is {self.crop}; it must be positive")
        if self.sizes and min(self.sizes) < self.crop:
            raise ValueError(
                f"a size of {min(self.sizes)} has no crop of {self.crop}; take sizes of at "
                "least the crop"
            )

    def __call__(self, run: Any, state: Any) -> Report:
        """Classifies the whole split.

        Raises:
            RunError: images smaller than the crop, or labels that are not one class.
        """
        key = ("multi-crop", self.crop, tuple(self.sizes), self.crops, self.label_key)
        step = run.compile(self._step, key=key)
        totals, pending, number = None, None, 0
        size = self.batch_size or run.experiment.batch_size
        with Batches(self.data, run, size) as batches:
            for batch in batches:
                number = len(self._views_of(run, batch))
                found = step(state, batch)
                if pending is not None:  # read one step behind the device
                    totals = metric_types.merge(totals, metric_types.on_host(pending))
                pending = found
            totals = metric_types.merge(totals, metric_types.on_host(pending))
            skipped = batches.skipped
        return Report({**metric_types.compute(totals), "views": number}, {}, skipped)

    def _views_of(self, run: Any, batch: Any) -> np.ndarray:
        label = batch.get(self.label_key)
        if label is None or label.ndim != 1:
            raise RunError(
                f"{self.label_key!r} is not one class per example; set label_key to such "
                "a field"
            )
        image = batch[run.experiment.task.image_key]
        return views(image.shape[1:3], self.crop, self.sizes, self.crops)

    def _step(self, state: Any, batch: Any, *, task: Any) -> dict[str, Mean]:
        (image,) = task.plain_inputs(batch)
        table = views(image.shape[1:3], self.crop, self.sizes, self.crops)
        variables = {"params": state.eval_params, **state.collections}
        link = jax.nn.sigmoid if getattr(task, "sigmoid", False) else jax.nn.softmax

        def add(total, view):
            part = cut(image, view, self.crop)
            logits = task.model.apply(variables, part, train=False)
            return total + link(logits.astype(jnp.float32)), None

        shape = (len(image), task.model.num_classes)
        total, _ = jax.lax.scan(add, jnp.zeros(shape), table)
        label, mask = batch[self.label_key], batch.get("mask")
        # The mean's order is that of the sum.
        found = {"accuracy": accuracy(total, label, mask)}
        if shape[1] > 5:
            found["top5_accuracy"] = accuracy(total, label, mask, k=5)
        return found


def views(
    shape: tuple[int, int], crop: int, sizes: Sequence[int] = (), crops: str = "ten"
) -> np.ndarray:
    """The parts of an image to look at.

    Args:
        shape: (height, width) of the image.
        crop: pixels along a side of a part.
        sizes: shorter sides of the image to take parts of; empty: as it is.
        crops: 'ten', 'five' or 'center'.

    Returns:
        float32 [V, 5]: for each view the factors (down, right) that the image is enlarged
        by, the first row and column of the part, and 1 if it is mirrored, else 0.

    Raises:
        RunError: the image is smaller than the crop.
    """
    rows = []
    for size in sizes or (min(shape),):
        height, width = (max(size, round(n * size / min(shape))) for n in shape)
        down, right = height - crop, width - crop
        if min(down, right) < 0:
            raise RunError(
                f"an image of {shape[0]} x {shape[1]} has no crop of {crop}; resize to "
                "more, or take a smaller crop"
            )
        middle = (down // 2, right // 2)
        places = [(0, 0), (0, right), (down, 0), (down, right), middle]
        places = places[-1:] if crops == "center" else places
        for mirrored in (0, 1) if crops == "ten" else (0,):
            scale = height / shape[0], width / shape[1]
            rows += [(*scale, top, left, mirrored) for top, left in places]
    return np.array(rows, np.float32)


def cut(image: jax.Array, view: jax.Array, crop: int) -> jax.Array:
    """One part of every image: float [B, H, W, C] -> [B, crop, crop, C].

    Args:
        image: normalised images.
        view: float32 [5], a row of `views`.
        crop: pixels along a side.
    """
    part = jax.image.scale_and_translate(
        image,
        (len(image), crop, crop, image.shape[-1]),
        spatial_dims=(1, 2),
        scale=view[:2],
        translation=-view[2:4],
        method="linear",  # of more than a pixel's neighbours where it reduces
        precision=jax.lax.Precision.HIGHEST,
    )
    return jnp.where(view[4] > 0, part[:, :, ::-1], part)
