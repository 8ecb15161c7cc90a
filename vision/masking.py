"""Masks of image patches, drawn on the host with the example they belong to.

H. Bao, L. Dong, S. Piao, F. Wei, "BEiT: BERT Pre-Training of Image Transformers", 2021,
https://arxiv.org/abs/2106.08254, algorithm 1: hidden patches come in blocks, so that a
patch can rarely be guessed from its neighbours. Deviations: aspect ratios are uniform in
their logarithm, so that blocks lie and stand equally often; blocks that would hide more
than the wanted share are drawn again instead of kept.
"""

import dataclasses
import math
from typing import Any

import numpy as np

Example = dict[str, Any]

# So many draws in a row that hide nothing new, or too much, and the mask is full enough.
_PATIENCE = 10


@dataclasses.dataclass(frozen=True)
class BlockwiseMask:
    """Adds `mask_key`, bool [T]: True where a patch is hidden. Comes after the last crop.

    Args:
        patch_size: side of a patch in pixels; that of the model.
        mask_ratio: share of the patches that is hidden at most; it is rarely much less.
        min_patches: of a block, where so many are left to hide.
        min_aspect: height to width of a block lies between this and its inverse.
        key: the image, uint8 [H, W, C].
        mask_key: where to put the mask; what the task calls so.

    Raises:
        ValueError: a share or aspect outside (0, 1) or (0, 1]; when called, an image that
            patches do not tile or that has too few of them for one block.
    """

    patch_size: int = 16
    mask_ratio: float = 0.4
    min_patches: int = 16
    min_aspect: float = 0.3
    key: str = "image"
    mask_key: str = "patch_mask"

    def __post_init__(self):
        if not 0 < self.mask_ratio < 1:
            raise ValueError(
                f"mask_ratio is {self.mask_ratio}; it must lie between 0 and 1, both "
                "excluded"
            )
        if not 0 < self.min_aspect <= 1:
            raise ValueError(f"min_aspect is {self.min_aspect}; it must lie in (0, 1]")

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        H, W = example[self.key].shape[:2]
        if H % self.patch_size or W % self.patch_size:
            raise ValueError(
                f"an image of {H}x{W} cannot be cut into patches of {self.patch_size}; "
                "crop it before BlockwiseMask"
            )
        mask = np.zeros((H // self.patch_size, W // self.patch_size), bool)
        most = int(self.mask_ratio * mask.size)
        if not 0 < self.min_patches <= most:
            raise ValueError(
                f"min_patches is {self.min_patches}, but {self.mask_ratio} of "
                f"{mask.size} patches are {most}; choose one from 1 to that"
            )
        failures = 0
        while failures < _PATIENCE and (left := most - mask.sum()):
            block = self._block(mask.shape, max(left, self.min_patches), rng)
            new = block.area - mask[block.slices].sum()
            if 0 < new <= left:
                mask[block.slices] = True
                failures = 0
            else:
                failures += 1
        return {**example, self.mask_key: mask.reshape(-1)}

    def _block(
        self, grid: tuple[int, int], most: int, rng: np.random.Generator
    ) -> "_Block":
        area = rng.uniform(self.min_patches, most)
        limit = -math.log(self.min_aspect)
        aspect = math.exp(rng.uniform(-limit, limit))
        height = min(max(round(math.sqrt(area * aspect)), 1), grid[0])
        width = min(max(round(math.sqrt(area / aspect)), 1), grid[1])
        top = rng.integers(grid[0] - height + 1)
        left = rng.integers(grid[1] - width + 1)
        return _Block(top, left, height, width)


@dataclasses.dataclass(frozen=True)
class _Block:
    """A rectangle of patches."""

    top: int
    left: int
    height: int
    width: int

    @property
    def area(self) -> int:
        return self.height * self.width

    @property
    def slices(self) -> tuple[slice, slice]:
        rows = slice(self.top, self.top + self.height)
        return rows, slice(self.left, self.left + self.width)
