import json
import subprocess

import jax
import pytest
from jax.sharding import AxisType

from training import environment


def test_describes_where_a_run_took_place():
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), (AxisType.Auto,) * 2)
    found = environment.describe(mesh, {"xla_option": True})
    assert found["versions"]["jax"] == jax.__version__
    assert found["versions"]["python"].startswith("3.")
    assert found["devices"] == {
        "backend": "cpu",
        "kind": "cpu",
        "count": 8,
        "processes": 1,
    }
    assert found["mesh"] == {"data": 4, "fsdp": 2}
    assert found["compiler_options"] == {"xla_option": True}
    assert found["date"].endswith("+00:00")
    assert json.loads(json.dumps(found)) == found


def test_a_resumed_run_keeps_what_earlier_starts_wrote(tmp_path):
    for number in range(3):
        path = environment.write(tmp_path, {"number": number})
    assert json.loads(path.read_text()) == {
        "number": 2,
        "earlier": [{"number": 0}, {"number": 1}],
    }
    assert [p.name for p in tmp_path.iterdir()] == ["environment.json"]


@pytest.mark.parametrize("torn", ["", '{"number": 1, "ear', "[1]", "{}"])
def test_a_file_cut_short_is_replaced(tmp_path, torn):
    (tmp_path / "environment.json").write_text(torn)
    path = environment.write(tmp_path, {"number": 2})
    assert json.loads(path.read_text()) == {"number": 2, "earlier": []}


def test_git_state(tmp_path):
    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        command = ["git", "-C", str(tmp_path), *who, *arguments]
        subprocess.run(command, check=True, capture_output=True)

    git("init")
    assert environment.git_state(tmp_path) is None, "no commit yet"
    (tmp_path / "file").write_text("a")
    git("add", "file")
    git("commit", "-m", "first")
    state = environment.git_state(tmp_path)
    assert len(state["commit"]) == 40 and state["dirty"] is False
    (tmp_path / "file").write_text("b")
    assert environment.git_state(tmp_path)["dirty"] is True


def test_without_git_there_is_no_state(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment.git_state() is None


@pytest.mark.parametrize(
    ("kind", "tera"),
    [
        ("TPU v2", 22.5),
        ("TPU v3", 61.5),
        ("TPU v4", 275),
        ("TPU v5 lite", 197),
        ("TPU v5p", 459),
        ("TPU v5", 459),
        ("TPU v6 lite", 918),
        ("TPU v6e", 918),
        ("TPU7x", 1153.5),
        ("Tesla V100-SXM2-16GB", 125),
        ("Tesla V100-PCIE-32GB", 112),
        ("Tesla T4", 65),
        ("NVIDIA A10", 125),
        ("NVIDIA A10G", 70),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989.4),
        ("NVIDIA GH200 480GB", 989.4),
        ("NVIDIA B200", 2250),
        ("NVIDIA GB200", 2500),
        ("NVIDIA GeForce RTX 4090", 165.2),
    ],
)
def test_peaks_of_devices(kind, tera):
    assert environment.peak_flops(kind) == pytest.approx(tera * 1e12)


@pytest.mark.parametrize("kind", ["cpu", "NVIDIA GeForce GTX 1080", "Radeon", ""])
def test_an_unknown_device_has_no_peak(kind):
    assert environment.peak_flops(kind) is None


def test_other_dtypes_are_not_listed():
    assert environment.peak_flops("TPU v4", "float32") is None


def test_cpu_devices_share_the_host_s_memory():
    shares = [environment.memory_bytes(device) for device in jax.devices()]
    assert len(set(shares)) == 1
    assert 2**27 < sum(shares) < 2**50
