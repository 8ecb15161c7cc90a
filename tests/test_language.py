"""Every way of learning from text resumes to the last bit and does not depend on the devices."""

import jax
import numpy as np
import pytest
from test_configs import load

from training import checkpoint, smoke
from training.run import Run

QUICK = ("bert_wikitext2",)
SLOW = (
    "gpt_shakespeare",
    "gpt_wikitext2",
    "lin_sst2",
    "rnn_multi30k",
    "t5_wikitext2",
    "transformer_multi30k",
)
NAMES = (*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW))
SMALL = {
    "embed_dim": 16,
    "hidden_dim": 16,
    "attention_dim": 8,
    "mlp_dim": 32,
    "num_layers": 1,
    "num_heads": 2,
    "num_hops": 2,
}


def shrunk(node):
    """The same config with narrow models and tokenizers of few tokens."""
    if isinstance(node, list | tuple):
        return [shrunk(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: shrunk(value) for key, value in node.items()}
    kind = node.get("type", "")
    if kind.startswith("nlp.models."):
        node |= {key: value for key, value in SMALL.items() if key in node}
        node["vocab_size"] = 400
    if kind == "nlp.tokenizers.Trained" and "vocab_size" in node:
        node["vocab_size"] = 300
    return node


def config(name, **changes):
    found = shrunk(smoke.synthetic(load(name)))
    return found | {"batch_size": 16, "evals": {}, "best_metric": None} | changes


def follow(run, state, first, steps):
    losses = []
    with run.experiment.data.train_batches(
        batch_size=16, seed=0, start_step=first
    ) as batches:
        for _ in range(steps):
            batch = next(batches)
            run.check(batch)
            state, metrics = run.update(state, run.layout.put(batch))
            losses.append(float(metrics["loss"].compute()))
    return losses, state


@pytest.fixture(scope="module")
def unbroken():
    """unbroken(name): the run on one device, its losses of six steps, its last state."""
    cache = {}

    def followed(name):
        if name not in cache:
            run = Run.from_config(config(name), jax.devices()[:1])
            losses, state = follow(run, run.init(), 0, 6)
            cache[name] = run, losses, jax.device_get(state)
        return cache[name]

    return followed


@pytest.mark.parametrize("name", NAMES)
def test_resumed_it_ends_where_an_unbroken_run_does(name, unbroken, tmp_path):
    run, losses, last = unbroken(name)
    start, state = follow(run, run.init(), 0, 3)
    keeper = checkpoint.Checkpointer(tmp_path)
    keeper.save(3, state)
    keeper.wait()
    restored = keeper.restore(run.target).state
    keeper.close()
    rest, end = follow(run, restored, 3, 3)
    assert np.isfinite(losses).all() and start + rest == losses
    jax.tree.map(np.testing.assert_array_equal, last, jax.device_get(end))


@pytest.mark.parametrize("name", NAMES)
def test_eight_devices_follow_one(name, unbroken):
    run = Run.from_config(config(name, mesh={"data": 8}))
    losses, _ = follow(run, run.init(), 0, 6)
    np.testing.assert_allclose(losses, unbroken(name)[1], rtol=2e-5)
