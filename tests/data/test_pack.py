"""What becomes of a video that is packed."""

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.container import InputContainer
from av.video.stream import VideoStream
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jepa.data.decode import decode
from jepa.data.lists import Entry
from jepa.data.pack import PackConfig, Packed, Unreadable, pack_entry, pack_video, try_pack
from jepa.data.timeline import probe, scan
from jepa.data.video_file import decoded, iterate
from jepa.errors import ConfigError, DataError

QUICK = PackConfig(preset="ultrafast", crf=10)


def pictures(count: int, height: int, width: int) -> np.ndarray:
    """Smooth pictures (so that little is lost) with a bright bar that moves."""
    rows, columns = np.mgrid[:height, :width]
    ground = np.stack([rows * 200 // height, columns * 200 // width, 0 * rows + 60], axis=-1).astype(np.uint8)
    frames = np.stack([ground] * count)
    for number, frame in enumerate(frames):
        left = number * width // (count + 1)
        frame[:, left : left + width // 8] = 255
    return frames


def write(
    path: Path,
    frames: np.ndarray,
    *,
    codec: str = "mpeg4",
    rate: Fraction = Fraction(24),
    times: list[int] | None = None,
    pixels: str = "yuv420p",
    sound: bool = False,
    options: dict[str, str] | None = None,
) -> Path:
    with av.open(str(path), "w", options=options or {}) as output:
        stream = output.add_stream(codec, rate=rate)
        assert isinstance(stream, VideoStream)
        stream.height, stream.width, stream.pix_fmt, stream.bit_rate = *frames.shape[1:3], pixels, 8_000_000
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        audio = output.add_stream("aac", rate=8000, layout="mono") if sound else None
        for number, array in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
        if audio is not None:
            wave = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
            wave.sample_rate = 8000
            output.mux(audio.encode(wave))
            output.mux(audio.encode(None))
    return path


def streams_of(video: bytes) -> list[str]:
    with av.open(io.BytesIO(video)) as container:
        return [stream.type for stream in container.streams]


def test_a_video_becomes_small_and_quick_to_decode(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", pictures(50, 96, 160), rate=Fraction(30000, 1001), sound=True)
    packed = pack_video(path, PackConfig(short_side=48, keyframe_interval=10, preset="ultrafast", crf=5))
    info = packed.info
    assert (info.codec, info.frames, info.height, info.width) == ("h264", 50, 48, 80)
    assert info.fps == pytest.approx(30000 / 1001, abs=1e-6)
    assert np.diff([*info.keyframes, 50]).max() <= 10
    assert probe(packed.video) == info
    assert streams_of(packed.video) == ["video"]
    assert scan(packed.video).pixels == "yuv420p"
    expected = decode(path, [0, 20, 49], short_side=48).astype(int)
    assert np.abs(decode(packed.video, [0, 20, 49]) - expected).mean() < 4


@pytest.mark.parametrize(("height", "width"), [(40, 64), (41, 63)])
def test_small_videos_are_not_enlarged_and_sizes_are_even(tmp_path: Path, height: int, width: int) -> None:
    path = write(tmp_path / "a.mp4", pictures(3, height, width), codec="libx264", pixels="yuv444p")
    packed = pack_video(path, QUICK)
    assert (packed.info.height, packed.info.width) == (40, width // 2 * 2)
    cropped = decode(path, [1])[:, :40, : width // 2 * 2].astype(int)
    assert np.abs(decode(packed.video, [1]) - cropped).mean() < 4


def test_a_variable_rate_stays(tmp_path: Path) -> None:
    times = [0, 40, 80, 120, 500, 540, 580, 620, 1000, 1700]
    path = write(tmp_path / "a.mkv", pictures(10, 32, 48), times=times)
    seconds = [float(frame.time) for frame in iterate(pack_video(path, QUICK).video)]
    np.testing.assert_allclose(np.array(seconds) - seconds[0], np.array(times) / 1000, atol=2e-3)


def test_packing_is_reproducible(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", pictures(8, 32, 48))
    assert pack_video(path, QUICK).video == pack_video(path, QUICK).video


HASH = """
import hashlib, pathlib, sys
from jepa.data.pack import PackConfig, pack_video
print(hashlib.sha256(pack_video(pathlib.Path(sys.argv[1]), PackConfig(preset="slow")).video).hexdigest())
"""


@pytest.mark.slow
def test_packing_does_not_depend_on_what_lies_in_memory(tmp_path: Path) -> None:
    """With AVX-512, x264 reads memory that it has not written; the C library can fill it with anything."""
    path = write(tmp_path / "a.mp4", pictures(40, 128, 160))
    hashes = {
        subprocess.run(
            [sys.executable, "-c", HASH, str(path)],
            env={**os.environ, "MALLOC_PERTURB_": fill},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for fill in ("0", "85", "170")
    }
    assert len(hashes) == 1


def test_copy_keeps_the_bytes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.avi", pictures(8, 32, 48))
    packed = pack_video(path, PackConfig(copy=True))
    assert packed.video == path.read_bytes()
    assert (packed.info.extension, packed.info.codec, packed.info.frames) == ("avi", "mpeg4", 8)
    renamed = path.rename(tmp_path / "no ending")
    assert pack_video(renamed, PackConfig(copy=True)).info.extension == "avi"


def cut(path: Path, share: float) -> Path:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


@pytest.mark.parametrize("copy", [False, True])
def test_half_a_video_is_refused(tmp_path: Path, copy: bool) -> None:
    config = PackConfig(copy=copy, preset="ultrafast")
    path = write(tmp_path / "front.mp4", pictures(40, 32, 48), options={"movflags": "+faststart"})
    with pytest.raises(DataError, match=r"front\.mp4: cut off or damaged, only \d+ of 40 frames"):
        pack_video(cut(path, 0.6), config)
    path = write(tmp_path / "back.mp4", pictures(40, 32, 48))
    with pytest.raises(DataError, match=r"back\.mp4: the index \(moov\)"):
        pack_video(cut(path, 0.6), config)


def test_a_video_that_lacks_its_last_frames_is_packed_without_them(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", pictures(40, 32, 48), options={"movflags": "+faststart"})
    packed = pack_video(cut(path, 0.98), QUICK)
    assert 36 <= packed.info.frames < 40


def test_failures_come_back_as_values(tmp_path: Path) -> None:
    good = write(tmp_path / "a.mp4", pictures(4, 32, 48))
    entries = [Entry(good, "a"), Entry(tmp_path / "missing.mp4", "b"), Entry(tmp_path / "none", "c", frame_rate=12.0)]
    assert isinstance(try_pack(entries, QUICK, 0), Packed)
    assert try_pack(entries, QUICK, 1) == Unreadable("No such file or directory")
    assert try_pack(entries, QUICK, 2) == Unreadable("No such file or directory")


def counted(count: int, height: int = 32, width: int = 160) -> np.ndarray:
    """Pictures that say their number: 8 fields, each a binary digit."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    for number, frame in enumerate(frames):
        for digit in range(8):
            frame[:, digit * width // 8 : (digit + 1) * width // 8] = 220 * (number >> digit & 1) + 16
    return frames


def numbers(video: bytes, count: int) -> list[int]:
    """The numbers that the frames of a packed video of `counted` pictures say."""
    frames_THWC = decode(video, range(count))
    fields = frames_THWC.reshape(count, frames_THWC.shape[1], 8, -1, 3).mean(axis=(1, 3, 4)) > 128
    return (fields @ (1 << np.arange(8))).tolist()


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {}),  # B-frames, one keyframe
        ("a.mkv", "libx264", {}),  # timestamps in milliseconds
        ("a.webm", "libvpx-vp9", {}),
        ("a.avi", "mpeg4", {}),
        ("a.mp4", "mpeg4", {"movflags": "+faststart"}),
    ],
)
@pytest.mark.parametrize(
    ("segment", "first", "last"),
    [((0.0, 1.0), 0, 24), ((2.0, 3.53), 50, 87), ((3.19, 3.43), 80, 85), ((3.0, 4.06), 75, 99)],
)
def test_a_segment_holds_the_very_frames_of_its_seconds(
    tmp_path: Path,
    name: str,
    codec: str,
    options: dict[str, str],
    segment: tuple[float, float],
    first: int,
    last: int,
) -> None:
    path = write(tmp_path / name, counted(100), codec=codec, rate=Fraction(25), options=options)
    packed = pack_entry(Entry(path, "a", segment=segment), QUICK)
    assert numbers(packed.video, packed.info.frames) == list(range(first, last + 1))
    assert packed.info.fps == 25


def test_a_segment_of_a_film_with_many_keyframes_and_a_variable_rate(tmp_path: Path) -> None:
    times = [40 * number + (20 if number % 2 else 0) + (400 if number > 60 else 0) for number in range(100)]
    path = write(tmp_path / "a.mkv", counted(100), times=times)  # mpeg4: a keyframe every 12
    packed = pack_entry(Entry(path, "a", segment=(2.03, 4.05)), QUICK)
    assert numbers(packed.video, packed.info.frames) == list(range(51, 91))
    seconds = np.array([float(frame.time) for frame in iterate(packed.video)])
    np.testing.assert_allclose(seconds - seconds[0], (np.array(times[51:91]) - times[51]) / 1000, atol=2e-3)


@given(st.lists(st.integers(1, 38), min_size=1, max_size=4, unique=True))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_segments_that_follow_each_other_share_no_frame_and_lose_none(tmp_path: Path, tenths: list[int]) -> None:
    path = tmp_path / "a.mp4"
    if not path.exists():
        write(path, counted(100), codec="libx264", rate=Fraction(25))
    ends = [0.0, *(tenth / 10 for tenth in sorted(tenths)), 4.0]
    found: list[int] = []
    for segment in pairwise(ends):
        packed = pack_entry(Entry(path, "a", segment=segment), QUICK)
        found += numbers(packed.video, packed.info.frames)
    assert found == list(range(100))


def test_a_segment_is_found_without_decoding_the_film(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.mp4", counted(100), rate=Fraction(25))  # a keyframe every 12
    seen: list[int | None] = []

    def watched(container: InputContainer, stream: VideoStream) -> Iterator[av.VideoFrame]:
        for frame in decoded(container, stream):
            seen.append(frame.pts)
            yield frame

    monkeypatch.setattr("jepa.data.pack.decoded", watched)
    packed = pack_entry(Entry(path, "a", segment=(3.5, 3.9)), QUICK)
    assert packed.info.frames == 10
    assert len(seen) <= 2 * (10 + 13)


@pytest.mark.parametrize(
    ("segment", "reason"),
    [
        ((3.0, 3.0), "3 to 3 s is no part of a video"),
        ((5.0, 3.0), "5 to 3 s is no part of a video"),
        ((-1.0, 3.0), "-1 to 3 s is no part of a video"),
        ((2.0, 9.0), "cut off or too short, only 2.0 s of 2 to 9 s are in it"),
        ((100.0, 110.0), "cut off or too short, only 0.0 s of 100 to 110 s are in it"),
    ],
)
def test_a_segment_that_is_not_in_the_video(tmp_path: Path, segment: tuple[float, float], reason: str) -> None:
    path = write(tmp_path / "a.mp4", counted(100), rate=Fraction(25))
    assert try_pack([Entry(path, "a", segment=segment)], QUICK, 0) == Unreadable(reason)


def test_a_segment_is_shrunk_like_a_whole_video(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", pictures(30, 96, 160))
    config = PackConfig(short_side=48, preset="ultrafast", crf=5)
    whole, part = pack_video(path, config), pack_entry(Entry(path, "a", segment=(0.5, 1.0)), config)
    assert (part.info.height, part.info.width) == (whole.info.height, whole.info.width) == (48, 80)
    difference = decode(part.video, range(12)).astype(int) - decode(whole.video, range(12, 24)).astype(int)
    assert np.abs(difference).mean() < 2


def test_a_folder_of_pictures_is_a_video(tmp_path: Path) -> None:
    for number, array in enumerate(counted(12)):
        cv2.imwrite(str(tmp_path / f"{number + 1}.jpg"), array)  # 1.jpg, ..., 12.jpg: not in the order of their letters
    (tmp_path / "list.txt").write_text("no picture")
    entry = Entry(tmp_path, "a", frame_rate=12.0)
    packed = pack_entry(entry, QUICK)
    assert (packed.info.frames, packed.info.fps) == (12, 12.0)
    assert numbers(packed.video, 12) == list(range(12))
    (tmp_path / "3.jpg").write_bytes(b"junk")
    with pytest.raises(DataError, match=r"3\.jpg: no picture that can be read"):
        pack_entry(entry, QUICK)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: the folder holds no picture \(jpeg, jpg, png\)"):
        pack_entry(replace(entry, path=tmp_path / "empty"), QUICK)
    with pytest.raises(DataError, match="only whole files can be stored as they are; leave out --copy"):
        pack_entry(entry, PackConfig(copy=True))


@pytest.mark.parametrize("copy", [False, True])
def test_a_picture_is_a_video_of_one_frame(tmp_path: Path, copy: bool) -> None:
    cv2.imwrite(str(tmp_path / "n01440764_18.JPEG"), pictures(1, 40, 64)[0, :, :, ::-1])
    packed = pack_video(tmp_path / "n01440764_18.JPEG", PackConfig(copy=copy))
    assert (packed.info.frames, packed.info.height, packed.info.width) == (1, 40, 64)
    assert np.abs(decode(packed.video, [0]).astype(int) - pictures(1, 40, 64)).mean() < 6


@pytest.mark.parametrize("options", [{"short_side": 8}, {"keyframe_interval": 0}, {"crf": 52}, {"preset": "placebo"}])
def test_settings_are_checked(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=rf"{next(iter(options))} is .*, expected"):
        PackConfig(**options)
