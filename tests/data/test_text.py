import pickle

import numpy as np
import pytest

from data.features import Text
from data.pipeline import Pipeline
from data.sources import ParallelText, Synthetic, TextFile, TextFolder

CORPUS = "Erste Zeile, äöü\n\nzweite\ndritte 漢字\n \n\nvierte"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text(CORPUS, encoding="utf-8")
    return path


def texts(source, field="text"):
    return [source[i][field] for i in range(len(source))]


def test_a_file_is_one_text_or_its_lines_or_paragraphs(file):
    assert texts(TextFile(file)) == [CORPUS]
    lines = TextFile(file, field="line", per="line")
    assert texts(lines, "line") == [
        "Erste Zeile, äöü",
        "zweite",
        "dritte 漢字",
        "vierte",
    ]
    assert texts(TextFile(file, per="paragraph")) == [
        "Erste Zeile, äöü",
        "zweite\ndritte 漢字",
        "vierte",
    ]
    for source in (lines, TextFile(file)):
        for name, feature in source.features.items():
            feature.check(source[0][name])
    assert pickle.loads(pickle.dumps(lines))[3] == {"line": "vierte"}
    assert str(file) in lines.describe(1)


@pytest.mark.parametrize("share", [0.1, 0.29, 0.5, 0.9])
@pytest.mark.parametrize("per", ["file", "line", "paragraph"])
def test_two_parts_make_the_whole(tmp_path, per, share):
    path = tmp_path / "x.txt"
    path.write_text("".join(f"line {i}\n\n" for i in range(50)))
    whole = texts(TextFile(path, per=per))
    parts = [
        texts(TextFile(path, per=per, part=part))
        for part in ((0.0, share), (share, 1.0))
    ]
    joined = "".join(parts[0] + parts[1])
    assert joined == "".join(whole)
    assert abs(len("".join(parts[0])) / len(joined) - share) < 0.04


def test_line_ends_and_marks_do_not_matter(tmp_path):
    path = tmp_path / "dos.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\x0cstill two\rthree\r\n")
    assert texts(TextFile(path)) == ["one\ntwo\x0cstill two\nthree\n"]
    assert texts(TextFile(path, per="line")) == ["one", "two\x0cstill two", "three"]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_invalid_utf8_is_named_with_its_place(tmp_path, mark):
    content = mark + "gut ä ".encode() + b"\xe4 latin"
    (tmp_path / "bad.txt").write_bytes(content)
    place = content.index(b"\xe4 ")
    for make in (
        lambda: TextFile(tmp_path / "bad.txt"),
        lambda: TextFolder(tmp_path)[0],
        lambda: ParallelText({"a": tmp_path / "bad.txt"}),
    ):
        with pytest.raises(
            ValueError, match=rf"bad.txt' is not valid UTF-8 at byte {place} \(0xe4\)"
        ) as caught:
            make()
        assert "\n" not in str(caught.value)


def test_a_folder_is_read_in_the_order_of_names(tmp_path):
    for name, text in (
        ("b.txt", "second\nline\n"),
        ("a.txt", "first"),
        ("c/d.txt", "third"),
        ("empty.txt", ""),
        ("notes.md", "no"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    source = pickle.loads(pickle.dumps(TextFolder(tmp_path)))
    assert texts(source) == ["first", "second\nline\n", "third"]
    assert "b.txt" in source.describe(1)
    lines = TextFolder(tmp_path, per="line")
    assert texts(lines) == ["first", "second", "line", "third"]
    assert "b.txt" in lines.describe(2)
    assert texts(TextFolder(tmp_path, per="line", part=(0.5, 1))) == ["line", "third"]


def test_an_empty_corpus_is_one_line(tmp_path):
    (tmp_path / "blank.txt").write_text(" \n\n")
    (tmp_path / "empty").mkdir()
    for make in (
        lambda: TextFile(tmp_path / "blank.txt"),
        lambda: TextFile(tmp_path / "blank.txt", per="line"),
        lambda: TextFolder(tmp_path / "empty"),
        lambda: TextFolder(tmp_path, per="line"),
    ):
        with pytest.raises(ValueError, match="holds no text") as caught:
            make()
        assert "\n" not in str(caught.value)
    (tmp_path / "one.txt").write_text("text")
    with pytest.raises(ValueError, match=r"no text.*part \(0, 0.1\)"):
        TextFile(tmp_path / "one.txt", part=(0, 0.1))
    with pytest.raises(ValueError, match=r"part \(0.5, 0.6\) of 2 examples"):
        TextFolder(tmp_path, part=(0.5, 0.6))


def test_parallel_lines_stay_together(tmp_path):
    (tmp_path / "en").write_text("one\n\nthree\u2028still\nfour\n")
    (tmp_path / "de").write_text("eins\nzwei\ndrei\nvier")
    paths = {"en": tmp_path / "en", "de": tmp_path / "de"}
    source = ParallelText(paths)
    assert source[1] == {"en": "", "de": "zwei"}
    assert source[2] == {"en": "three\u2028still", "de": "drei"} and len(source) == 4
    later = ParallelText(paths, part=(0.5, 1.0))
    assert later[0] == source[2] and later.describe(0).startswith("line 3 of")
    (tmp_path / "de").write_text("eins")
    with pytest.raises(ValueError, match="differ in their numbers of lines.*4.*1"):
        ParallelText(paths)


def test_what_text_sources_refuse(tmp_path, file):
    for kind in (TextFile, TextFolder):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            kind(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        ParallelText({"en": tmp_path / "nowhere"})
    with pytest.raises(ValueError, match="per is 'word'.*file, line, paragraph"):
        TextFile(file, per="word")
    for part in ((0.5, 0.5), (0.9, 0.1), (-1, 1), (0, 2), (0.5,)):
        with pytest.raises(ValueError, match="0 <= from < to <= 1"):
            TextFile(file, part=part)


@pytest.mark.parametrize(
    ("node", "fields"),
    [
        (TextFile.synthetic_node({"path": "x"}), ["text"]),
        (TextFolder.synthetic_node({"root": "x", "field": "body"}), ["body"]),
        (ParallelText.synthetic_node({"paths": {"a": "x", "b": "y"}}), ["a", "b"]),
    ],
)
def test_invented_texts_have_the_same_fields(node, fields):
    assert node["type"] == "data.sources.Synthetic"
    assert list(node["features"]) == fields
    source = Synthetic({field: Text() for field in fields}, 3)
    assert all(isinstance(source[0][field], str) for field in fields)


def test_an_unreadable_file_can_be_skipped(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff")
    (tmp_path / "b.txt").write_text("abcd")

    def length(example, rng):
        return {**example, "length": np.int32(len(example["text"]))}

    source = TextFolder(tmp_path)
    pipeline = Pipeline(source, transforms=(length,), on_error="skip", num_threads=0)
    with pipeline.eval_batches(batch_size=2) as batches:
        batch = next(batches)
    assert batch["mask"].tolist() == [False, True] and batch["length"][1] == 4
