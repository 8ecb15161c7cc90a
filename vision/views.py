"""Two views of a picture: the same random transforms, drawn twice.

For objectives that compare what a model makes of both, `vision.tasks.contrastive` say.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

Example = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class TwoViews:
    """Applies transforms twice to the same picture, one draw after the other.

    The picture itself leaves the example unless `out` is `key`: pictures of several
    sizes, or encoded ones, could not go into a batch. Of fields other than `key`, what
    transforms make of them is ignored.

    Args:
        transforms: `transform(example, rng) -> example`, applied in this order; they
            have to end in pictures of one size.
        key: the field they work on.
        out: the field of the result, uint8 [2, H, W, C].

    Raises:
        ValueError: no transforms (the views would be equal); when called, views of
            different shapes.
    """

    transforms: tuple[Callable[[Example, np.random.Generator], Example], ...]
    key: str = "image"
    out: str = "views"

    def __post_init__(self):
        if not self.transforms:
            raise ValueError("transforms is empty; two equal views teach nothing")

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        views = [self._view(example, rng) for _ in range(2)]
        if views[0].shape != views[1].shape:
            raise ValueError(
                f"views of shapes {views[0].shape} and {views[1].shape}; end the "
                "transforms in one size, by a RandomResizedCrop say"
            )
        rest = {name: value for name, value in example.items() if name != self.key}
        return {**rest, self.out: np.stack(views)}

    def _view(self, example: Example, rng: np.random.Generator) -> np.ndarray:
        for transform in self.transforms:
            example = transform(example, rng)
        return np.asarray(example[self.key])
