"""Masked image modeling: a model guesses what hidden patches show, as pixels or as tokens.

Pixels: Z. Xie, Z. Zhang, Y. Cao, Y. Lin, J. Bao, Z. Yao, Q. Dai, H. Hu, "SimMIM: A Simple
Framework for Masked Image Modeling", 2021, https://arxiv.org/abs/2111.09886. Targets
normalised per patch: K. He et al., "Masked Autoencoders Are Scalable Vision Learners",
2021, https://arxiv.org/abs/2111.06377. Tokens: H. Bao, L. Dong, S. Piao, F. Wei, "BEiT: BERT
Pre-Training of Image Transformers", 2021, https://arxiv.org/abs/2106.08254.

Deviations: SimMIM hides ceil(ratio * cells), here int(ratio * cells); BEiT's tokenizer sees
a smaller copy of the image, here the image itself.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from training.metrics import Mean, accuracy
from training.task import Batch
from vision import visualize
from vision.layers.patches import (
    PatchSize,
    patch_moments,
    patch_sequence,
    sides,
    unpatchify,
)
from vision.ops.masking import shuffling
from vision.tasks.image_task import ImageTask

DISTANCES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "l1": jnp.abs,
    "l2": jnp.square,
}


def random_mask(rng: jax.Array, batch_size: int, cells: int, hidden: int) -> jax.Array:
    """bool [B, cells]: `hidden` of each row are True, every choice equally likely."""
    _, place = shuffling(jax.random.uniform(rng, (batch_size, cells)))
    return place < hidden


@dataclasses.dataclass(frozen=True, kw_only=True)
class HiddenPatches(ImageTask):
    """Hides patches of each image; what shall be made of them is a subclass's business.

    Where a batch brings its own masks (`vision.masking.BlockwiseMask`), they hold. Else
    masks are drawn from `prepare`'s rng alone, in training and in evaluation.

    Args:
        model: a Linen module of (image, mask), mask bool [B, T], True where a patch is
            hidden; has a `patch_size`, of which T follows.
        mask_ratio: share of an image's cells that is hidden, rounded down.
        mask_patch_size: side of a cell in pixels, or (height, width); a multiple of the
            model's patches, and their size where None.
        mask_key: where the masks lie in a batch; not 'mask', which tells real rows from
            padding.
        mean, std, image_key: as in `ImageTask`.
    """

    mask_ratio: float = 0.6
    mask_patch_size: PatchSize | None = None
    mask_key: str = "patch_mask"

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.mask_ratio < 1:
            raise ValueError(
                f"mask_ratio is {self.mask_ratio}; it must lie between 0 and 1, both "
                "excluded"
            )
        if self.mask_key == "mask":
            raise ValueError(
                "mask_key is 'mask', which marks real rows; give the patches' another name"
            )

    def check(self, batch: Batch) -> None:
        """Raises a one-line ValueError for images that cannot be cut and hidden."""
        super().check(batch)
        shape = np.shape(batch[self.image_key])
        grid = self._grid(shape)
        if self.mask_key not in batch:
            self._cells(shape)
        elif np.shape(batch[self.mask_key]) != (shape[0], grid[0] * grid[1]):
            raise ValueError(
                f"{self.mask_key} has shape {np.shape(batch[self.mask_key])} for "
                f"{shape[0]} images of {grid[0]}x{grid[1]} patches; give one value per patch"
            )

    def prepare(self, batch: Batch, *, rng: jax.Array, train: bool) -> Batch:
        """Normalises the images, and adds masks, bool [B, T], where there are none."""
        shape = batch[self.image_key].shape
        batch = super().prepare(batch, rng=rng, train=train)
        if self.mask_key in batch:
            return {**batch, self.mask_key: batch[self.mask_key].astype(bool)}
        rows, columns, height, width = self._cells(shape)
        hidden = int(self.mask_ratio * rows * columns)
        mask = random_mask(rng, shape[0], rows * columns, hidden)
        mask = mask.reshape(-1, rows, columns).repeat(height, 1).repeat(width, 2)
        return {**batch, self.mask_key: mask.reshape(shape[0], -1)}

    def inputs(self, batch: Batch) -> tuple:
        return batch[self.image_key], batch[self.mask_key]

    def _grid(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Patches per column and per row of an image."""
        (H, W), (P, Q) = shape[1:3], sides(self.model.patch_size)
        if H % P or W % Q:
            raise ValueError(
                f"images of {H}x{W} cannot be cut into patches of {P}x{Q}; choose a "
                "patch_size that divides both sides, or resize the images"
            )
        return H // P, W // Q

    def _cells(self, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
        """Cells per column and per row of an image, patches per column and row of a cell."""
        (h, w), (P, Q) = self._grid(shape), sides(self.model.patch_size)
        M, N = sides(self.mask_patch_size or (P, Q))
        if M % P or N % Q or h % max(M // P, 1) or w % max(N // Q, 1):
            raise ValueError(
                f"mask_patch_size {M}x{N} does not fit images of {h * P}x{w * Q} in patches "
                f"of {P}x{Q}; it must be a multiple of the patch that divides the image"
            )
        height, width = M // P, N // Q
        cells = h // height * (w // width)
        if not 0 < int(self.mask_ratio * cells) < cells:
            raise ValueError(
                f"mask_ratio {self.mask_ratio} hides {int(self.mask_ratio * cells)} of "
                f"{cells} cells; hide at least one and not all"
            )
        return h // height, w // width, height, width

    def _counted(self, batch: Batch) -> jax.Array:
        """bool [B, T]: hidden patches of real rows."""
        hidden, mask = batch[self.mask_key], batch.get("mask")
        return hidden if mask is None else hidden & mask[:, None].astype(bool)

    def _real(self, batch: Batch) -> np.ndarray:
        """bool [B]: the rows to show."""
        return np.asarray(batch.get("mask", np.ones(len(batch[self.mask_key]), bool)))

    def _hidden_pixels(self, batch: Batch) -> np.ndarray:
        """bool [B, H, W, 1], on the host."""
        height, width = sides(self.model.patch_size)
        grid = self._grid(np.shape(batch[self.image_key]))
        hidden = np.asarray(batch[self.mask_key]).reshape(-1, *grid, 1)
        return hidden.repeat(height, 1).repeat(width, 2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedImageModeling(HiddenPatches):
    """SimMIM's objective: the distance to the pixels of hidden patches, averaged.

    Args:
        model: returns a struct with `prediction`, float [B, T, P * P * C]
            (`vision.models.simmim.SimMIM`).
        distance: 'l1' (absolute) or 'l2' (squared).
        normalize_target: each patch's pixels minus their mean, divided by their standard
            deviation, as targets.
        The others: as in `HiddenPatches`.
    """

    distance: str = "l1"
    normalize_target: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.distance not in DISTANCES:
            raise ValueError(
                f"distance is {self.distance!r}; known: {', '.join(DISTANCES)}"
            )

    def loss(self, outputs: Any, batch: Batch) -> tuple[jax.Array, dict[str, Mean]]:
        """Mean distance over the pixels of hidden patches; metric `loss`, which counts
        hidden patches."""
        counted = self._counted(batch)
        target = patch_sequence(batch[self.image_key], self.model.patch_size)
        if self.normalize_target:
            mean, std = patch_moments(target)
            target = (target - mean) / std
        # Exactly zero gradient for what does not count, even where it is not finite.
        prediction = outputs.prediction.astype(jnp.float32)
        difference = jnp.where(counted[..., None], prediction - target, 0)
        distance = DISTANCES[self.distance](difference).mean(-1)
        metrics = {"loss": Mean.of(distance, counted)}
        return metrics["loss"].compute(), metrics

    def pictures(self, outputs: Any, batch: Batch) -> dict[str, np.ndarray]:
        """`reconstructions`: per image what was seen, visible patches completed by the
        guess, and the truth."""
        real = self._real(batch)
        if not real.any():
            return {}
        image = np.asarray(batch[self.image_key], np.float32)
        hidden = self._hidden_pixels(batch)
        guess = np.asarray(outputs.prediction, np.float32)
        if self.normalize_target:
            mean, std = patch_moments(patch_sequence(image, self.model.patch_size))
            guess = guess * np.asarray(std) + np.asarray(mean)
        guess = guess.reshape(len(guess), *self._grid(image.shape), -1)
        guess = np.where(hidden, unpatchify(guess, self.model.patch_size), image)
        original = self.denormalize(image)
        picture = visualize.triplets(
            np.where(hidden, visualize.GREY, original).astype(np.uint8)[real],
            self.denormalize(guess)[real],
            original[real],
        )
        return {"reconstructions": picture}


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedTokenPrediction(HiddenPatches):
    """BEiT's objective: cross-entropy with the tokens of hidden patches, averaged.

    Args:
        model: returns a struct with `logits`, float [B, T, V], and has V as `vocab_size`
            (`vision.models.beit.BEiTPretraining`).
        tokenizer: float images in 0..1 [B, H, W, C] -> int [B, T], on the device, with the
            `vocab_size` of its tokens; a learned one holds its weights. If it has
            `colors`, tokens -> [..., C] in 0..1, tokens can be shown.
        mask_ratio: where a batch brings no masks; the paper's come from
            `vision.masking.BlockwiseMask`.
        The others: as in `HiddenPatches`.
    """

    tokenizer: Callable[[jax.Array], jax.Array]
    mask_ratio: float = 0.4

    def check(self, batch: Batch) -> None:
        """Raises a one-line ValueError also if tokens do not fit the model."""
        super().check(batch)
        V, known = self.tokenizer.vocab_size, self.model.vocab_size
        if V > known:
            raise ValueError(
                f"the tokenizer has {V} tokens, the model {known}; set model.vocab_size={V}"
            )
        shape = np.shape(batch[self.image_key])
        image = jax.ShapeDtypeStruct(shape, jnp.float32)
        tokens = jax.eval_shape(self.tokenizer, image).shape[1:]
        h, w = self._grid(shape)
        if tokens != (h * w,):
            raise ValueError(
                f"the tokenizer makes {tokens} tokens of an image of {h}x{w} patches; "
                "there must be one per patch"
            )

    def prepare(self, batch: Batch, *, rng: jax.Array, train: bool) -> Batch:
        """Normalises the images; adds masks where there are none, and `tokens`."""
        image = batch[self.image_key]
        if jnp.issubdtype(image.dtype, jnp.integer):
            image = image.astype(jnp.float32) / 255
        tokens = jax.lax.stop_gradient(self.tokenizer(image))
        return {**super().prepare(batch, rng=rng, train=train), "tokens": tokens}

    def loss(self, outputs: Any, batch: Batch) -> tuple[jax.Array, dict[str, Mean]]:
        """Mean cross-entropy over hidden patches; metrics `loss`, `accuracy`, which count
        hidden patches."""
        counted, tokens = self._counted(batch), batch["tokens"]
        logits = outputs.logits.astype(jnp.float32)
        # Exactly zero gradient for what does not count, even where it is not finite.
        logits = jnp.where(counted[..., None], logits, 0)
        own = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
        cross_entropy = jax.nn.logsumexp(logits, axis=-1) - own
        metrics = {
            "loss": Mean.of(cross_entropy, counted),
            "accuracy": accuracy(logits, tokens, counted),
        }
        return metrics["loss"].compute(), metrics

    def pictures(self, outputs: Any, batch: Batch) -> dict[str, np.ndarray]:
        """`tokens`: per image what was seen, visible patches completed by the likeliest
        tokens' colours, and the truth; nothing where tokens have no colours."""
        real = self._real(batch)
        if not real.any() or not hasattr(self.tokenizer, "colors"):
            return {}
        original = self.denormalize(np.asarray(batch[self.image_key], np.float32))
        guess = self.tokenizer.colors(np.asarray(outputs.logits, np.float32).argmax(-1))
        guess = np.round(255 * np.asarray(guess)).astype(np.uint8)
        height, width = sides(self.model.patch_size)
        guess = guess.reshape(len(guess), *self._grid(original.shape), -1)
        guess = guess.repeat(height, 1).repeat(width, 2)
        hidden = self._hidden_pixels(batch)
        picture = visualize.triplets(
            np.where(hidden, visualize.GREY, original).astype(np.uint8)[real],
            np.where(hidden, guess, original)[real],
            original[real],
        )
        return {"tokens": picture}
