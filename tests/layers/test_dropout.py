"""Dropout: off in evaluation, which is what training gives on average."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from layers.dense import Dense


class Linear(nn.Module):
    """A linear layer of what dropout leaves of its input."""

    rate: float

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.Dropout(self.rate, name="dropout")(x, deterministic=not train)
        return Dense(5, name="dense")(x)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_mean_of_many_draws_of_a_linear_layer_is_its_evaluation(rate):
    model = Linear(rate)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 16)), jnp.float32)
    variables = model.init(jax.random.key(1), x)
    variables = jax.tree.map(lambda v: v + 0.3, variables)
    evaluated = model.apply(variables, x)
    np.testing.assert_array_equal(evaluated, model.apply(variables, x))

    def draw(rng):
        return model.apply(variables, x, train=True, rngs={"dropout": rng})

    draws = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(2), 20_000))
    error = np.asarray(draws.mean(0) - evaluated)
    standard_error = np.asarray(draws.std(0)) / 20_000**0.5
    assert standard_error.min() > 0  # each draw is another
    assert (np.abs(error) < 5 * standard_error).all()
    # It does tell: what an unscaled mask would give is far outside.
    kernel = variables["params"]["dense"]["kernel"]
    unscaled = rate * np.asarray(x @ kernel)
    assert (np.abs(unscaled) > 5 * standard_error).any()


def test_behind_a_nonlinearity_it_is_an_approximation_only():
    x = jnp.array([1.0, -1.0])
    draws = jax.vmap(
        lambda rng: jax.nn.relu(
            nn.Dropout(0.5)
            .apply({}, x, deterministic=False, rngs={"dropout": rng})
            .sum()
        )
    )(jax.random.split(jax.random.key(0), 2000))
    # The sum is 0 in evaluation; in training it is 2, -2 or 0, of which relu leaves 2.
    assert set(np.unique(draws).tolist()) == {0.0, 2.0}
    assert abs(float(draws.mean()) - 0.5) < 0.1
