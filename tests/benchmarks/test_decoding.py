"""The generation benchmark: one model in every contestant, fair figures."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from benchmarks import decoding

SIZES = dict(batch=2, tokens=5, prompt=3, layers=1, dim=8, heads=2, vocab=17)


@pytest.fixture
def written(tmp_path):
    """A small contestant by name, after a generation."""
    path = str(tmp_path / "weights.safetensors")
    save_file(decoding.weights(SIZES), path)

    def written(name):
        spec = {
            **SIZES,
            "contestant": name,
            "weights": path,
            "device": "cpu",
            "cores": None,
        }
        return decoding.build(spec)

    return written


def test_both_of_ours_write_the_same(written, monkeypatch):
    monkeypatch.setattr(decoding, "BUCKET", 4)  # two programs: of 4 and of 8 tokens
    cached, recomputed = written("cached"), written("recompute")
    assert cached.tokens.shape == (2, 5)
    np.testing.assert_array_equal(cached.tokens, recomputed.tokens)
    assert len(set(cached.tokens.ravel().tolist())) > 1
    assert cached.description["tokens"] == cached.tokens.tolist()


def test_transformers_writes_the_same(written):
    pytest.importorskip("transformers")
    pytest.importorskip("torch")
    np.testing.assert_array_equal(
        written("cached").tokens, written("transformers").tokens
    )


def turns(*seconds, tokens=None):
    return {"rounds": [{"seconds": s} for s in seconds], "tokens": tokens}


def test_figures_are_medians_and_ratios_within_rounds():
    found = decoding.summary(
        {
            "cached": turns(1.0, 2.0, 4.0, tokens=[[7, 8, 9, 7]]),
            "recompute": turns(10.0, 30.0, 40.0, tokens=[[7, 8, 9, 7]]),
            "transformers": {"absent": "torch is not installed"},
        },
        tokens=100,
    )
    assert found["tokens_per_second"] == {"cached": 50.0, "recompute": 100 / 30}
    ratio = {"median": 10.0, "least": 10.0, "most": 15.0}
    assert found["times_cached"] == {"recompute": ratio}
    assert found["same"] == {"recompute": 1.0}
    assert decoding.summary({"cached": {"error": "died"}}, 1)["tokens_per_second"] == {}


def test_agreement_ends_at_the_first_difference_of_a_row():
    one = {"tokens": [[1, 2, 3, 4], [5, 6, 7, 8]]}
    assert decoding.agreement(one, one) == 1.0
    other = {"tokens": [[1, 2, 9, 4], [5, 6, 7, 8]]}
    assert decoding.agreement(one, other) == 0.75
    assert decoding.agreement(one, {"tokens": [[9, 2, 3, 4]] * 2}) == 0.0
    assert decoding.agreement(one, {}) is None


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--tokens=0", "--tokens=0"),
        ("--heads=5", "--heads=5 does not divide"),
        ("--contestants=ours", "unknown contestant 'ours'"),
        ("--torch_python=/nowhere/python", "no interpreter"),
    ],
)
def test_wrong_options_are_one_line(argument, message):
    with pytest.raises(ValueError, match=message):
        decoding.parse([argument])
