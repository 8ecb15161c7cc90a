"""Jigsaw puzzles: in which order were the tiles of this picture laid out?

Paper: M. Noroozi, P. Favaro, "Unsupervised Learning of Visual Representations by Solving
Jigsaw Puzzles", 2016, https://arxiv.org/abs/1603.09246. What would give the order away
without understanding is taken away: tiles are cut at random places within their cells
(edges do not continue), and each is normalised by itself (nor do shades).

Deviations: the first permutation is the identity, not a random one, and among candidates
with the same summed distance the one farthest from its nearest chosen one is taken (the
paper leaves ties open), so that the set is a function of its arguments. In evaluation an
example's permutation is a hash of its pixels: it stays the same whatever the batch.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from training.metrics import Mean, accuracy
from training.task import Batch
from vision import visualize
from vision.tasks.classification import softmax_cross_entropy
from vision.tasks.image_task import ImageTask

# 9! candidates are quickly searched, 16! never.
MAX_TILES = 9


@functools.lru_cache
def permutations(num_tiles: int, count: int, *, mode: str = "max") -> np.ndarray:
    """A set of permutations, far from each other or not, chosen greedily.

    The paper's algorithm 1: from all permutations, take again and again the one whose
    Hamming distances to those already taken have the largest sum.

    Args:
        num_tiles: N, 2..9.
        count: how many, 1..N!.
        mode: of the sums, take the largest ('max'), the one in the middle ('mean') or the
            smallest ('min'): the task grows harder in this order.

    Returns:
        int32 [count, N], all different, the identity first; read-only.

    Raises:
        ValueError: there are no such permutations.
    """
    if mode not in ("max", "mean", "min"):
        raise ValueError(f"mode is {mode!r}; known: max, mean, min")
    if not 2 <= num_tiles <= MAX_TILES:
        raise ValueError(
            f"{num_tiles} tiles; take 2 to {MAX_TILES}, a grid of 3 at most"
        )
    if not 1 <= count <= math.factorial(num_tiles):
        raise ValueError(
            f"{count} permutations of {num_tiles} tiles; there are 1 to "
            f"{math.factorial(num_tiles)}"
        )
    candidates = _all_permutations(num_tiles)
    columns = np.ascontiguousarray(candidates.T)
    total = np.zeros(len(candidates), np.int32)
    nearest = np.full(len(candidates), num_tiles, np.uint8)
    free = np.ones(len(candidates), bool)
    chosen = [0]
    while len(chosen) < count:
        last = candidates[chosen[-1]]
        free[chosen[-1]] = False
        distance = np.zeros(len(candidates), np.uint8)
        for column, value in zip(columns, last, strict=True):
            distance += column != value
        total += distance
        np.minimum(nearest, distance, out=nearest)
        chosen.append(_next(mode, total, nearest, free, num_tiles))
    found = candidates[chosen].astype(np.int32)
    found.flags.writeable = False
    return found


def _next(
    mode: str, total: np.ndarray, nearest: np.ndarray, free: np.ndarray, num_tiles: int
) -> int:
    """The first free candidate, in lexicographic order, that `mode` asks for."""
    if mode == "max":
        return int(np.where(free, total * (num_tiles + 1) + nearest, -1).argmax())
    taken = np.iinfo(np.int32).max
    sums = np.where(free, total, taken)
    if mode == "min":
        return int(sums.argmin())
    middle = free.sum() // 2
    return int((sums == np.partition(sums, middle)[middle]).argmax())


def _all_permutations(n: int) -> np.ndarray:
    """uint8 [n!, n] in lexicographic order."""
    if n == 1:
        return np.zeros((1, 1), np.uint8)
    rest = _all_permutations(n - 1)
    return np.concatenate(
        [np.insert(rest + (rest >= first), 0, first, axis=1) for first in range(n)]
    ).astype(np.uint8)


def cut(
    image: jax.Array, order: jax.Array, offset: jax.Array, *, grid: int, tile_size: int
) -> jax.Array:
    """Tiles of images, cell by cell in the given order.

    The cells are the grid x grid squares (or rectangles) of equal size in the middle of
    an image; pixels left over at the border belong to none.

    Args:
        image: [B, H, W, C].
        order: int32 [B, N], N = grid * grid: place n shows the tile of cell order[b, n],
            cells counted row by row.
        offset: int32 [B, N, 2]: (y, x) of place n's tile within its cell.

    Returns:
        [B, N, tile_size, tile_size, C].
    """
    _, height, width, channels = image.shape
    cell = np.array([height // grid, width // grid])
    margin = (np.array([height, width]) - grid * cell) // 2
    row_and_column = jnp.stack([order // grid, order % grid], axis=-1)
    start = margin + row_and_column * cell + offset

    def tile(image, start):
        size = (tile_size, tile_size, channels)
        return jax.lax.dynamic_slice(image, (start[0], start[1], 0), size)

    return jax.vmap(jax.vmap(tile, (None, 0)))(image, start)


def pixel_hash(image: jax.Array) -> jax.Array:
    """A number that depends on every pixel, and on nothing else: uint32 [B].

    Args:
        image: uint8 in 0..255 or float in 0..1 [B, H, W, C]; both give the same.
    """
    if not jnp.issubdtype(image.dtype, jnp.integer):
        image = jnp.round(255 * image)
    pixels = image.reshape(len(image), -1).astype(jnp.int32).astype(jnp.uint32)
    weights = _scramble(jnp.arange(1, pixels.shape[1] + 1, dtype=jnp.uint32))
    # Modulo 2^32, whatever the order of the sum.
    return _scramble((pixels * weights).sum(1, dtype=jnp.uint32))


def _scramble(x: jax.Array) -> jax.Array:
    """One to one on uint32; neighbours land far apart."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = (x ^ (x >> shift)) * jnp.uint32(factor)
    return x ^ (x >> 16)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Jigsaw(ImageTask):
    """Cross-entropy of which permutation the tiles of an image were laid out in.

    A prepared batch holds `tiles`, float32 [B, N, tile_size, tile_size, C], N = grid *
    grid, and `permutation`, int32 [B]: the row p of `permutations` by which place n shows
    the tile of cell p[n]. In evaluation tiles are cut from the middle of their cells.
    `represent` sees whole images, normalised by `mean` and `std`.

    Args:
        model: from tiles to logits [B, num_permutations], with that many as
            `num_permutations`; `vision.models.jigsaw.ContextFreeNetwork` is one.
        grid: cells along each axis, 2 or 3.
        tile_size: side of a tile; smaller than a cell by a gap within which it is cut at
            random. Without a gap the edges of neighbours fit, which makes it too easy.
        mode: of `permutations`.
        normalize_tiles: each tile, channel by channel, to mean 0 and deviation 1; else all
            by `mean` and `std`.
    """

    grid: int = 3
    tile_size: int
    mode: str = "max"
    normalize_tiles: bool = True

    def __post_init__(self):
        super().__post_init__()
        found = getattr(self.model, "num_permutations", None)
        if found is None:
            raise ValueError(
                f"the model {type(self.model).__name__} has no num_permutations; take "
                "vision.models.jigsaw.ContextFreeNetwork"
            )
        if self.tile_size < 1:
            raise ValueError(f"tile_size is {self.tile_size}; it must be positive")
        _ = self.permutations

    @property
    def permutations(self) -> np.ndarray:
        """int32 [K, N]: what there is to choose from."""
        return permutations(self.grid**2, self.model.num_permutations, mode=self.mode)

    def check(self, batch: Batch) -> None:
        """Raises a one-line ValueError for images that cannot be cut or trained on."""
        super().check(batch)
        self._gap(np.shape(batch[self.image_key]))

    def _gap(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Pixels by which cells of images [B, H, W, C] are higher and wider than tiles."""
        gap = tuple(side // self.grid - self.tile_size for side in shape[1:3])
        if min(gap) < 0:
            raise ValueError(
                f"images of {shape[1]}x{shape[2]} in {self.grid}x{self.grid} cells are too "
                f"small for tiles of {self.tile_size}; set task.tile_size to at most "
                f"{min(shape[1:3]) // self.grid}"
            )
        return gap

    def prepare(self, batch: Batch, *, rng: jax.Array, train: bool) -> Batch:
        """Cuts, shuffles and normalises: adds `tiles` and `permutation`.

        Raises:
            ValueError: the cells of the images are smaller than tiles.
        """
        image = batch[self.image_key]
        size, count = len(image), self.grid**2
        limits = jnp.asarray(self._gap(image.shape), jnp.int32)
        if train:
            label_rng, offset_rng = jax.random.split(rng)
            label = jax.random.randint(
                label_rng, (size,), 0, self.model.num_permutations
            )
            offset = jax.random.randint(offset_rng, (size, count, 2), 0, limits + 1)
        else:
            label = pixel_hash(image) % jnp.uint32(self.model.num_permutations)
            label = label.astype(jnp.int32)
            offset = jnp.broadcast_to(limits // 2, (size, count, 2))
        order = jnp.asarray(self.permutations)[label]
        tiles = cut(image, order, offset, grid=self.grid, tile_size=self.tile_size)
        tiles = self.normalize(tiles)
        if self.normalize_tiles:
            mean = tiles.mean((2, 3), keepdims=True)
            variance = jnp.square(tiles - mean).mean((2, 3), keepdims=True)
            tiles = (tiles - mean) * jax.lax.rsqrt(variance + 1e-5)
        return {**batch, "tiles": tiles, "permutation": label}

    def inputs(self, batch: Batch) -> tuple:
        return (batch["tiles"],)

    def loss(
        self, outputs: jax.Array, batch: Batch
    ) -> tuple[jax.Array, dict[str, Mean]]:
        """Mean cross-entropy; metrics `loss` and `accuracy` (chance is 1 / K)."""
        mask = batch.get("mask")
        logits = outputs.astype(jnp.float32)
        if mask is not None:
            # Exactly zero gradient for padding, even where its logits are not finite.
            logits = jnp.where(mask[:, None], logits, 0)
        label = batch["permutation"]
        target = jax.nn.one_hot(label, logits.shape[-1], dtype=jnp.float32)
        loss = Mean.of(softmax_cross_entropy(logits, target), mask)
        right = accuracy(logits, label, mask)
        return loss.compute(), {"loss": loss, "accuracy": right}

    def pictures(self, outputs: Any, batch: Batch) -> dict[str, np.ndarray]:
        """`puzzles`: the first images, as shuffled and as the guess puts them together."""
        label = np.asarray(batch["permutation"])
        real = np.asarray(batch.get("mask", np.ones(len(label), bool)))
        if not real.any():
            return {}
        tiles, label = np.asarray(batch["tiles"])[real], label[real]
        if self.normalize_tiles:
            tiles = visualize.denormalize(tiles, (0.5,), (0.25,))
        else:
            tiles = self.denormalize(tiles)
        guess = np.asarray(outputs, np.float32)[real].argmax(-1)
        pairs = []
        for shuffled, index in zip(tiles, guess, strict=True):
            solved = shuffled[np.argsort(self.permutations[index])]
            pairs.append(np.stack([self._puzzle(t) for t in (shuffled, solved)]))
        pairs = np.concatenate(np.stack(pairs, axis=1), axis=2)
        return {"puzzles": visualize.predictions(pairs, guess, label, size=224)}

    def _puzzle(self, tiles: np.ndarray) -> np.ndarray:
        """uint8 [N, h, w, C] as one picture with gaps, [H', W', 3]."""
        tiles = [visualize.as_rgb(tile) for tile in tiles]
        return visualize.grid(tiles, columns=self.grid, gap=1)
