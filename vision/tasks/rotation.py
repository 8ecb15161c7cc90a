"""Rotation prediction: by which of four angles was this picture turned?

Paper: S. Gidaris, P. Singh, N. Komodakis, "Unsupervised Representation Learning by
Predicting Image Rotations", 2018, https://arxiv.org/abs/1803.07728. Whoever can tell has
to know what stands upright, and so what there is to see: no labels are needed.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from training.metrics import Mean, accuracy
from training.task import Batch
from vision import visualize
from vision.tasks.classification import softmax_cross_entropy
from vision.tasks.image_task import ImageTask

NUM_ROTATIONS = 4
ANGLES = ("0 deg", "90 deg", "180 deg", "270 deg")


def quarter_turn(image: jax.Array) -> jax.Array:
    """Counter-clockwise by 90 degrees: [B, H, W, C] -> [B, W, H, C]."""
    return image.swapaxes(1, 2)[:, ::-1]


def half_turn(image: jax.Array) -> jax.Array:
    """By 180 degrees: [B, H, W, C], the same shape out."""
    return image[:, ::-1, ::-1]


def all_rotations(image: jax.Array) -> jax.Array:
    """Every image in its four rotations.

    Args:
        image: any dtype [B, S, S, C].

    Returns:
        [4 * B, S, S, C]: image 0 turned by 0, 90, 180, 270 degrees, then image 1, ...,
        so that the rows of an image stay on its device.
    """
    turned = quarter_turn(image)
    copies = (image, turned, half_turn(image), half_turn(turned))
    return jnp.stack(copies, axis=1).reshape(-1, *image.shape[1:])


def rotate(image: jax.Array, turns: jax.Array) -> jax.Array:
    """Each image by its own number of quarter turns, without indexing.

    Args:
        image: any dtype [B, S, S, C].
        turns: int32 [B], in 0..3, counter-clockwise.

    Returns:
        [B, S, S, C], the same values in other places.
    """
    turns = turns[:, None, None, None]
    image = jnp.where(turns % 2 == 1, quarter_turn(image), image)
    return jnp.where(turns >= 2, half_turn(image), image)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rotation(ImageTask):
    """Cross-entropy of a four-way classifier of square images turned on the device.

    Chance is 25 %; pictures that look alike after a half turn (the digits 0, 1 and 8, 6
    and 9) keep a model from 100 %. A prepared batch holds the turned images and their
    `rotation`, int32: quarter turns counter-clockwise. Evaluation always asks about all
    four, so that it is exact; `represent` sees images as they are.

    Args:
        model: any classifier with num_classes == 4.
        copies: what a training batch becomes. 'all', as in the paper: every image in its
            four rotations, 4 * B rows, at four times the cost. 'random': every image in
            one of them, B rows.
    """

    copies: str = "all"

    def __post_init__(self):
        super().__post_init__()
        if self.copies not in ("all", "random"):
            raise ValueError(f"copies is {self.copies!r}; known: all, random")
        found = getattr(self.model, "num_classes", None)
        if found != NUM_ROTATIONS:
            raise ValueError(
                f"the model has num_classes={found} for {NUM_ROTATIONS} rotations; "
                f"set model.num_classes={NUM_ROTATIONS}"
            )

    def check(self, batch: Batch) -> None:
        """Raises a one-line ValueError for images that cannot be turned or trained on."""
        super().check(batch)
        _check_square(np.shape(batch[self.image_key]))

    def prepare(self, batch: Batch, *, rng: jax.Array, train: bool) -> Batch:
        """Turns and normalises the images; adds `rotation`.

        With four copies every field follows its image, row by row: `mask` above all.

        Raises:
            ValueError: the images are not square.
        """
        image = batch[self.image_key]
        _check_square(image.shape)
        size = len(image)
        if train and self.copies == "random":
            turns = jax.random.randint(rng, (size,), 0, NUM_ROTATIONS)
            image = rotate(image, turns)
        else:
            turns = jnp.tile(jnp.arange(NUM_ROTATIONS), size)
            image = all_rotations(image)
            batch = {k: jnp.repeat(v, NUM_ROTATIONS, axis=0) for k, v in batch.items()}
        return {**batch, self.image_key: self.normalize(image), "rotation": turns}

    def loss(
        self, outputs: jax.Array, batch: Batch
    ) -> tuple[jax.Array, dict[str, Mean]]:
        """Mean cross-entropy; metrics `loss` and `accuracy`, both over turned images."""
        mask = batch.get("mask")
        logits = outputs.astype(jnp.float32)
        if mask is not None:
            # Exactly zero gradient for padding, even where its logits are not finite.
            logits = jnp.where(mask[:, None], logits, 0)
        target = jax.nn.one_hot(batch["rotation"], NUM_ROTATIONS, dtype=jnp.float32)
        loss = Mean.of(softmax_cross_entropy(logits, target), mask)
        right = accuracy(logits, batch["rotation"], mask)
        return loss.compute(), {"loss": loss, "accuracy": right}

    def pictures(self, outputs: Any, batch: Batch) -> dict[str, np.ndarray]:
        """`rotations`: the first images, turned, with the guess, green where it is right."""
        rotation = np.asarray(batch["rotation"])
        real = np.asarray(batch.get("mask", np.ones(len(rotation), bool)))
        if not real.any():
            return {}
        image = self.denormalize(np.asarray(batch[self.image_key])[real])
        guess = np.asarray(outputs, np.float32)[real].argmax(-1)
        picture = visualize.predictions(
            image, guess, rotation[real], class_names=ANGLES
        )
        return {"rotations": picture}


def _check_square(shape: tuple[int, ...]) -> None:
    if shape[1] != shape[2]:
        raise ValueError(
            f"images are {shape[1]}x{shape[2]} and change shape when turned; make them "
            "square, by a CenterCrop among the transforms"
        )
