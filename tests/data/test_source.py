"""What a path means: shards, splits, a folder of videos, one video, or an error that says why."""

from pathlib import Path

import numpy as np
import pytest

from jepa.data.folder import FolderSource
from jepa.data.shard_writer import ShardWriter
from jepa.data.shards import ShardSource
from jepa.data.source import has_split, open_source, printable, split_folders
from jepa.data.synthetic.video import encode_h264
from jepa.data.timeline import probe
from jepa.errors import DataError

VIDEO = encode_h264(np.zeros((8, 32, 32, 3), np.uint8), 8)


def put(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(VIDEO)


def put_shards(folder: Path, count: int) -> None:
    with ShardWriter(folder, name=folder.name) as writer:
        for number in range(count):
            writer.write(f"{number}", VIDEO, probe(VIDEO), {})


def test_shards_with_splits(tmp_path: Path) -> None:
    put_shards(tmp_path / "train", 2)
    put_shards(tmp_path / "test", 1)
    assert [len(open_source(tmp_path, split)) for split in ("train", "test")] == [2, 1]
    assert has_split(tmp_path, "test")
    assert not has_split(tmp_path, "val")
    with pytest.raises(DataError, match="holds test, train but no val"):
        open_source(tmp_path, "val")
    with pytest.raises(DataError, match="name one of them"):
        open_source(tmp_path, None)
    assert isinstance(open_source(str(tmp_path / "train")), ShardSource)


def test_without_splits_the_folder_itself_is_opened(tmp_path: Path) -> None:
    put_shards(tmp_path / "shards", 3)
    put(tmp_path / "videos/a.mp4", tmp_path / "videos/b.mp4")
    for split in ("train", "test", None):
        assert len(open_source(tmp_path / "shards", split)) == 3
        assert len(open_source(tmp_path / "videos", split)) == 2
    assert not has_split(tmp_path / "shards", "train")
    assert len(open_source(tmp_path / "videos/a.mp4")) == 1


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    put(tmp_path / "train/a.mp4", tmp_path / "boat/b.mp4")
    assert not has_split(tmp_path, "train")
    source = open_source(tmp_path)
    assert isinstance(source, FolderSource)
    assert [source.info(index).labels for index in range(2)] == [{"label": "boat"}, {"label": "train"}]


def test_folders_of_videos_as_splits(tmp_path: Path) -> None:
    put(tmp_path / "train/cats/a.mp4", tmp_path / "train/dogs/b.mp4", tmp_path / "test/cats/c.mp4")
    assert open_source(tmp_path, "test").info(0).labels == {"label": "cats"}
    assert len(open_source(tmp_path, "train")) == 2


def test_sub_folders_without_videos_do_not_count(tmp_path: Path) -> None:
    put(tmp_path / "train/left/a.mp4", tmp_path / "train/right/b.mp4", tmp_path / "test/left/c.mp4")
    (tmp_path / "notes/more").mkdir(parents=True)
    (tmp_path / "notes/more/readme.txt").write_text("no video")
    (tmp_path / "val").mkdir()
    assert sorted(split_folders(tmp_path)) == ["test", "train"]
    source = open_source(tmp_path, "train")
    assert [source.info(index).labels["label"] for index in range(2)] == ["left", "right"]
    assert len(open_source(tmp_path, "test")) == 1


def test_splits_beside_other_videos_are_refused(tmp_path: Path) -> None:
    put(tmp_path / "train/a.mp4", tmp_path / "test/b.mp4", tmp_path / "extra/deep/c.mp4")
    (tmp_path / "notes").mkdir()
    with pytest.raises(DataError, match=r"holds test, train beside extra: if .* move the others .* rename"):
        open_source(tmp_path)


def test_shards_as_splits_may_stand_beside_other_folders(tmp_path: Path) -> None:
    put_shards(tmp_path / "train", 1)
    put(tmp_path / "raw/a.mp4")
    assert sorted(split_folders(tmp_path)) == ["train"]
    put_shards(tmp_path / "test", 1)
    assert sorted(split_folders(tmp_path)) == ["test", "train"]


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such file or folder: .*nowhere"):
        open_source(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no videos in"):
        open_source(tmp_path)


def test_tars_without_a_manifest_are_not_taken_for_a_data_set(tmp_path: Path) -> None:
    put_shards(tmp_path, 1)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"shard-000000\.tar has no manifest\.json"):
        open_source(tmp_path)


def test_any_path_can_be_printed() -> None:
    assert printable(b"caf\xe9\n.mp4".decode("utf-8", "surrogateescape")) == "caf\ufffd\\n.mp4"
    assert printable(Path("a b/ü.mp4")) == "a b/ü.mp4"
