"""Videos too short for a clip are found before a run, without a look at rows that cannot be short."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepa.data.fit import _surely_fits, require_fit
from jepa.data.index import ShardEntry
from jepa.data.shard_writer import ShardWriter
from jepa.data.shards import ShardSource
from jepa.data.source import SampleInfo
from jepa.data.timeline import VideoInfo
from jepa.data.windows import WindowConfig, centre_window
from jepa.errors import DataError

INFO = VideoInfo(frames=16, fps=12.5, height=40, width=48, duration=1.28, codec="h264", keyframes=(0, 8))


class Videos:
    """A source of videos of these lengths."""

    name = fingerprint = "videos"

    def __init__(self, frames: Sequence[int]) -> None:
        self.infos = [SampleInfo("cat", count, 10.0, 40, 40, {}, "") for count in frames]
        self.runs: tuple[int, ...] = (len(frames),)

    def __len__(self) -> int:
        return len(self.infos)

    def info(self, index: int) -> SampleInfo:
        return self.infos[index]

    def read(self, index: int) -> bytes:
        raise AssertionError("nothing is read")

    def place(self, index: int) -> str:
        raise AssertionError("nothing is read")

    def extra(self, index: int, name: str) -> bytes:
        raise AssertionError("nothing is read")


def test_short_videos_are_found_before_a_run() -> None:
    config = WindowConfig(frames=4, stride=3)  # spans 10 frames
    require_fit(Videos((10, 11, 300)), config)
    require_fit(Videos((10, 9)), replace(config, short="repeat"))
    with pytest.raises(DataError, match=r"^video cat has 9 frames, a clip .* needs 10"):
        require_fit(Videos((10, 9, 20)), config)
    with pytest.raises(DataError, match=r"^2 of 3 videos give no clip; the first: video cat has 8 frames"):
        require_fit(Videos((10, 8, 9)), config)


def test_only_rows_of_doubtful_shards_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ShardWriter(tmp_path, name="x", samples_per_shard=2) as writer:
        for number, frames in enumerate((16, 16, 16, 9, 8, 16)):
            writer.write(f"{number}", b"video", replace(INFO, frames=frames), {})
    source, asked = ShardSource(tmp_path), list[int]()
    info = source.info
    monkeypatch.setattr(source, "info", lambda index: (asked.append(index), info(index))[1])
    with pytest.raises(DataError, match=r"^2 of 6 videos give no clip; the first: video 3 has 9 frames"):
        require_fit(source, WindowConfig(frames=4, stride=3))
    assert asked == [2, 3, 4, 5]
    asked.clear()
    require_fit(source, WindowConfig(frames=4, stride=2))
    assert asked == []


@given(
    st.lists(st.tuples(st.integers(1, 60), st.floats(0, 60)), min_size=1, max_size=5),
    st.integers(1, 8),
    st.one_of(st.none(), st.floats(0.5, 60)),
    st.integers(1, 8),
)
def test_sums_never_hide_a_short_video(
    videos: list[tuple[int, float]], frames: int, fps: float | None, stride: int
) -> None:
    infos = [SampleInfo("cat", count, rate, 40, 40, {}, "") for count, rate in videos]
    counts, rates = zip(*videos, strict=True)
    entry = ShardEntry(
        "a.tar", len(infos), 0, "a.arrow", 0, "", "", sum(counts), min(counts), max(rates), min(rates), 0.0
    )
    window = WindowConfig(frames, stride, fps)
    if _surely_fits(entry, window):
        for info in infos:
            centre_window(info, window)  # raises if none fits
