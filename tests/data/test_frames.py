import logging
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from jepa.data.decode import decode
from jepa.data.frame_file import DamagedFileError, FrameFile, write_frame_file
from jepa.data.frames import Frames, decoded_bytes, default_cache, stored_side
from jepa.data.source import Source, open_source
from jepa.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def source(video_folder: Path) -> Source:
    return open_source(video_folder)


@pytest.fixture(scope="module")
def cache(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a decoded copy at short side 32."""
    folder = tmp_path_factory.mktemp("cache")
    assert Frames(source, short_side=32, budget_gb=1, cache=folder).cached
    return folder


def expected(source: Source, index: int, frame_ids: list[int]) -> np.ndarray:
    return decode(source.read(index), frame_ids, short_side=32)


@pytest.mark.parametrize("budget_gb", [1.0, 0.0])
def test_frames_are_those_of_the_decoder(source: Source, cache: Path, budget_gb: float) -> None:
    frames = Frames(source, short_side=32, budget_gb=budget_gb, cache=cache)
    assert frames.cached is (budget_gb > 0)
    for index in range(len(source)):
        for ids in ([0, 2, 4, 6], [5], [7, 7, 3], [1, 1, 1], [6, 4, 2]):
            window = frames.window(index, ids)
            assert window.dtype == np.uint8
            assert min(window.shape[1:3]) == 32
            assert (window == expected(source, index, ids)).all()


def test_a_second_run_reads_the_copy_without_decoding(
    source: Source, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("jepa.data.frames.decode", None)
    with caplog.at_level(logging.INFO, "jepa"):
        frames = Frames(source, short_side=32, budget_gb=1, cache=cache)
    assert frames.window(3, [0, 1]).shape[0] == 2
    assert "frames from" in caplog.text


def test_pickles_without_the_pixels(source: Source, cache: Path) -> None:
    frames = Frames(source, short_side=32, budget_gb=1, cache=cache)
    data = pickle.dumps(frames)
    assert len(data) < 10_000
    copy = pickle.loads(data)
    assert (copy.window(2, [3, 4]) == frames.window(2, [3, 4])).all()
    frames.path.rename(frames.path.with_suffix(".gone"))
    try:
        with pytest.raises(DataError, match="changed during the run"):
            pickle.loads(data).window(0, [0])
    finally:
        frames.path.with_suffix(".gone").rename(frames.path)


def test_over_budget_decodes_on_demand_and_says_so(
    source: Source, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # 40 x 44 becomes 32 x 35 (8, 10 .. 18 frames), 60 x 40 becomes 48 x 32 (9, 11 .. 19 frames).
    size = (78 * 32 * 35 + 84 * 48 * 32) * 3
    assert decoded_bytes(source, 32, size) == size
    assert decoded_bytes(source, 32, size - 1) is None
    with caplog.at_level(logging.INFO, "jepa"):
        frames = Frames(source, short_side=32, budget_gb=(size - 1) / 1e9, cache=tmp_path)
    assert not frames.cached
    assert not list(tmp_path.iterdir())
    assert caplog.messages == [
        f"{source.name}: decoding on demand, its frames exceed loader.cache_gb {(size - 1) / 1e9:g}"
    ]


def test_no_copy_where_none_is_asked_for(source: Source, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "jepa"):
        assert not Frames(source, short_side=32, budget_gb=0, cache=tmp_path).cached
    assert caplog.messages == []
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["cut", "empty", "magic", "table"])
def test_a_damaged_copy_is_made_again_with_a_warning(
    source: Source, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    path = Frames(source, short_side=32, budget_gb=1, cache=tmp_path).path
    whole = path.read_bytes()
    place = {"cut": -1, "empty": 0, "magic": 2, "table": 40}[damage]
    damaged = whole[:place]
    if damage in ("magic", "table"):
        damaged += bytes([whole[place] ^ 1]) + whole[place + 1 :]
    path.write_bytes(damaged)
    frames = Frames(source, short_side=32, budget_gb=1, cache=tmp_path)
    assert frames.cached
    assert path.read_bytes() == whole
    assert [record.levelname for record in caplog.records if "again" in record.message] == ["WARNING"]


def test_a_cache_that_cannot_be_written_costs_one_warning(
    source: Source, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    frames = Frames(source, short_side=32, budget_gb=1, cache=tmp_path / "file")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "cannot use the frame cache" in caplog.text
    assert (frames.window(1, [2, 3]) == expected(source, 1, [2, 3])).all()


def test_a_disk_that_fills_up_leaves_nothing_behind(
    source: Source, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("jepa.data.frame_file.os.fsync", full)
    frames = Frames(source, short_side=32, budget_gb=1, cache=tmp_path)
    assert not frames.cached
    assert "No space left on device" in caplog.text
    assert not list(tmp_path.iterdir())


def test_an_undecodable_video_is_a_data_error(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(source), "read", lambda self, index: b"no video")
    with pytest.raises(DataError, match="clip-00"):
        Frames(source, short_side=32, budget_gb=1, cache=tmp_path)
    assert not list(tmp_path.iterdir())


def test_worker_processes_make_the_same_file(
    source: Source, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jepa.data.frames.DECODED_BYTES_PER_WORKER", 1)
    path = Frames(source, short_side=32, budget_gb=1, cache=tmp_path, workers=2).path
    assert path.read_bytes() == (cache / path.name).read_bytes()


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path, videos = tmp_path / "x.frames", [np.full((2, 4, 5, 3), n, np.uint8) for n in range(3)]
    meeting = threading.Barrier(2, timeout=10)

    def slowly() -> Iterator[np.ndarray]:
        for video in videos:
            meeting.wait()
            yield video

    writers = [threading.Thread(target=write_frame_file, args=(path, slowly(), 3)) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.frames"]
    file = FrameFile(path, 3)
    assert all((file.video(n) == videos[n]).all() for n in range(3))
    with pytest.raises(DamagedFileError, match="3 videos, expected 4"):
        FrameFile(path, 4)


def test_settings(source: Source, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cache_gb is -1"):
        Frames(source, short_side=32, budget_gb=-1)
    assert (stored_side(32), stored_side(224)) == (40, 280)
    monkeypatch.setenv("JEPA_CACHE", str(tmp_path))
    assert default_cache() == tmp_path
    monkeypatch.delenv("JEPA_CACHE")
    assert default_cache().parts[-2:] == (".cache", "jepa")
