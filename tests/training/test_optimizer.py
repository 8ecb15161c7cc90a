import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from training import optimizer, parameters
from training.config import build

PARAMS = {
    "body": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)},
    "head": {"kernel": jnp.ones((2, 3))},
}


def update(rule, grads=None, steps=1):
    params, state = PARAMS, rule.init(PARAMS)
    grads = grads or jax.tree.map(jnp.ones_like, PARAMS)
    for _ in range(steps):
        updates, state = rule.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def test_weight_decay_reaches_only_matching_paths():
    rule = optax.adamw(
        0.1, weight_decay=0.5, mask=optimizer.paths("kernel$", exclude="head")
    )
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    params, _ = update(rule, zeros)
    np.testing.assert_allclose(params["body"]["kernel"], 0.95)
    np.testing.assert_array_equal(params["body"]["bias"], 1)
    np.testing.assert_array_equal(params["head"]["kernel"], 1)


def test_frozen_parameters_are_bit_identical_and_have_no_state():
    rule = optimizer.with_rules(optax.adamw(0.1, weight_decay=0.1), frozen=("^body/",))
    params, state = update(rule, steps=3)
    np.testing.assert_array_equal(params["body"]["kernel"], PARAMS["body"]["kernel"])
    assert not np.allclose(params["head"]["kernel"], 1)
    sizes = [x.size for x in jax.tree.leaves(state)]
    assert sorted(s for s in sizes if s > 1) == [6, 6]


def test_multipliers_scale_the_update_the_first_match_wins():
    rule = optimizer.with_rules(
        optax.sgd(1.0), multipliers=(("body/bias", 0.0), ("body", 0.5))
    )
    params, _ = update(rule)
    np.testing.assert_allclose(params["body"]["kernel"], 0.5)
    np.testing.assert_allclose(params["body"]["bias"], 1.0)
    np.testing.assert_allclose(params["head"]["kernel"], 0.0)


def test_clipping_rescales_to_the_norm():
    params, _ = update(optimizer.with_rules(optax.sgd(1.0), clip_norm=0.5))
    moved = jax.tree.map(lambda a, b: a - b, PARAMS, params)
    np.testing.assert_allclose(optax.tree.norm(moved), 0.5, rtol=1e-6)


def test_coupled_decay_equals_the_gradient_of_l2():
    rule = optimizer.with_rules(
        optax.sgd(0.1), l2=0.5, l2_mask=optimizer.paths("kernel$")
    )
    params, _ = update(rule)
    np.testing.assert_allclose(params["head"]["kernel"], 1 - 0.1 * 1.5, rtol=1e-6)
    np.testing.assert_allclose(params["body"]["bias"], 1 - 0.1, rtol=1e-6)


@pytest.mark.parametrize(
    "rule",
    [
        optimizer.with_rules(optax.sgd(1.0), frozen=("bdy",)),
        optimizer.with_rules(optax.sgd(1.0), multipliers=(("bdy", 2.0),)),
        optax.adamw(1.0, mask=optimizer.paths("bdy")),
    ],
)
def test_a_pattern_that_matches_nothing_is_an_error(rule):
    with pytest.raises(ValueError, match="'bdy'"):
        update(rule)


def test_any_optax_callable_is_a_node_with_a_schedule_inside():
    rule = build(
        {
            "type": "optax.lion",
            "learning_rate": {
                "type": "training.optimizer.warmup_linear",
                "peak": 0.5,
                "total_steps": 4,
            },
        }
    )
    params, _ = update(rule, steps=4)
    np.testing.assert_allclose(  # lion moves by the sign times the rate
        params["head"]["kernel"], 1 - 0.5 * (1 + 0.75 + 0.5 + 0.25), rtol=1e-2
    )


def test_bfloat16_first_moments_as_a_string():
    rule = build({"type": "optax.adamw", "learning_rate": 0.1, "mu_dtype": "bfloat16"})
    kinds = {str(x.dtype) for x in jax.tree.leaves(rule.init(PARAMS)) if x.ndim}
    assert kinds == {"bfloat16", "float32"}


@pytest.mark.parametrize(
    ("schedule", "points"),
    [
        (optimizer.constant(2.0), {0: 2.0, 100: 2.0}),
        (optimizer.constant(2.0, warmup_steps=4), {0: 0.5, 3: 2.0, 9: 2.0}),
        (
            optimizer.warmup_cosine(1.0, 100, warmup_steps=10, end=0.1),
            {0: 0.1, 9: 1.0, 10: 1.0, 55: 0.55, 100: 0.1, 200: 0.1},
        ),
        (optimizer.warmup_linear(1.0, 20, warmup_steps=10), {4: 0.5, 15: 0.5, 20: 0.0}),
        (optimizer.warmup_rsqrt(1.0, 16), {7: 0.5, 16: 1.0, 64: 0.5}),
        (
            optimizer.warmup_stable_decay(1.0, 100, 10, 20),
            {4: 0.5, 50: 1.0, 80: 1.0, 90: 0.5, 100: 0.0},
        ),
        (optimizer.step_decay(1.0, (10, 20)), {9: 1.0, 10: 0.1, 20: 0.01}),
    ],
)
def test_schedules_pass_through_their_points(schedule, points):
    for step, value in points.items():
        np.testing.assert_allclose(
            schedule(jnp.int32(step)), value, rtol=1e-5, atol=1e-7
        )


def test_layers_learn_the_slower_the_deeper_they_lie():
    """0.5 ** (L + 1) for the embedding, 0.5 ** (L - i) for block i, 1 for norm and head."""
    leaf = {"kernel": jnp.ones((2, 3))}
    params = {
        "backbone": {
            "patch_embedding": leaf,
            "class_token": jnp.ones((1, 1, 3)),
            "encoder": {"block_0": leaf, "block_1": leaf, "norm": leaf},
        },
        "head": leaf,
    }
    rule = optimizer.with_rules(
        optax.sgd(1.0), multipliers=optimizer.layerwise_decay(0.5, 2)
    )
    updates, _ = rule.update(params, rule.init(params), params)
    found = {
        path: float(-x.ravel()[0]) for path, x in parameters.leaves_with_paths(updates)
    }
    assert found == {
        "backbone/class_token": 0.125,
        "backbone/encoder/block_0/kernel": 0.25,
        "backbone/encoder/block_1/kernel": 0.5,
        "backbone/encoder/norm/kernel": 1.0,
        "backbone/patch_embedding/kernel": 0.125,
        "head/kernel": 1.0,
    }


def test_stacked_layers_learn_as_separate_ones_do():
    params = {
        "patch_embedding": {"kernel": jnp.ones(3)},
        "encoder": {
            "blocks": {"kernel": jnp.ones((3, 2, 2)), "bias": jnp.ones((3, 2))}
        },
    }
    multipliers = optimizer.layerwise_decay(0.5, 3, scan=True)
    rule = optimizer.with_rules(optax.sgd(1.0), multipliers=multipliers)
    updates, _ = rule.update(params, rule.init(params), params)
    for leaf in updates["encoder"]["blocks"].values():
        per_layer = -leaf.reshape(3, -1)
        np.testing.assert_array_equal(per_layer[:, 0], [0.125, 0.25, 0.5])
        assert (per_layer == per_layer[:, :1]).all()


@pytest.mark.parametrize("decay", [0, -1, 1.5])
def test_a_decay_beyond_sense_is_named(decay):
    with pytest.raises(ValueError, match=f"layer-wise decay is {decay}"):
        optimizer.layerwise_decay(decay, 2)
