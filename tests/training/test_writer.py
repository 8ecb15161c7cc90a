import glob
import json
import logging
import math
import pathlib
import resource
import struct

import cv2
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from training.writer import Writer, read_metrics


def events(workdir) -> list[Event]:
    """Every event of a folder, read by the documented record layout."""
    result = []
    for path in sorted(glob.glob(f"{workdir}/events.out.tfevents.*")):
        data = pathlib.Path(path).read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            result.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return result


def test_floats_come_back_to_the_last_bit(tmp_path):
    values = {
        "train/loss": np.float32(0.1),
        "double": 1 / 3,
        "tiny": 5e-324,
        "huge": 1e300,
        "count": np.int64(2**60),
        "nan": math.nan,
        "inf": np.float32(np.inf),
        "minus": -math.inf,
    }
    with Writer(tmp_path) as writer:
        writer.scalars(7, values)
        (row,) = read_metrics(tmp_path)  # Before closing: nothing waits in a buffer.
    assert row.pop("step") == 7
    assert math.isnan(row.pop("nan"))
    assert row == {k: float(v) for k, v in values.items() if k != "nan"}
    assert isinstance(row["count"], int)


def test_every_line_is_valid_json(tmp_path):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    with Writer(tmp_path) as writer:
        writer.scalars(1, {"a": math.nan, "b": math.inf, "c": 1.5})
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line, parse_constant=refuse)["c"] == 1.5


def test_refuses_what_is_no_number(tmp_path):
    with Writer(tmp_path) as writer, pytest.raises(TypeError, match="not a number"):
        writer.scalars(1, {"name": "seven"})


def test_tensorboard_sees_the_same(tmp_path):
    image = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    with Writer(tmp_path) as writer:
        writer.scalars(3, {"train/loss": 0.5, "eval/accuracy": 1})
        writer.images(3, {"eval/first": image})
        writer.text(3, {"sample": "hello"})
    version, start, *rest = events(tmp_path)
    assert version.file_version == "brain.Event:2" and start.step == 0
    values = {v.tag: v for e in rest for v in e.summary.value}
    assert {e.step for e in rest} == {3}
    assert values["train/loss"].simple_value == 0.5
    assert values["eval/accuracy"].simple_value == 1
    assert values["sample/text_summary"].tensor.string_val == [b"hello"]
    png = values["eval/first"].image.encoded_image_string
    path = tmp_path / "pictures" / "eval_first_00000003.png"
    assert path.read_bytes() == png
    np.testing.assert_array_equal(cv2.imread(str(path))[..., ::-1], image)


def test_texts_are_kept_as_they_are_and_shown_line_by_line(tmp_path):
    texts = {
        "test/bleu": "34.0\n  größer: \ud800",
        "test/words.html": "<!doctype html>",
    }
    with Writer(tmp_path) as writer:
        writer.text(12, texts)
    folder = tmp_path / "texts"
    text = (folder / "test_bleu_00000012.txt").read_text()
    assert text == "34.0\n  größer: ?"  # half a character cannot be written
    assert (folder / "test_words_00000012.html").read_text() == "<!doctype html>"
    shown = {v.tag: v for e in events(tmp_path) for v in e.summary.value}
    assert set(shown) == {"test/bleu/text_summary"}
    # Indented by four, Markdown takes it as it stands.
    (value,) = shown["test/bleu/text_summary"].tensor.string_val
    assert value.decode() == "    34.0\n      größer: ?"


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 5), np.uint8), np.zeros((4, 5, 3)), np.zeros((4, 5, 1), "u1")],
)
def test_refuses_what_is_no_picture(tmp_path, image):
    with Writer(tmp_path) as writer, pytest.raises(ValueError, match="uint8 .H, W, 3."):
        writer.images(0, {"bad": image})


def test_resuming_drops_later_lines(tmp_path):
    with Writer(tmp_path) as writer:
        for step in (5, 10, 10, 15):
            writer.scalars(step, {"loss": step / 7})
    before = read_metrics(tmp_path)
    with Writer(tmp_path, start_step=10) as writer:
        assert read_metrics(tmp_path) == before[:3]
        writer.scalars(15, {"loss": 15 / 7})
    assert read_metrics(tmp_path) == before
    restart = [e for e in events(tmp_path) if e.HasField("session_log")][-1]
    assert restart.step == 11, "TensorBoard forgets the steps from here on"


def test_a_fresh_start_begins_an_empty_record(tmp_path):
    with Writer(tmp_path) as writer:
        writer.scalars(0, {"loss": 1.0})
    with Writer(tmp_path):
        assert read_metrics(tmp_path) == []


def test_a_torn_last_line_is_repaired(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("tessera"), "propagate", True)
    with Writer(tmp_path) as writer:
        writer.scalars(1, {"loss": 1.0})
        writer.scalars(2, {"loss": 2.0})
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-6])
    assert [row["step"] for row in read_metrics(tmp_path)] == [1]
    with Writer(tmp_path, start_step=2) as writer:
        writer.scalars(3, {"loss": 3.0})
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 3]
    assert "torn" in caplog.text


def test_names_a_broken_line(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\nrubbish\n{"step": 2}\n')
    with pytest.raises(ValueError, match="line 2 is no JSON"):
        read_metrics(tmp_path)


def test_no_metrics_yet(tmp_path):
    assert read_metrics(tmp_path) == []


def test_other_hosts_write_nothing(tmp_path):
    with Writer(tmp_path / "run", active=False) as writer:
        writer.scalars(1, {"loss": 1.0})
        writer.images(1, {"p": np.zeros((2, 2, 3), np.uint8)})
        writer.text(1, {"t": "x"})
    assert not (tmp_path / "run").exists()


def test_a_full_disk_is_one_error_and_leaves_whole_lines(tmp_path):
    writer = Writer(tmp_path)
    writer.scalars(1, {"loss": 1.0})
    path = tmp_path / "metrics.jsonl"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 5, hard))
    try:
        with pytest.raises(OSError) as caught:
            writer.scalars(2, {"loss": 2.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    writer.scalars(3, {"loss": 3.0})
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 3]
