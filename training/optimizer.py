"""Optimizers and schedules as config nodes.

Any optax callable is an optimizer; its `learning_rate` may be one of the schedules
below (or optax's own). `with_rules` adds what depends on parameter paths: clipping,
learning-rate multipliers, freezing. `paths` makes the mask that optax's optimizers take
for weight decay:

    optimizer = dict(
        type="training.optimizer.with_rules",
        rule=dict(
            type="optax.adamw",
            learning_rate=dict(
                type="training.optimizer.warmup_cosine",
                peak=1e-3, warmup_steps=10_000, total_steps=total_steps,
            ),
            weight_decay=1e-4,
            mask=dict(type="training.optimizer.paths", match="kernel$"),
            mu_dtype="bfloat16",
        ),
        clip_norm=1.0,
    )
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from training import parameters

Schedule = Callable[[Any], Any]


def paths(match: str, exclude: str | None = None) -> Callable[[Any], Any]:
    """A mask: parameters -> tree of bools, True where the path matches.

    Args:
        match: regular expression searched in 'encoder/block_0/mlp/up/kernel'.
        exclude: paths matching this are False whatever `match` says.

    Raises:
        ValueError: when called, if nothing matches.
    """

    def mask(params):
        def keep(path, _):
            path = parameters.path_string(path)
            out = exclude is not None and re.search(exclude, path)
            return bool(re.search(match, path)) and not out

        # optax also calls masks on trees whose frozen leaves are gone.
        tree = jax.tree_util.tree_map_with_path(keep, params)
        if jax.tree.leaves(params) and not any(jax.tree.leaves(tree)):
            raise ValueError(
                f"no parameter path matches {match!r} (without {exclude!r})"
            )
        return tree

    return mask


def with_rules(
    rule: optax.GradientTransformation,
    *,
    clip_norm: float | None = None,
    l2: float = 0.0,
    l2_mask: Callable[[Any], Any] | None = None,
    multipliers: Sequence[tuple[str, Any]] = (),
    frozen: Sequence[str] = (),
) -> optax.GradientTransformation:
    """An optimizer with rules by parameter path.

    Args:
        rule: any optax optimizer.
        clip_norm: rescales gradients (of parameters not frozen) whose global L2 norm is
            above this.
        l2: adds l2 * parameter to the (clipped) gradient: the coupled weight decay of
            SGD. AdamW, LAMB and Lion have their own, decoupled one.
        l2_mask: which parameters it touches, from `paths`; None all.
        multipliers: (pattern, factor) pairs; the first that matches a path scales its
            update, and with it the effective learning rate and decoupled weight decay.
            Several factors are those of stacked layers. See `layerwise_decay`.
        frozen: patterns of parameters that stay bit-identical and get no optimizer state.

    Raises:
        ValueError: at init, if a pattern matches no parameter.
    """
    chain = []
    if clip_norm is not None:
        chain.append(optax.clip_by_global_norm(clip_norm))
    if l2:
        chain.append(optax.add_decayed_weights(l2, l2_mask))
    chain.append(rule)
    if multipliers:
        chain.append(_scale_by_path(multipliers))
    optimizer = optax.chain(*chain) if len(chain) > 1 else rule
    if not frozen:
        return optimizer

    def labels(params):
        _require_matches(params, frozen)
        return parameters.map_with_paths(
            lambda path, _: "frozen" if parameters.match(frozen, path) else "trained",
            params,
        )

    return optax.partition(
        {"trained": optimizer, "frozen": optax.set_to_zero()}, labels
    )


def layerwise_decay(
    decay: float, num_layers: int, *, scan: bool = False
) -> tuple[tuple[str, Any], ...]:
    """Multipliers for fine-tuning: the deeper below the head, the slower.

    The embedding of a Transformer of L blocks learns at decay ** (L + 1) of the learning
    rate, block i at decay ** (L - i), its final norm and the head at all of it. Bao et al.
    2021, "BEiT" (https://arxiv.org/abs/2106.08254), after Clark et al. 2020, "ELECTRA".

    Args:
        decay: in (0, 1]; 0.65 to 0.75 in the papers.
        num_layers: L.
        scan: whether the blocks are stacked under `blocks`.

    Returns:
        Pairs for the `multipliers` of `with_rules`.
    """
    if not 0 < decay <= 1:
        raise ValueError(f"layer-wise decay is {decay}; it must lie in (0, 1]")
    factors = [decay ** (num_layers - i) for i in range(num_layers)]
    blocks = [(rf"(^|/)block_{i}/", factor) for i, factor in enumerate(factors)]
    if scan:
        blocks = [(r"(^|/)blocks/", tuple(factors))]
    embeddings = r"(^|/)(patch_embedding/|class_token$|position_embedding$)"
    return (embeddings, decay ** (num_layers + 1)), *blocks


def _require_matches(params: Any, patterns: Sequence[str]) -> None:
    for pattern in parameters.unmatched(patterns, params):
        path, _ = parameters.leaves_with_paths(params)[0]
        raise ValueError(
            f"pattern {pattern!r} matches no parameter; paths look like {path!r}"
        )


def _scale_by_path(
    multipliers: Sequence[tuple[str, Any]],
) -> optax.GradientTransformation:
    def init(params):
        _require_matches(params, [pattern for pattern, _ in multipliers])
        return optax.EmptyState()

    def update(updates, state, params=None):
        del params

        def scale(path, update):
            name = parameters.path_string(path)
            for pattern, factor in multipliers:
                if re.search(pattern, name):
                    factor = jnp.asarray(factor, update.dtype)
                    shape = factor.shape + (1,) * (update.ndim - factor.ndim)
                    return factor.reshape(shape) * update
            return update

        return jax.tree_util.tree_map_with_path(scale, updates), state

    return optax.GradientTransformation(init, update)


def constant(value: float, warmup_steps: int = 0) -> Schedule:
    """`value` at every step, after a linear warm-up from 0."""
    return _with_warmup(lambda step: jnp.float32(value), value, warmup_steps)


def warmup_cosine(
    peak: float, total_steps: int, warmup_steps: int = 0, end: float = 0.0
) -> Schedule:
    """Linear warm-up from 0 to `peak`, then half a cosine down to `end`.

    Loshchilov & Hutter 2016, "SGDR" (https://arxiv.org/abs/1608.03983), one cycle.
    """
    _check_warmup(warmup_steps, total_steps)

    def cosine(step):
        progress = _progress(step, warmup_steps, total_steps)
        return end + (peak - end) * 0.5 * (1 + jnp.cos(jnp.pi * progress))

    return _with_warmup(cosine, peak, warmup_steps)


def warmup_linear(
    peak: float, total_steps: int, warmup_steps: int = 0, end: float = 0.0
) -> Schedule:
    """Linear warm-up from 0 to `peak`, then linear down to `end`."""
    _check_warmup(warmup_steps, total_steps)

    def linear(step):
        return peak + (end - peak) * _progress(step, warmup_steps, total_steps)

    return _with_warmup(linear, peak, warmup_steps)


def warmup_rsqrt(peak: float, warmup_steps: int) -> Schedule:
    """Linear warm-up to `peak`, then peak * sqrt(warmup_steps / step).

    Vaswani et al. 2017, "Attention Is All You Need"
    (https://arxiv.org/abs/1706.03762), section 5.3.
    """
    if warmup_steps < 1:
        raise ValueError(f"warmup_rsqrt needs warmup_steps >= 1, got {warmup_steps}")

    def rsqrt(step):
        return peak * jnp.sqrt(warmup_steps / jnp.maximum(step, warmup_steps))

    return _with_warmup(rsqrt, peak, warmup_steps)


def warmup_stable_decay(
    peak: float, total_steps: int, warmup_steps: int, decay_steps: int, end: float = 0.0
) -> Schedule:
    """Linear warm-up, constant `peak`, and a linear decay over the last `decay_steps`.

    Hu et al. 2024, "MiniCPM" (https://arxiv.org/abs/2404.06395), section 4.
    """
    _check_warmup(warmup_steps + decay_steps, total_steps)

    def decay(step):
        start = total_steps - decay_steps
        return peak + (end - peak) * _progress(step, start, total_steps)

    return _with_warmup(decay, peak, warmup_steps)


def step_decay(
    peak: float, boundaries: Sequence[int], factor: float = 0.1, warmup_steps: int = 0
) -> Schedule:
    """`peak` times `factor` for each boundary (a step) that lies behind.

    He et al. 2015, "Deep Residual Learning" (https://arxiv.org/abs/1512.03385).
    """
    edges = np.asarray(boundaries)

    def stairs(step):
        return peak * jnp.float32(factor) ** (step >= edges).sum()

    return _with_warmup(stairs, peak, warmup_steps)


def _progress(step: Any, start: int, stop: int) -> Any:
    return jnp.clip((step - start) / max(stop - start, 1), 0.0, 1.0)


def _check_warmup(taken: int, total: int) -> None:
    if taken > total:
        raise ValueError(
            f"warm-up and decay take {taken} steps, more than total_steps {total}"
        )


def _with_warmup(after: Schedule, peak: float, warmup_steps: int) -> Schedule:
    """Step 0 already moves: the first of `warmup_steps` uses peak / warmup_steps."""

    def schedule(step):
        if not warmup_steps:
            return after(step)
        rising = peak * (step + 1) / warmup_steps
        return jnp.where(step < warmup_steps, rising, after(step))

    return schedule
