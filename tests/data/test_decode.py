"""Frame identity: every frame shows its number, so a wrong one cannot go unnoticed."""

import io
import os
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.stream import VideoStream

from jepa.data.decode import Backend, backends, decode, probe, scaled_size, unsafe_for_decord
from jepa.data.timeline import scan
from jepa.data.video_file import iterate
from jepa.errors import DataError

os.environ.setdefault("SVT_LOG", "1")  # errors only

FRAMES, HEIGHT, WIDTH = 40, 48, 64
BITS = 6


def usable_backends() -> list[Backend]:
    return ["auto", *(name for name, version in backends().items() if version is not None)]


def attempt(video: bytes, wanted: list[int], backend: Backend) -> tuple[np.ndarray | None, str]:
    """The frames, or why the backend refuses."""
    try:
        return decode(video, wanted, backend=backend), ""
    except DataError as error:
        return None, str(error)


needs_decord = pytest.mark.skipif(backends()["decord"] is None, reason="decord is not installed")


def numbered(count: int = FRAMES) -> np.ndarray:
    """(T, H, W, 3) frames that show their number as a row of bright and dark squares, on a moving ground."""
    ground = np.random.default_rng(0).integers(90, 150, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    frames = np.stack([np.roll(ground, 3 * number, axis=1) for number in range(count)])
    for number, frame in enumerate(frames):
        for bit in range(BITS):
            frame[16:32, 8 * bit : 8 * bit + 8] = 255 * (number >> bit & 1)
    return frames


def number_of(frame_HWC: np.ndarray) -> int:
    return sum(int(frame_HWC[20:28, 8 * bit + 2 : 8 * bit + 6].mean() > 127) << bit for bit in range(BITS))


def make_video(
    codec: str = "libx264",
    container: str = "mp4",
    rate: Fraction = Fraction(30000, 1001),
    pixels: str = "yuv420p",
    times: list[int] | None = None,
    options: dict[str, str] | None = None,
) -> bytes:
    """`times`: timestamps of the frames in units of 1/1000 s."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate, options=options or {})
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = WIDTH, HEIGHT, pixels, 12
        stream.bit_rate = 0 if codec == "libsvtav1" else 2_000_000
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number, array in enumerate(numbered()):
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()


QUIET = "log-level=none:keyint=12"
LOOKAHEAD = {"deadline": "good", "cpu-used": "5", "auto-alt-ref": "1", "lag-in-frames": "16"}
UNSTEADY = [number * 20 if number < 20 else 400 + (number - 20) * 100 for number in range(FRAMES)]
KINDS = {
    "h264 mp4, B-frames": {},
    "h264 mkv": {"container": "matroska"},
    "h264 open groups": {"options": {"x264-params": "open-gop=1:bframes=3"}},
    "h264 avi, no frame times": {"container": "avi"},
    "h264 ts": {"container": "mpegts"},
    "h264 4:4:4": {"pixels": "yuv444p"},
    "mpeg4 mp4": {"codec": "mpeg4"},
    "mpeg4 avi": {"codec": "mpeg4", "container": "avi"},
    "mpeg2 mpg": {"codec": "mpeg2video", "container": "mpeg"},
    "vp8 webm": {"codec": "libvpx", "container": "webm", "options": {"deadline": "realtime", "cpu-used": "8"}},
    "wmv2 asf": {"codec": "wmv2", "container": "asf"},
    "mjpeg avi": {"codec": "mjpeg", "container": "avi", "pixels": "yuvj420p"},
    "mjpeg mov": {"codec": "mjpeg", "container": "mov", "pixels": "yuvj420p"},
    "hevc mp4": {"codec": "libx265", "options": {"x265-params": f"open-gop=0:{QUIET}"}},
    "hevc open groups": {"codec": "libx265", "options": {"x265-params": f"open-gop=1:bframes=3:{QUIET}"}},
    "hevc 10 bit": {"codec": "libx265", "pixels": "yuv420p10le", "options": {"x265-params": QUIET}},
    "h264 10 bit": {"pixels": "yuv420p10le"},
    "h264 mov": {"container": "mov"},
    "h264 flv": {"container": "flv"},
    "h264 full range": {"pixels": "yuvj420p"},
    "vp8 hidden frames": {"codec": "libvpx", "container": "webm", "options": LOOKAHEAD},
    "vp9 webm": {"codec": "libvpx-vp9", "container": "webm", "options": LOOKAHEAD},
    "av1 mp4": {"codec": "libsvtav1", "options": {"preset": "8"}},
    "ffv1 mkv": {"codec": "ffv1", "container": "matroska"},
    "png mov": {"codec": "png", "container": "mov", "pixels": "rgb24"},
    "gif": {"codec": "gif", "container": "gif", "pixels": "rgb8", "rate": Fraction(25)},
    "variable rate mkv": {"container": "matroska", "times": UNSTEADY},
    "variable rate mp4": {"times": UNSTEADY},
}


@pytest.mark.parametrize("kind", KINDS)
def test_random_access_finds_the_very_frame(kind: str) -> None:
    video = make_video(**KINDS[kind])
    info = probe(video)
    assert info.frames == FRAMES
    if not kind.startswith(("variable", "gif")):
        assert info.fps == pytest.approx(30000 / 1001, rel=1e-3)
    assert (info.height, info.width) == (HEIGHT, WIDTH)
    wanted = [FRAMES - 1, 3, 3, 0, 12, 11, 25]
    for backend in ("auto", "pyav"):
        frames_THWC = decode(video, wanted, backend=backend)
        assert frames_THWC.shape == (len(wanted), HEIGHT, WIDTH, 3)
        assert frames_THWC.dtype == np.uint8
        assert [number_of(frame) for frame in frames_THWC] == wanted


COLOUR_BOUND = 24
"""Decoders interpolate the stored colours of more than 8 bits differently; in noise that makes so much of 255."""


@pytest.mark.parametrize("kind", KINDS)
def test_every_backend_returns_the_same_frames_or_refuses(kind: str) -> None:
    video = make_video(**KINDS[kind])
    wanted = [25, 3, 3, 0, FRAMES - 1, 12, 11]
    expected = decode(video, wanted, backend="pyav").astype(int)
    bound = COLOUR_BOUND if "10 bit" in kind else 1 if kind.startswith("mpeg4") else 0
    for backend in usable_backends():
        found, refusal = attempt(video, wanted, backend)
        if found is not None:
            assert [number_of(frame) for frame in found] == wanted
            assert np.abs(found - expected).max() <= bound, backend
        else:
            assert backend in ("decord", "torchcodec"), refusal
            assert "\n" not in refusal


@needs_decord
@pytest.mark.parametrize("kind", ["h264 mp4, B-frames", "h264 mkv", "mpeg4 mp4", "vp8 webm"])
def test_decord_and_pyav_return_the_same_pixels(kind: str) -> None:
    video = make_video(**KINDS[kind])
    assert unsafe_for_decord(scan(video)) is None
    wanted = list(range(0, FRAMES, 3))
    np.testing.assert_array_equal(decode(video, wanted, backend="decord"), decode(video, wanted, backend="pyav"))


@needs_decord
@pytest.mark.parametrize("kind", ["h264 open groups", "h264 avi, no frame times", "h264 ts", "h264 4:4:4", "mpeg4 avi"])
def test_decord_is_refused_what_it_cannot_be_trusted_with(kind: str) -> None:
    video = make_video(**KINDS[kind])
    assert unsafe_for_decord(scan(video))
    with pytest.raises(DataError, match="decord cannot be trusted"):
        decode(video, [0], backend="decord")


def test_variable_rate_is_measured_from_the_timestamps() -> None:
    times = [number * 20 if number < 20 else 400 + (number - 20) * 100 for number in range(FRAMES)]
    info = probe(make_video(times=times, container="matroska"))
    assert info.fps == pytest.approx((FRAMES - 1) / (times[-1] / 1000), rel=0.02)
    assert info.duration == pytest.approx(FRAMES / info.fps)


def test_keyframes_are_where_decoding_can_start() -> None:
    assert probe(make_video(options={"x264-params": "scenecut=0"})).keyframes == (0, 12, 24, 36)


def with_header_count(video: bytes, count: int) -> bytes:
    """The avi file with another frame count in its main header and in that of its stream."""
    data = bytearray(video)
    main, stream = data.index(b"avih") + 8 + 16, data.index(b"strh") + 8 + 32
    data[main : main + 4] = data[stream : stream + 4] = struct.pack("<I", count)
    return bytes(data)


@pytest.mark.parametrize("count", [444, 3, 2**32 - 1])
def test_frames_are_counted_whatever_the_header_says(count: int) -> None:
    video = with_header_count(make_video("mpeg4", "avi"), count)
    assert probe(video).frames == FRAMES
    assert number_of(decode(video, [FRAMES - 1])[0]) == FRAMES - 1
    with pytest.raises(DataError, match=r"asked for frames 0\.\.40 of a video of 40 frames"):
        decode(video, [0, FRAMES])


def turned(video: bytes, a: int, b: int, c: int, d: int) -> bytes:
    """The mp4 file with a display matrix: (x, y) is shown at (a x + c y, b x + d y)."""
    data = bytearray(video)
    start = data.index(b"tkhd") + 4 + 4 + 20 + 16
    one = 1 << 16
    data[start : start + 36] = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    return bytes(data)


TURNS = {
    "upright": ((1, 0, 0, 1), lambda frame: frame),
    "90 clockwise": ((0, 1, -1, 0), lambda frame: np.rot90(frame, -1)),
    "180": ((-1, 0, 0, -1), lambda frame: np.rot90(frame, 2)),
    "270 clockwise": ((0, -1, 1, 0), lambda frame: np.rot90(frame, 1)),
    "mirrored": ((-1, 0, 0, 1), lambda frame: frame[:, ::-1]),
    "upside down": ((1, 0, 0, -1), lambda frame: frame[::-1]),
    "transposed": ((0, 1, 1, 0), lambda frame: frame.transpose(1, 0, 2)),
    "other diagonal": ((0, -1, -1, 0), lambda frame: np.rot90(frame.transpose(1, 0, 2), 2)),
    "no matrix": ((0, 0, 0, 0), lambda frame: frame),
}


@pytest.mark.parametrize("turn", TURNS)
def test_frames_are_upright_with_every_backend_or_it_refuses(turn: str) -> None:
    matrix, shown = TURNS[turn]
    video = turned(make_video(), *matrix)
    expected = shown(decode(make_video(), [5], backend="pyav")[0])
    info = probe(video)
    assert (info.height, info.width) == expected.shape[:2]
    for backend in usable_backends():
        found, refusal = attempt(video, [5], backend)
        if found is not None:
            np.testing.assert_array_equal(found[0], expected, err_msg=backend)
        else:
            assert backend in ("decord", "torchcodec"), refusal
            assert "cannot be trusted with it" in refusal


@pytest.mark.parametrize("trimmed", [10, 26])
def test_frames_that_an_edit_list_trims_do_not_count(trimmed: int) -> None:
    data = bytearray(make_video(options={"x264-params": "bframes=0"}))
    place = data.index(b"elst") + 16  # where the first frame that is shown begins, in ticks
    pts = scan(bytes(data)).pts
    assert pts is not None
    data[place : place + 4] = struct.pack(">i", trimmed * pts[1])
    info = probe(bytes(data))
    assert (info.frames, info.announced) == (FRAMES - trimmed, FRAMES - trimmed)
    assert [number_of(frame) for frame in decode(bytes(data), [0, 7, 13])] == [trimmed, trimmed + 7, trimmed + 13]


def test_hidden_vp8_frames_do_not_count() -> None:
    video = make_video(**KINDS["vp8 webm"])
    with av.open(io.BytesIO(video)) as container:
        packet = next(packet for packet in container.demux(video=0) if packet.pts and packet.pts > 500)
        tag = bytes(packet)[:12]
    data = bytearray(video)
    data[data.index(tag)] &= ~0x10  # "show frame"
    hidden = bytes(data)
    assert probe(hidden).frames == FRAMES - 1
    shown = [number_of(frame.to_ndarray(format="rgb24")) for frame in iterate(hidden)]
    assert [number_of(frame) for frame in decode(hidden, range(FRAMES - 1))] == shown
    assert len(set(shown)) == FRAMES - 1


def test_short_side_shrinks_and_never_enlarges() -> None:
    video = make_video()
    small = decode(video, [7, 8], short_side=24)
    assert small.shape == (2, 24, 32, 3)
    blocks = decode(video, [7, 8]).reshape(2, 24, 2, 32, 2, 3).mean(axis=(2, 4))  # what area averaging is
    assert np.abs(small - blocks).max() <= 1
    assert decode(video, [7], short_side=100).shape == (1, HEIGHT, WIDTH, 3)
    assert scaled_size(720, 1280, 256) == (256, 455)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"not a video" * 50, "no video that FFmpeg can read"),
        (make_video()[:9000], r"the index \(moov\)"),
    ],
)
def test_unusable_files_are_named_in_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], content: bytes, reason: str
) -> None:
    file = tmp_path / "12:30 100%d.mp4"  # FFmpeg would take this for a protocol, or a pattern
    file.write_bytes(content)
    with pytest.raises(DataError, match=reason) as caught:
        probe(file)
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="sample 17: "):
        decode(content, [0], name="sample 17")
    assert capfd.readouterr() == ("", "")


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.mp4: No such file"):
        probe(tmp_path / "nothing.mp4")
    with pytest.raises(DataError, match="Is a directory"):
        probe(tmp_path)


def test_sound_is_no_video() -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="wav") as output:
        stream = output.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        output.mux(stream.encode(sound))
        output.mux(stream.encode(None))
    with pytest.raises(DataError, match="no video stream"):
        probe(file.getvalue())


def test_a_playlist_opens_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "private.ts").write_bytes(make_video(container="mpegts"))
    playlist = tmp_path / "playlist.m3u8"
    playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{tmp_path / 'private.ts'}\n#EXT-X-ENDLIST\n")
    with pytest.raises(DataError):
        probe(playlist)


def test_a_cut_file_counts_what_is_left(tmp_path: Path) -> None:
    file = tmp_path / "front.mp4"
    with (
        av.open(io.BytesIO(make_video())) as source,
        av.open(str(file), "w", options={"movflags": "+faststart"}) as output,
    ):
        stream = output.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                output.mux(packet)
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
    info = probe(file)
    assert info.announced == FRAMES
    assert 0 < info.frames < FRAMES
    last = decode(file, [info.frames - 1])[0]
    assert number_of(last) <= FRAMES - 1
    with pytest.raises(DataError, match="asked for frames"):
        decode(file, [FRAMES - 1])
