"""Mixing of examples within a batch: inputs and targets are blended alike, on the device.

Papers: H. Zhang, M. Cisse, Y. N. Dauphin, D. Lopez-Paz, "mixup: Beyond Empirical Risk
Minimization", 2017, https://arxiv.org/abs/1710.09412; S. Yun, D. Han, S. J. Oh, S. Chun,
J. Choe, Y. Yoo, "CutMix: Regularization Strategy to Train Strong Classifiers with
Localizable Features", 2019, https://arxiv.org/abs/1905.04899.

Each example is mixed with its neighbour in the global batch (a roll by one), which is as
good as a random permutation where batches are shuffled and moves far less between devices.
One coefficient is drawn per batch, as both papers' code does.

Every mixing here is called `(image, target, *, rng, mask=None) -> (image, target)`:
  image: float [B, H, W, C].
  target: float [B, K]; the weight of every class, usually one-hot.
  rng: PRNG key; the same key gives the same result.
  mask: bool [B]; padding rows (False) are given to nobody.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

Mixing = Callable[..., tuple[jax.Array, jax.Array]]


def _partner(x: jax.Array) -> jax.Array:
    return jnp.roll(x, 1, axis=0)


def _kept_share(share: jax.Array, batch_size: int, mask: jax.Array | None) -> jax.Array:
    """float32 [B]: what each example keeps of itself; all of it beside a padding row."""
    share = jnp.full(batch_size, share, jnp.float32)
    return share if mask is None else jnp.where(_partner(mask), share, 1.0)


def blend(x: jax.Array, share: jax.Array) -> jax.Array:
    """share * x + (1 - share) * neighbour, for x: float [B, ...] and share: float [B].

    A neighbour of which nothing is taken has no influence, even if it is not finite.
    """
    share = share.reshape(share.shape + (1,) * (x.ndim - 1))
    taken = jnp.where(share < 1, _partner(x), 0)
    return (share * x + (1 - share) * taken).astype(x.dtype)


def random_box(rng: jax.Array, height: int, width: int, area: jax.Array) -> jax.Array:
    """A box of the image's aspect, uniformly centred, cut off at the border.

    Args:
        area: float []; the share of the image it covers before it is cut off.

    Returns:
        bool [H, W]; True inside.
    """
    y_rng, x_rng = jax.random.split(rng)
    side = jnp.sqrt(area)
    box_height = jnp.round(side * height).astype(jnp.int32)
    box_width = jnp.round(side * width).astype(jnp.int32)
    top = jax.random.randint(y_rng, (), 0, height) - box_height // 2
    left = jax.random.randint(x_rng, (), 0, width) - box_width // 2
    y, x = jnp.arange(height)[:, None], jnp.arange(width)[None, :]
    rows = (y >= top) & (y < top + box_height)
    return rows & (x >= left) & (x < left + box_width)


def _check_alpha(alpha: float) -> None:
    if not alpha > 0:
        raise ValueError(
            f"alpha is {alpha}; it must be positive (mixing=None mixes not)"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixup:
    """Averages images, and their targets, with a weight drawn from Beta(alpha, alpha).

    Args:
        alpha: > 0; 0.2 in the paper's ImageNet runs, 0.8 in DeiT's recipe.
    """

    alpha: float = 0.2

    def __post_init__(self):
        _check_alpha(self.alpha)

    def __call__(
        self,
        image: jax.Array,
        target: jax.Array,
        *,
        rng: jax.Array,
        mask: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        share = jax.random.beta(rng, self.alpha, self.alpha)
        share = _kept_share(share, len(image), mask)
        return blend(image, share), blend(target, share)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CutMix:
    """Pastes a box of the neighbour; targets are weighted by the area that was pasted.

    Args:
        alpha: > 0; the area's share is drawn from Beta(alpha, alpha). 1 in the paper.
    """

    alpha: float = 1.0

    def __post_init__(self):
        _check_alpha(self.alpha)

    def __call__(
        self,
        image: jax.Array,
        target: jax.Array,
        *,
        rng: jax.Array,
        mask: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        batch_size, height, width, _ = image.shape
        area_rng, box_rng = jax.random.split(rng)
        area = jax.random.beta(area_rng, self.alpha, self.alpha)
        box = random_box(box_rng, height, width, area)
        # The border may have cut the box: the true area counts.
        share = 1 - jnp.mean(box, dtype=jnp.float32)
        share = _kept_share(share, batch_size, mask)
        pasted = box[None, :, :, None] & (share < 1)[:, None, None, None]
        return jnp.where(pasted, _partner(image), image), blend(target, share)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomMixing:
    """One of several mixings, drawn anew for every batch.

    Args:
        choices: the mixings; None stands for leaving the batch as it is.
        probabilities: one per choice, summing to 1; equal shares where empty.
    """

    choices: tuple[Mixing | None, ...]
    probabilities: tuple[float, ...] = ()

    def __post_init__(self):
        given = self.probabilities
        if not self.choices:
            raise ValueError("choices is empty; name at least one mixing")
        if given and len(given) != len(self.choices):
            raise ValueError(
                f"{len(given)} probabilities for {len(self.choices)} choices; give one each"
            )
        if given and (min(given) < 0 or abs(sum(given) - 1) > 1e-6):
            raise ValueError(f"probabilities {given} must be >= 0 and sum to 1")

    def __call__(
        self,
        image: jax.Array,
        target: jax.Array,
        *,
        rng: jax.Array,
        mask: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        choice_rng, mixing_rng = jax.random.split(rng)
        count = len(self.choices)
        odds = jnp.asarray(self.probabilities or (1 / count,) * count)
        chosen = jax.random.choice(choice_rng, count, p=odds)

        def branch(mixing: Mixing | None) -> Mixing:
            if mixing is None:
                return lambda image, target: (image, target)
            return lambda image, target: mixing(
                image, target, rng=mixing_rng, mask=mask
            )

        return jax.lax.switch(chosen, [branch(m) for m in self.choices], image, target)
