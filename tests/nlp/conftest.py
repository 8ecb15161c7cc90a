"""What the tests of language models share."""

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file


@pytest.fixture
def imported(parity, tmp_path):
    """imported(model, fixture, *inputs): variables of the fixture's weights, by way of a
    file; `names`, {name in memory: name in the file}, is for published names."""

    from nlp.import_weights import convert, load_file

    def load(model, name: str, *inputs, naming: str = "auto", names=None):
        weights, _ = parity(name)
        path = tmp_path / f"{name}.safetensors"
        named = {(names or {}).get(k, k): v for k, v in weights.items()}
        save_file({k: np.ascontiguousarray(v) for k, v in named.items()}, path)
        template = jax.eval_shape(model.init, jax.random.key(0), *inputs)
        params, collections = convert(load_file(path), template, naming)
        return {"params": params, **collections}

    return load


@pytest.fixture(scope="session")
def count_parameters():
    """count_parameters(model, *inputs), without computing anything."""

    def count(model, *inputs) -> int:
        variables = jax.eval_shape(model.init, jax.random.key(0), *inputs)
        return sum(x.size for x in jax.tree.leaves(variables["params"]))

    return count
