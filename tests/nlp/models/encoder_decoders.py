"""What every encoder-decoder made of Transformer blocks must do; `CHECKS` of a model.

A check takes a function from fields to a model of width 8 and 11 tokens, whose stacks are
called `encoder` and `decoder`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from layers.masks import padding_mask

# For programs that run once: soon made, and slow.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

SIZES = {"vocab_size": 11, "embed_dim": 8, "num_heads": 2, "mlp_dim": 12}
SOURCE = np.array([[5, 6, 7, 8, 9], [7, 5, 4, 0, 0], [0, 0, 0, 0, 0]], np.int32)
TARGET = np.array([[1, 4, 5, 6], [1, 9, 8, 7], [1, 5, 5, 4]], np.int32)


def drawn(model, seed=0):
    """Variables shaped as `init` makes them, by numpy and nowhere zero."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, jax.random.key(0), SOURCE, TARGET)
    return jax.tree.map(
        lambda s: (0.5 * rng.normal(size=s.shape)).astype(np.float32), shapes
    )


def stacked(params):
    """A loop's parameters as a scan's."""
    params = dict(params)
    for name in ("encoder", "decoder"):
        others = {k: v for k, v in params[name].items() if not k.startswith("block_")}
        count = len(params[name]) - len(others)
        blocks = [params[name][f"block_{i}"] for i in range(count)]
        blocks = jax.tree.map(lambda *x: np.stack(x), *blocks)
        params[name] = {**others, "blocks": blocks}
    return params


def a_token_at_a_time_equals_teacher_forcing(make):
    model = make(num_layers=2, scan=True)

    @jit
    def run(variables, source, target):
        apply = functools.partial(model.apply, mutable=["cache"])
        begun = apply(variables, source, target[:, :1], cache_length=6, method="begin")

        def step(carry, tokens):
            logits, cache = carry
            return apply({**variables, **cache}, tokens, method="step"), logits

        (last, cache), logits = jax.lax.scan(step, begun, target[:, 1:].T)
        forced = model.apply(variables, source, target)
        return forced, jnp.stack([*logits, last], 1), cache

    forced, stepwise, cache = run(drawn(model), SOURCE, TARGET)
    assert forced.shape == (3, 4, 11) and forced.dtype == jnp.float32
    assert np.isfinite(forced).all(), "the last source is empty"
    np.testing.assert_allclose(stepwise, forced, atol=1e-5 * np.abs(forced).max())
    assert cache["cache"].pop("index") == 4
    for path, x in jax.tree_util.tree_leaves_with_path(cache):
        assert x.shape["blocks" in str(path)] == 3, "the batch comes first"


def no_token_sees_those_after_it_nor_padding(make):
    """By gradients towards the embeddings of what it reads."""
    model = make(num_layers=1)
    params = drawn(model)["params"]
    source, target = np.array([[2, 3, 0, 0]]), np.array([[1, 4, 5, 6]])
    weight = np.random.default_rng(1).normal(size=8)

    @jit
    def influence(params):
        def read(table):
            changed = {"params": {**params, "embedding": {"embedding": table}}}

            def hidden(model):
                memory = model.encode(source)
                return model.decode(target, memory, padding_mask(source != 0))

            return model.apply(changed, method=hidden)[0] @ weight

        jacobian = jax.jacrev(read)(params["embedding"]["embedding"])
        return jnp.abs(jacobian).max(-1)  # [T, V]

    seen = influence(params)
    assert (seen[:, [2, 3]] > 1e-6).all() and not seen[:, [0, 7]].any()
    np.testing.assert_array_equal(seen[:, target[0]] > 1e-6, np.tri(4, dtype=bool))


def padding_of_any_length_changes_nothing(make):
    model = make(num_layers=1)
    apply, variables = jit(model.apply), drawn(model)
    plain = apply(variables, SOURCE[:2, :3], TARGET[:2])
    source = np.pad(SOURCE[:2, :3], ((0, 0), (0, 4)))
    padded = apply(variables, source, np.pad(TARGET[:2], ((0, 0), (0, 2))))
    bound = 1e-5 * np.abs(plain).max()
    np.testing.assert_allclose(padded[:, :4], plain, atol=bound)


def packed_pairs_give_what_each_gives_alone(make):
    model = make(num_layers=2)
    apply, variables = jit(model.apply), drawn(model)
    alone = apply(variables, SOURCE[:2], TARGET[:2])
    row = lambda *parts: np.concatenate(parts)[None].astype(np.int32)
    source = row(SOURCE[0], SOURCE[1, :3], [0, 0])
    source_segments = row([1] * 5, [2] * 3, [0, 0])
    target = row(TARGET[0], TARGET[1], [0])
    target_segments = row([1] * 4, [2] * 4, [0])
    packed = apply(variables, source, target, source_segments, target_segments)
    assert np.isfinite(packed).all()
    np.testing.assert_allclose(
        packed[0, :8].reshape(2, 4, -1), alone, atol=1e-5 * np.abs(alone).max()
    )
    with pytest.raises(ValueError, match="one is missing"):
        jax.eval_shape(model.apply, variables, source, target, source_segments)


def half_precision_keeps_float32_parameters_and_logits(make):
    full = make(num_layers=1)
    half = full.clone(dtype="bfloat16")
    shapes = jax.eval_shape(half.init, jax.random.key(0), SOURCE, TARGET)
    assert {str(x.dtype) for x in jax.tree.leaves(shapes)} == {"float32"}
    encode = functools.partial(half.apply, method="encode")
    assert jax.eval_shape(encode, shapes, SOURCE).dtype == jnp.bfloat16
    variables = drawn(full)
    ours, reference = (jit(m.apply)(variables, SOURCE, TARGET) for m in (half, full))
    assert ours.dtype == reference.dtype == jnp.float32
    assert np.abs(ours - reference).max() > 0, "nothing was computed in bfloat16"
    np.testing.assert_allclose(ours, reference, atol=0.1 * np.abs(reference).max())


def dropout_acts_in_training_alone(make):
    model = make(num_layers=1, dropout_rate=0.5)
    variables = drawn(model)

    @jit
    def train(variables, seed):
        rngs = {"dropout": jax.random.key(seed, impl="rbg")}
        return model.apply(variables, SOURCE, TARGET, train=True, rngs=rngs)

    assert np.abs(train(variables, 0) - train(variables, 1)).max() > 1e-2
    # Without a key for it, dropout raises.
    jax.eval_shape(model.apply, variables, SOURCE, TARGET)
    with pytest.raises(Exception, match="dropout"):
        apply = functools.partial(model.apply, train=True)
        jax.eval_shape(apply, variables, SOURCE, TARGET)


def a_prompt_must_fit_the_cache(make):
    model = make(num_layers=1)
    for prompt in (TARGET, TARGET[:, :0]):
        with pytest.raises(
            ValueError,
            match=rf"prompt of {prompt.shape[1]} tokens does not fit cache_length=3",
        ):
            begin = functools.partial(
                model.apply, cache_length=3, method="begin", mutable=["cache"]
            )
            jax.eval_shape(begin, drawn(model), SOURCE, prompt)


CHECKS = (
    a_token_at_a_time_equals_teacher_forcing,
    no_token_sees_those_after_it_nor_padding,
    padding_of_any_length_changes_nothing,
    packed_pairs_give_what_each_gives_alone,
    half_precision_keeps_float32_parameters_and_logits,
    dropout_acts_in_training_alone,
    a_prompt_must_fit_the_cache,
)
