"""What a run carries from step to step: arrays only."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Args:
    step: int32 []; updates made.
    params: the model's parameters, float32.
    collections: its other variables, {'batch_stats': ...} say.
    opt_state: the optimizer's state.
    ema: moving average of `params`, or None.
    rng: uint32 [2]; the data of the run's base key, see `step_rng`.
    """

    step: Any
    params: Any
    collections: Any
    opt_state: Any
    ema: Any
    rng: Any

    @property
    def eval_params(self) -> Any:
        """The parameters to evaluate: the moving average where there is one."""
        return self.params if self.ema is None else self.ema

    @property
    def step_rng(self) -> jax.Array:
        """The key that every random draw of the next step derives from."""
        return jax.random.fold_in(jax.random.wrap_key_data(self.rng), self.step)


def create(
    task: Any, optimizer: Any, batch: Any, *, seed: int, ema: bool
) -> TrainState:
    """The state at step 0. Runs under jit.

    Args:
        batch: shapes as a tree of arrays; the values do not matter.
    """
    init_rng, rng = jax.random.split(jax.random.key(seed))
    params, collections = task.init(init_rng, batch)
    return TrainState(
        step=jnp.int32(0),
        params=params,
        collections=collections,
        opt_state=optimizer.init(params),
        # A copy: two names for one buffer could not both be donated.
        ema=jax.tree.map(jnp.copy, params) if ema else None,
        rng=jax.random.key_data(rng),
    )
