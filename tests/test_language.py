"""Every way of learning from text resumes to the last bit and does not depend on the devices."""

import functools

import pytest
import repeatability
from test_configs import load

from training import smoke

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


@pytest.fixture(scope="module")
def whole():
    """whole(name): the unbroken run of six steps."""
    return functools.cache(lambda name: repeatability.unbroken(config(name)))


@pytest.mark.parametrize("name", NAMES)
def test_resumed_it_ends_where_an_unbroken_run_does(name, whole, tmp_path):
    repeatability.assert_resumes(whole(name), tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_eight_devices_follow_one(name, whole):
    wide = config(name, mesh={"data": 8})
    repeatability.assert_devices_agree(wide, whole(name), rtol=2e-5)
