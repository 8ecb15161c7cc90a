"""What the tests of image models share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

from vision.import_weights import convert, load_file


@pytest.fixture
def imported(parity, tmp_path):
    """imported(model, fixture): variables of the fixture's weights, by a file."""

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
def tap_error(parity):
    """tap_error(fixture, tap, ours): largest difference from an activation inside the
    reference, or from every few values of it, over the largest value there.

    `ours` lies as the reference's does: a map is [B, C, H, W]."""

    def error(name: str, tap: str, ours) -> float:
        arrays, ours = parity(name)[1], np.asarray(ours)
        assert ours.shape == tuple(arrays[f"tapshape_{tap}"])
        if f"tap_{tap}" in arrays:
            theirs = arrays[f"tap_{tap}"]
        else:
            theirs = arrays[f"tapflat_{tap}"]
            ours = ours.ravel()[:: int(arrays[f"tapstride_{tap}"])]
        assert ours.shape == theirs.shape
        found = np.abs(ours - theirs).max() / np.abs(theirs).max()
        print(f"{name} {tap}: {found:.1e}")
        return found

    return error


@pytest.fixture(scope="session")
def numbered_weights():
    """numbered_weights(naming, template): a file that fits the template, in the names
    of a publisher, whose i-th tensor is i everywhere."""

    def number(naming, template) -> dict[str, np.ndarray]:
        weights = {}
        for path, leaf in flatten_dict(template, sep="/").items():
            name, layout = naming.find(path)
            assert name not in weights
            weights[name] = np.full(layout.theirs(leaf.shape), len(weights), np.float32)
        return weights

    return number


@pytest.fixture(scope="session")
def count_parameters():
    """count_parameters(model, image shape), without computing anything."""

    def count(model, shape: tuple[int, ...]) -> int:
        image = jax.ShapeDtypeStruct(shape, jnp.float32)
        variables = jax.eval_shape(model.init, jax.random.key(0), image)
        return sum(x.size for x in jax.tree.leaves(variables["params"]))

    return count


@pytest.fixture(scope="session")
def stage_shapes():
    """stage_shapes(model, image shape): of the map after every stage, [B, H, W, C]."""

    def shapes(model, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
        init = functools.partial(model.init_with_output, method="stages")
        image = jax.ShapeDtypeStruct(shape, jnp.float32)
        stages, _ = jax.eval_shape(init, jax.random.key(0), image)
        return [x.shape for x in stages]

    return shapes


@pytest.fixture(scope="session")
def trace():
    """trace(model, *inputs, **options of `apply`), without computing anything: shapes
    of (variables, (outputs, updated statistics))."""

    def shapes(model, *inputs, **options):
        def run(rng, *inputs):
            variables = model.init(rng, *inputs)
            fixed = {"rngs": {"dropout": rng}, "mutable": "batch_stats"}
            return variables, model.apply(variables, *inputs, **fixed, **options)

        return jax.eval_shape(run, jax.random.key(0), *inputs)

    return shapes


@pytest.fixture(scope="session")
def assert_half_precision(trace):
    """assert_half_precision(model, *inputs, **options of `apply`): parameters are
    float32 and outputs bfloat16; with statistics=True it has those, in float32 too."""

    def check(model, *inputs, statistics: bool = False, **options) -> None:
        variables, (outputs, updated) = trace(model, *inputs, **options)
        assert set(updated) == ({"batch_stats"} if statistics else set())
        stored = jax.tree.leaves((variables, updated))
        assert {x.dtype.name for x in stored} == {"float32"}
        assert {x.dtype.name for x in jax.tree.leaves(outputs)} == {"bfloat16"}

    return check


@pytest.fixture(scope="session")
def run():
    """run(model, variables, *arguments, **options): `model.apply`, compiled as a whole:
    quicker than operation by operation."""

    def apply(model, variables, *arguments, **options):
        return jax.jit(functools.partial(model.apply, **options))(variables, *arguments)

    return apply


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
def assert_statistics_move(random_variables):
    """assert_statistics_move(model, image, **options of `apply`): training changes
    every running mean and variance, evaluation none."""

    def check(model, image, **options) -> None:
        variables = random_variables(model, image)

        @jax.jit
        def updates(variables):
            apply = functools.partial(model.apply, mutable="batch_stats", **options)
            return [apply(variables, image, train=train)[1] for train in (True, False)]

        trees = (variables["batch_stats"], *updates(variables))
        for old, new, same in zip(*map(jax.tree.leaves, trees), strict=True):
            np.testing.assert_array_equal(old, same)
            assert not np.array_equal(old, new)

    return check


@pytest.fixture(scope="session")
def assert_dropout_in_training_only(random_variables):
    """assert_dropout_in_training_only(model, image): another random key gives other
    outputs in training, and the same in evaluation."""

    def check(model, image) -> None:
        variables = random_variables(model, image)

        @functools.partial(jax.jit, static_argnums=1)
        def run(seed, train):
            rngs = {"dropout": jax.random.key(seed)}
            return model.apply(variables, image, train=train, rngs=rngs)

        np.testing.assert_array_equal(run(0, False), run(1, False))
        assert not np.allclose(run(0, True), run(1, True))

    return check


@pytest.fixture(scope="session")
def assert_drop_path_in_training_only(random_variables):
    """assert_drop_path_in_training_only(plain, dropping, image): a model and the same
    with a drop path rate differ in training, and agree in evaluation."""

    def check(plain, dropping, image) -> None:
        variables = random_variables(plain, image)

        @jax.jit
        def run(image):
            cases = ((plain, True), (dropping, False), (dropping, True))
            rngs = {"dropout": jax.random.key(0)}
            return [m.apply(variables, image, train=t, rngs=rngs) for m, t in cases]

        expected, evaluated, dropped = run(image)
        np.testing.assert_allclose(evaluated, expected, rtol=1e-5, atol=1e-6)
        assert not np.allclose(dropped, expected, atol=1e-3)

    return check


@pytest.fixture(scope="session")
def overfit(random_variables):
    """overfit(model, image): softmax losses of a model trained on one batch with Adam.

    It starts from `random_variables`: compiling `init` costs as much as training."""

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
