"""Scaling: on few devices a small model holds and sends what theory says."""

import argparse

import pytest

from benchmarks import scaling, scaling_devices


@pytest.mark.parametrize("layout", ["data", "fsdp", "tensor"])
def test_state_and_messages_are_what_theory_says(layout):
    devices = 3 if layout == "tensor" else 8
    case = {"model": "vit_ti16", "layout": layout, "devices": devices, "per_device": 1}
    found = scaling_devices.measure(case)
    expected = sum(found["theory"].values())
    assert found["moved_total"] == pytest.approx(expected, rel=0.05)
    share = found["state_per_device"] / found["state"]
    bounds = {"data": (1, 1), "fsdp": (1 / 8, 1.03 / 8), "tensor": (1 / 3, 0.6)}
    low, high = bounds[layout]
    assert low <= share <= high
    assert scaling.device_row(found)[1] == f"{devices} {layout}"


def test_what_is_measured_counts_its_squares():
    case = scaling.Case(batch=1, length=64, layers=1)
    case.measure()
    found = case.result()
    assert len(found["seconds"]) == 1 and found["seconds"][0] > 0
    # 3 * 4 * 64^2 * 384 of the squares; 12 * 384^2 weights a layer and a head of 256.
    products = 6 * 64 * (12 * 384**2 + 256 * 384)
    squares = 3 * 4 * 64**2 * 384
    assert found["flops"] == pytest.approx(products + squares, rel=0.01)
    assert found["quadratic_share"] == pytest.approx(squares / found["flops"])


def test_tensor_parallelism_is_asked_only_where_heads_split():
    options = argparse.Namespace(models="vit_l16,gpt2_124m", devices="1,8")
    cases = scaling.device_cases(options)
    assert len(cases) == 2 * (2 * 2 + 2)
    for case in cases:
        heads = {"vit_l16": 16, "gpt2_124m": 12}[case["model"]]
        assert case["layout"] != "tensor" or heads % case["devices"] == 0
