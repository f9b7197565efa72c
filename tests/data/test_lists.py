"""Which videos are packed, with which labels."""

from pathlib import Path

import pytest

from jepa.data.lists import Entry, collect, read_list
from jepa.errors import DataError


def put(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.csv", "a.mp4 3\nb c.mp4 1\n", [("a.mp4", 3), ("b c.mp4", 1)]),  # as the official lists are
        ("a.csv", "path,label\na.mp4,walk\n\n'b.mp4,run\n", [("a.mp4", "walk"), ("'b.mp4", "run")]),
        ("a.csv", 'video,class\n"a, b.mp4",walk\n', [("a, b.mp4", "walk")]),
        ("a.tsv", "\ufefffile\tlabel\r\na b.mp4\t02\r\nc.mp4\t-1\r\n", [("a b.mp4", 2), ("c.mp4", -1)]),
        ("a.txt", "a.mp4\nsub/b.mp4\n", [("a.mp4", None), ("sub/b.mp4", None)]),
        ("a.txt", "has space.mp4\n", [("has space.mp4", None)]),
        ("a.csv", "a.mp4 3\nb.mp4 x\n", [("a.mp4", "3"), ("b.mp4", "x")]),
    ],
)
def test_lists_in_their_usual_formats(tmp_path: Path, name: str, text: str, expected: list[tuple[str, object]]) -> None:
    put(tmp_path / "has space.mp4")
    file = tmp_path / name
    file.write_text(text, encoding="utf-8", newline="")
    assert [(entry.path, entry.label) for entry in read_list(file)] == [
        (tmp_path / path, label) for path, label in expected
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.mp4,1\nb.mp4,2,3\n", r"list\.csv line 2: expected `path label`, got 3 columns"),
        ("a.mp4,1\n,2\n", r"list\.csv line 2: expected `path label`, got no path"),
        ("a.mp4,1\n\nb\0.mp4,2\n", r"list\.csv line 3: .* zero byte"),
        ("", "lists no video"),
        ("path,label\n", "lists no video"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_list(tmp_path / "list.csv")


def test_paths_are_relative_to_the_list_or_absolute(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/all.csv").write_text(f"../a.mp4 0\n{tmp_path / 'b.mp4'} 1\n")
    assert [entry.path.resolve() for entry in collect([tmp_path / "lists/all.csv"])] == [
        tmp_path.resolve() / "a.mp4",
        tmp_path.resolve() / "b.mp4",
    ]


def test_paths_relative_to_another_folder(tmp_path: Path) -> None:
    put(tmp_path / "videos/has space.mp4")
    (tmp_path / "all.txt").write_text("has space.mp4\na.mp4\n")
    assert [entry.path for entry in read_list(tmp_path / "all.txt", tmp_path / "videos")] == [
        tmp_path / "videos/has space.mp4",
        tmp_path / "videos/a.mp4",
    ]


def test_labels_of_an_entry() -> None:
    assert Entry(Path("a"), "a").labels() == {}
    assert Entry(Path("a"), "a", 3, more={"verb": "cut"}).labels() == {"label": 3, "verb": "cut"}


def test_folders_files_and_lists_together(tmp_path: Path) -> None:
    put(tmp_path / "set/cats/a.mp4", tmp_path / "set/dogs/b.mp4", tmp_path / "one.bin")
    (tmp_path / "list.csv").write_text("set/cats/a.mp4 cats\nc.mp4 birds\n")
    entries = collect([tmp_path / "set", tmp_path / "one.bin", tmp_path / "list.csv"])
    assert [(entry.path.name, entry.label) for entry in entries] == [
        ("a.mp4", "cats"),
        ("b.mp4", "dogs"),
        ("one.bin", None),
        ("c.mp4", "birds"),
    ]


def test_splits_of_a_folder_stay_splits(tmp_path: Path) -> None:
    put(tmp_path / "train/cats/a.mp4", tmp_path / "test/dogs/b.mp4")
    assert collect([tmp_path]) == [
        Entry(tmp_path / "test/dogs/b.mp4", "test/dogs/b.mp4", "dogs", "test"),
        Entry(tmp_path / "train/cats/a.mp4", "train/cats/a.mp4", "cats", "train"),
    ]


def test_one_video_has_one_label(tmp_path: Path) -> None:
    put(tmp_path / "set/cats/a.mp4")
    (tmp_path / "list.csv").write_text("set/cats/a.mp4 dogs\n")
    with pytest.raises(DataError, match=r"a\.mp4 has two labels: cats and dogs"):
        collect([tmp_path / "set", tmp_path / "list.csv"])


def test_a_missing_source(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such file or folder: .*nowhere"):
        collect([tmp_path / "nowhere"])
