"""What the tests of image models share."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import save_file

from vision.import_weights import convert, load_file


@pytest.fixture
def imported(parity, tmp_path):
    """imported(model, fixture): variables of the fixture's weights, by way of a file."""

    def load(model, name: str, naming: str = "auto"):
        weights, arrays = parity(name)
        path = tmp_path / f"{name}.safetensors"
        save_file({k: np.ascontiguousarray(v) for k, v in weights.items()}, path)
        image = arrays["in_x_nhwc"]
        template = jax.eval_shape(model.init, jax.random.key(0), image)
        params, collections = convert(load_file(path), template, naming)
        return {"params": params, **collections}

    return load


@pytest.fixture(scope="session")
def count_parameters():
    """count_parameters(model, image shape), without computing anything."""

    def count(model, shape: tuple[int, ...]) -> int:
        image = jax.ShapeDtypeStruct(shape, jnp.float32)
        variables = jax.eval_shape(model.init, jax.random.key(0), image)
        return sum(x.size for x in jax.tree.leaves(variables["params"]))

    return count


@pytest.fixture(scope="session")
def random_variables():
    """random_variables(model, image): as `init` but by numpy, so that nothing compiles,
    and nowhere zero, so that a zero head or last scale hides nothing."""

    def draw(model, image):
        rng = np.random.default_rng(0)

        def leaf(path, x):
            kind = path[-1].key
            if kind in ("scale", "var"):
                return rng.uniform(0.6, 1.4, x.shape).astype(x.dtype)
            spread = 0.1 if x.ndim < 2 else x.shape[0] ** -0.5
            if kind == "kernel" and x.ndim == 4:
                spread = np.prod(x.shape[:-1]) ** -0.5
            return (spread * rng.normal(size=x.shape)).astype(x.dtype)

        shapes = jax.eval_shape(model.init, jax.random.key(0), image)
        return jax.tree_util.tree_map_with_path(leaf, shapes)

    return draw


@pytest.fixture(scope="session")
def overfit(random_variables):
    """overfit(model, image): softmax losses of a model trained on one batch with Adam.

    It starts from `random_variables`: to compile `init` costs as much as the training."""

    def train(model, image, *, steps=60, learning_rate=3e-3) -> list[float]:
        label = jnp.arange(len(image)) % model.num_classes
        variables = random_variables(model, image)
        optimizer = optax.adam(learning_rate)

        def loss_fn(params, collections, rng):
            logits, updated = model.apply(
                {"params": params, **collections},
                image,
                train=True,
                rngs={"dropout": rng},
                mutable=list(collections),
            )
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, label)
            return loss.mean(), updated

        @jax.jit
        def step(carry, rng):
            params, collections, opt_state = carry
            (loss, collections), grads = jax.value_and_grad(loss_fn, has_aux=True)(
                params, collections, rng
            )
            updates, opt_state = optimizer.update(grads, opt_state, params)
            carry = optax.apply_updates(params, updates), collections, opt_state
            return carry, loss

        params = variables.pop("params")
        carry, losses = (params, variables, optimizer.init(params)), []
        for rng in jax.random.split(jax.random.key(1), steps):
            carry, loss = step(carry, rng)
            losses.append(float(loss))
        return losses

    return train
