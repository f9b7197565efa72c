"""Plain files as a data set."""

import logging
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from jepa.data.folder import FolderSource, find_videos
from jepa.data.synthetic.video import encode_h264
from jepa.errors import DataError

VIDEO = encode_h264(np.zeros((8, 32, 48, 3), np.uint8), 8)


def put(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(VIDEO)


def keys(source: FolderSource) -> list[str]:
    return [source.info(index).key for index in range(len(source))]


def test_videos_in_the_order_of_their_paths(tmp_path: Path) -> None:
    put(tmp_path / "b.mp4", tmp_path / "c/a.MP4", tmp_path / "a.mkv", tmp_path / ".hidden.mp4", tmp_path / ".git/d.mp4")
    (tmp_path / "notes.txt").write_text("no video")
    source = FolderSource(tmp_path)
    assert keys(source) == ["a.mkv", "b.mp4", "c/a.MP4"]
    info = source.info(2)
    assert (info.frames, info.fps, info.height, info.width, info.labels) == (8, 8.0, 32, 48, {})
    assert info.origin == str(tmp_path / "c/a.MP4")
    assert source.read(2) == VIDEO
    assert pickle.loads(pickle.dumps(source)).read(0) == VIDEO
    with pytest.raises(KeyError):
        source.extra(0, "masks.npz")


def test_labels_are_the_sub_folders_if_all_have_one(tmp_path: Path) -> None:
    put(tmp_path / "cats/x/1.mp4", tmp_path / "cats/2.mp4", tmp_path / "dogs/3.mp4")
    source = FolderSource(tmp_path)
    assert [source.info(index).labels["label"] for index in range(3)] == ["cats", "cats", "dogs"]
    put(tmp_path / "4.mp4")
    assert [FolderSource(tmp_path).info(index).labels for index in range(4)] == [{}] * 4


def test_links_are_followed_and_circles_end(tmp_path: Path) -> None:
    put(tmp_path / "real/a.mp4", tmp_path / "data/b.mp4")
    (tmp_path / "data/more").symlink_to(tmp_path / "real")
    (tmp_path / "data/one.mp4").symlink_to(tmp_path / "real/a.mp4")
    (tmp_path / "real/circle").symlink_to(tmp_path / "data")
    assert [file.name for file in find_videos(tmp_path / "data")] == ["b.mp4", "a.mp4", "one.mp4"]


def test_what_cannot_be_read_is_left_out_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path / "a.mp4")
    (tmp_path / "broken.mp4").write_bytes(VIDEO[: len(VIDEO) // 2])
    (tmp_path / "dangling.mp4").symlink_to(tmp_path / "nowhere")
    (tmp_path / "empty.mp4").touch()
    with caplog.at_level(logging.WARNING):
        source = FolderSource(tmp_path)
    assert keys(source) == ["a.mp4"]
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 4
    assert all(name in line for name, line in zip(("broken", "dangling", "empty"), lines, strict=False))
    assert lines[3].startswith("3 of 4 videos")


def test_nothing_readable_names_the_first_file_and_why(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"junk" * 100)
    (tmp_path / "b.mp4").touch()
    with pytest.raises(DataError, match=r"none of the 2 videos .* the first: .*a\.mp4: no video that FFmpeg can read"):
        FolderSource(tmp_path)
    with pytest.raises(DataError, match=r"b\.mp4: the file is empty"):
        FolderSource(tmp_path / "b.mp4")


def test_a_named_file_is_tried_whatever_its_ending(tmp_path: Path) -> None:
    put(tmp_path / "recording")
    assert keys(FolderSource(tmp_path / "recording")) == ["recording"]
    with pytest.raises(DataError, match=r"no videos in .* \(1 other files, such as recording\)"):
        FolderSource(tmp_path)


def test_names_that_are_no_text(tmp_path: Path) -> None:
    put(Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9 1:2.mp4")))
    source = FolderSource(tmp_path)
    assert keys(source) == [r"caf\udce9 1:2.mp4"]
    assert source.read(0) == VIDEO


def test_keys_are_distinct(tmp_path: Path) -> None:
    names = [b"a\xfe.mp4", b"a\xff.mp4", b"a\\udcff.mp4", b"a\\n.mp4", b"a\n.mp4", b"a\x85.mp4", "a\x85.mp4".encode()]
    for name in names:
        put(Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)))
    found = keys(FolderSource(tmp_path))
    assert len(set(found)) == len(names)
    assert all(key.isprintable() for key in found)


def test_a_change_is_noticed(tmp_path: Path) -> None:
    put(tmp_path / "a.mp4", tmp_path / "b.mp4")
    source = FolderSource(tmp_path)
    assert FolderSource(tmp_path).fingerprint == source.fingerprint
    (tmp_path / "a.mp4").write_bytes(VIDEO + b"more")
    (tmp_path / "b.mp4").unlink()
    with pytest.raises(DataError, match=r"a\.mp4 changed while it was in use"):
        source.read(0)
    with pytest.raises(DataError, match=r"b\.mp4: No such file"):
        source.read(1)
    assert FolderSource(tmp_path).fingerprint != source.fingerprint
