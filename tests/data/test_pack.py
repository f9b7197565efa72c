"""What becomes of a video that is packed."""

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.stream import VideoStream

from jepa.data.decode import decode
from jepa.data.pack import PackConfig, Packed, Unreadable, pack_video, try_pack
from jepa.data.timeline import iterate, probe, scan
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
    paths = [good, tmp_path / "missing.mp4"]
    assert isinstance(try_pack(paths, QUICK, 0), Packed)
    assert try_pack(paths, QUICK, 1) == Unreadable("No such file or directory")


@pytest.mark.parametrize("options", [{"short_side": 8}, {"keyframe_interval": 0}, {"crf": 52}, {"preset": "placebo"}])
def test_settings_are_checked(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=rf"{next(iter(options))} is .*, expected"):
        PackConfig(**options)
